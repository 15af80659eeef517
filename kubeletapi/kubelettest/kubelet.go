package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// SocketName is the name of the kubelet's socket in its directory.
const SocketName = "kubelet.sock"

// List is the newest list that the kubelet holds of one resource.
type List struct {
	Resource string              // full name: qat.intel.com/cy
	Devices  []*pluginapi.Device // as received; not to be changed
	Time     time.Time           // when it arrived
	Life     int                 // 1 in the kubelet's first life, one more after each Restart
	Seq      int                 // 1 for the first list of the resource in this life
	Live     bool                // the kubelet still has a client for the resource; if not, it holds the devices for unhealthy
}

// Option changes a Kubelet.
type Option func(*Kubelet)

// OnList has f called with each list, on the goroutine that received it.
func OnList(f func(List)) Option { return func(k *Kubelet) { k.onList = f } }

// ErrIgnore is for [OnRegister]: the kubelet says yes, and does nothing.
var ErrIgnore = errors.New("say yes, do nothing")

// OnRegister has f called with each registration before anything else is done with it; an error refuses it. f may wait for its context.
func OnRegister(f func(context.Context, *pluginapi.RegisterRequest) error) Option {
	return func(k *Kubelet) { k.onRegister = f }
}

// OnClean has f called at the start of each life, after the directory was listed and before the sockets of the listing are deleted.
func OnClean(f func(names []string)) Option { return func(k *Kubelet) { k.onClean = f } }

// Kubelet is the kubelet's end.
type Kubelet struct {
	dir        string
	onList     func(List)
	onRegister func(context.Context, *pluginapi.RegisterRequest) error
	onClean    func([]string)

	lifeMu sync.Mutex // held while a life begins or ends
	life   *life      // nil between Stop and Restart
	lives  int

	mu      sync.Mutex
	clients map[string]*client
	lists   map[string]List
	changed chan struct{} // closed and made anew when clients or lists change
}

// life is one life of the kubelet's process.
type life struct {
	number   int
	ctx      context.Context
	cancel   context.CancelFunc
	server   *grpc.Server
	listener *net.UnixListener
	wg       sync.WaitGroup // the server, and the streams
}

// Start begins the kubelet's life in dir, which must exist.
func Start(dir string, opts ...Option) (*Kubelet, error) {
	k := &Kubelet{dir: dir, changed: make(chan struct{})}
	for _, o := range opts {
		o(k)
	}
	return k, k.Restart()
}

// Socket is the path of kubelet.sock.
func (k *Kubelet) Socket() string { return filepath.Join(k.dir, SocketName) }

// Restart ends this life, if there is one (Stop), and begins the next.
func (k *Kubelet) Restart() error {
	k.lifeMu.Lock()
	defer k.lifeMu.Unlock()
	k.end(false)
	if err := k.clean(); err != nil {
		return fmt.Errorf("clean %q: %w", k.dir, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: k.Socket()})
	if err != nil {
		return err
	}
	k.lives++
	l := &life{number: k.lives, listener: listener, server: grpc.NewServer(grpc.WaitForHandlers(true))}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	pluginapi.RegisterRegistrationServer(l.server, &registration{kubelet: k, life: l})
	k.mu.Lock()
	k.clients, k.lists = map[string]*client{}, map[string]List{}
	k.touch()
	k.mu.Unlock()
	k.life = l
	l.wg.Go(func() { _ = l.server.Serve(listener) })
	return nil
}

// Stop ends the kubelet's life: streams die, kubelet.sock is removed. It may be called more than once.
func (k *Kubelet) Stop() {
	k.lifeMu.Lock()
	defer k.lifeMu.Unlock()
	k.end(false)
}

// Kill ends the kubelet's life as SIGKILL does: streams die, and a kubelet.sock that nobody serves stays behind.
func (k *Kubelet) Kill() {
	k.lifeMu.Lock()
	defer k.lifeMu.Unlock()
	k.end(true)
}

// Alive tells whether a life is going on: not between Stop or Kill and the next Restart.
func (k *Kubelet) Alive() bool {
	k.lifeMu.Lock()
	defer k.lifeMu.Unlock()
	return k.life != nil
}

// end ends this life, if there is one; k.lifeMu is held.
func (k *Kubelet) end(leaveSocket bool) {
	l := k.life
	if l == nil {
		return
	}
	k.life = nil
	l.listener.SetUnlinkOnClose(!leaveSocket)
	l.cancel()
	l.server.Stop()
	l.wg.Wait()
}

// clean deletes every socket in the directory, as ManagerImpl.CleanupPluginDirectory does.
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
		if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeSocket == 0 {
			continue
		}
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// List is the newest list of the resource in this life, false when there was none.
func (k *Kubelet) List(resource string) (List, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, ok := k.lists[resource]
	return l, ok
}

// Lists are the newest lists of this life by resource.
func (k *Kubelet) Lists() map[string]List {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.lists)
}

// Wait returns nil as soon as cond holds for the lists; it is asked at once and after changes of them, the newest always included. An
// error is ctx's, and says what the lists were.
func (k *Kubelet) Wait(ctx context.Context, cond func(lists map[string]List) bool) error {
	for {
		k.mu.Lock()
		lists, changed := maps.Clone(k.lists), k.changed
		k.mu.Unlock()
		if cond(lists) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the kubelet's lists (%s) never were as awaited: %w", describe(lists), ctx.Err())
		case <-changed:
		}
	}
}

// WaitList waits until cond holds for the list of one resource, and returns that list.
func (k *Kubelet) WaitList(ctx context.Context, resource string, cond func(List) bool) (List, error) {
	var got List
	err := k.Wait(ctx, func(lists map[string]List) bool {
		l, ok := lists[resource]
		got = l
		return ok && cond(l)
	})
	return got, err
}

// touch tells waiters of a change; k.mu is held.
func (k *Kubelet) touch() {
	close(k.changed)
	k.changed = make(chan struct{})
}
