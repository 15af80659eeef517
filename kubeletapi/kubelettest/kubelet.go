// SPDX-License-Identifier: Apache-2.0

package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// SocketName is the name of the kubelet's socket in its directory.
const SocketName = "kubelet.sock"

// Kubelet is the kubelet's end of the device plugin API.
type Kubelet struct {
	dir        string
	onList     func(List)
	onRegister func(context.Context, *pluginapi.RegisterRequest) error
	onClean    func([]string)

	processMu sync.Mutex // held while a process starts or ends
	process   *process   // nil between Stop or Kill and Restart

	mu            sync.Mutex // guards the fields below, which Restart clears
	registrations []*pluginapi.RegisterRequest
	clients       map[string]*client
	lists         map[string]List
	changed       chan struct{} // closed and replaced when clients or lists change
}

// process is one run of the kubelet.
type process struct {
	ctx      context.Context
	cancel   context.CancelFunc
	server   *grpc.Server
	listener *net.UnixListener
	running  sync.WaitGroup // the server, and the clients
}

// Option configures a Kubelet. The functions that options take must not call Restart,
// Stop or Kill, which wait for them.
type Option func(*Kubelet)

// OnList calls f with each list, in the goroutine that has received it.
func OnList(f func(List)) Option { return func(k *Kubelet) { k.onList = f } }

// OnRegister calls f with each registration before anything else. An error of f refuses
// the registration; with [ErrIgnore] the Kubelet accepts it and does nothing more. f may
// block until its context ends, as a kubelet that hangs.
func OnRegister(f func(context.Context, *pluginapi.RegisterRequest) error) Option {
	return func(k *Kubelet) { k.onRegister = f }
}

// ErrIgnore makes a Kubelet accept a registration without connecting to the plugin.
var ErrIgnore = errors.New("registration accepted and ignored")

// OnClean calls f at each start with the names of the files in the directory, before the
// sockets among them are deleted.
func OnClean(f func(names []string)) Option { return func(k *Kubelet) { k.onClean = f } }

// New starts a Kubelet for a test, in a new directory. It stops when the test ends.
func New(t testing.TB, opts ...Option) *Kubelet {
	t.Helper()
	// Not t.TempDir, which has the test's name: the path of a socket is limited to 107
	// bytes (unix(7)).
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k, err := Start(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	return k
}

// Start starts a Kubelet in dir, which must exist.
func Start(dir string, opts ...Option) (*Kubelet, error) {
	k := &Kubelet{dir: dir, changed: make(chan struct{})}
	for _, o := range opts {
		o(k)
	}
	return k, k.Restart()
}

// Dir returns the directory of kubelet.sock and the plugins' sockets.
func (k *Kubelet) Dir() string { return k.dir }

// Socket returns the path of kubelet.sock.
func (k *Kubelet) Socket() string { return filepath.Join(k.dir, SocketName) }

// Restart stops the Kubelet if it runs, and starts it again. It has forgotten all
// registrations and lists then.
func (k *Kubelet) Restart() error {
	k.processMu.Lock()
	defer k.processMu.Unlock()
	k.end(true)
	if err := k.clean(); err != nil {
		return fmt.Errorf("clean %q: %w", k.dir, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: k.Socket()})
	if err != nil {
		return err
	}
	p := &process{listener: listener, server: grpc.NewServer(grpc.WaitForHandlers(true))}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	pluginapi.RegisterRegistrationServer(p.server, &registrationServer{kubelet: k, process: p})
	k.mu.Lock()
	k.registrations, k.clients, k.lists = nil, map[string]*client{}, map[string]List{}
	k.notify()
	k.mu.Unlock()
	k.process = p
	p.running.Go(func() { _ = p.server.Serve(listener) })
	return nil
}

// Stop ends all streams and removes kubelet.sock, as a kubelet does on SIGTERM. When it
// returns, no goroutine of the Kubelet runs. It may be called more than once.
func (k *Kubelet) Stop() {
	k.processMu.Lock()
	defer k.processMu.Unlock()
	k.end(true)
}

// Kill is like Stop, but leaves a kubelet.sock behind that nobody serves, as a kubelet
// does on SIGKILL.
func (k *Kubelet) Kill() {
	k.processMu.Lock()
	defer k.processMu.Unlock()
	k.end(false)
}

// Alive reports whether the Kubelet runs.
func (k *Kubelet) Alive() bool {
	k.processMu.Lock()
	defer k.processMu.Unlock()
	return k.process != nil
}

// Registrations returns the registrations that the Kubelet has received since it last
// started, those it has refused included.
func (k *Kubelet) Registrations() []*pluginapi.RegisterRequest {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.registrations)
}

// end ends the process if there is one. The caller holds processMu.
func (k *Kubelet) end(removeSocket bool) {
	p := k.process
	if p == nil {
		return
	}
	k.process = nil
	p.listener.SetUnlinkOnClose(removeSocket)
	p.cancel()
	p.server.Stop()
	p.running.Wait()
}

// clean deletes the sockets in the directory, as ManagerImpl.CleanupPluginDirectory does.
func (k *Kubelet) clean() error {
	d, err := os.Open(k.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	if k.onClean != nil {
		k.onClean(names)
	}
	var errs []error
	for _, name := range names {
		path := filepath.Join(k.dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
