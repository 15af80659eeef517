// SPDX-License-Identifier: Apache-2.0

// Package kubelettest is the kubelet's end of the DRA API, for tests of drivers.
//
// A [Kubelet] finds the registration sockets of drivers in its directory, registers them, connects
// to them, prepares and unprepares claims, and follows the health of devices, as the kubelet of
// Kubernetes 1.36 does (pkg/kubelet/pluginmanager, pkg/kubelet/cm/dra). Where the kubelet waits
// for a second or more before it tries again, a Kubelet waits for milliseconds. It has no pods and
// no checkpoint, and it does not delete ResourceSlices.
package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	callTimeout   = time.Second // of the calls that register a driver, as of the kubelet
	retryInterval = 20 * time.Millisecond
)

// A Kubelet is the kubelet's end. Its methods may be called from any goroutine.
type Kubelet struct {
	root string

	processMu sync.Mutex // held while a process starts or ends
	process   *process   // nil while it is stopped

	mu      sync.Mutex // guards the fields below
	plugins []*plugin  // in the order of their registration
	health  map[string]Health
	changed chan struct{} // closed and replaced when plugins or health change
}

// process is one run of the kubelet.
type process struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// plugin is a registered instance of a driver.
type plugin struct {
	socket string      // of the registration
	file   os.FileInfo // of the socket
	info   *registerapi.PluginInfo
	conn   *grpc.ClientConn
	cancel context.CancelFunc // ends the health stream
}

// Health is the health of a device, as a driver has last sent it.
type Health struct {
	Healthy bool
	Message string
}

// New starts a Kubelet for a test, in a new directory. It stops when the test ends.
func New(t testing.TB) *Kubelet {
	t.Helper()
	// Not t.TempDir, which has the test's name: the path of a socket is limited to 107 bytes
	// (unix(7)).
	root, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	k, err := Start(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	return k
}

// Start starts a Kubelet whose directory is root. The caller must call Stop.
func Start(root string) (*Kubelet, error) {
	k := &Kubelet{root: root, health: map[string]Health{}, changed: make(chan struct{})}
	return k, k.Restart()
}

// Root returns the kubelet's directory.
func (k *Kubelet) Root() string { return k.root }

func (k *Kubelet) registry() string { return filepath.Join(k.root, "plugins_registry") }

// Restart stops the Kubelet, unless it is stopped, and starts it again. It finds the sockets that
// exist.
func (k *Kubelet) Restart() error {
	k.Stop()
	k.processMu.Lock()
	defer k.processMu.Unlock()
	if k.process != nil {
		return errors.New("the Kubelet was started by another goroutine")
	}
	if err := os.MkdirAll(k.registry(), 0o750); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := watcher.Add(k.registry()); err != nil {
		return errors.Join(err, watcher.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{ctx: ctx, cancel: cancel}
	p.running.Go(func() {
		defer watcher.Close()
		k.watch(p, watcher)
	})
	k.process = p
	return nil
}

// Stop stops the Kubelet: it closes all connections and forgets all drivers.
func (k *Kubelet) Stop() {
	k.processMu.Lock()
	defer k.processMu.Unlock()
	if k.process == nil {
		return
	}
	k.process.cancel()
	k.process.running.Wait()
	k.process = nil
}

// watch registers the drivers whose sockets appear, and deregisters those whose sockets disappear,
// until the process ends.
func (k *Kubelet) watch(p *process, watcher *fsnotify.Watcher) {
	waiting := map[string]bool{} // sockets to register
	entries, _ := os.ReadDir(k.registry())
	for _, e := range entries {
		waiting[filepath.Join(k.registry(), e.Name())] = true
	}
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		for socket, isNew := range waiting {
			if !isNew || k.register(p, socket) == nil {
				delete(waiting, socket)
			}
		}
		select {
		case <-p.ctx.Done():
			k.deregister(func(*plugin) bool { return true })
			return
		case <-retry.C:
		case ev := <-watcher.Events:
			switch {
			case ev.Has(fsnotify.Create):
				// Unless it was found when the Kubelet started, it is a new one.
				k.deregister(func(q *plugin) bool { return q.socket == ev.Name && !q.isCurrent() })
				waiting[ev.Name] = !k.isRegistered(ev.Name)
			case ev.Has(fsnotify.Remove):
				delete(waiting, ev.Name)
				k.deregister(func(q *plugin) bool { return q.socket == ev.Name })
			}
		}
	}
}

// isCurrent reports whether the registration socket is still the one that was registered.
func (q *plugin) isCurrent() bool {
	now, err := os.Lstat(q.socket)
	return err == nil && os.SameFile(q.file, now) && q.file.ModTime().Equal(now.ModTime())
}

// isRegistered reports whether the driver of the socket is registered.
func (k *Kubelet) isRegistered(socket string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.plugins, func(q *plugin) bool { return q.socket == socket })
}

// register registers the driver that serves the socket.
func (k *Kubelet) register(p *process, socket string) error {
	file, err := os.Lstat(socket)
	if err != nil {
		return err
	}
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
	defer cancel()
	client := registerapi.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		return err
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: true}
	if err := k.add(p, socket, file, info); err != nil {
		status = &registerapi.RegistrationStatus{Error: err.Error()}
	}
	_, err = client.NotifyRegistrationStatus(ctx, status)
	if status.GetError() != "" {
		return errors.New(status.GetError())
	}
	return err
}

// add connects to a driver and follows the health of its devices.
func (k *Kubelet) add(p *process, socket string, file os.FileInfo, info *registerapi.PluginInfo) error {
	switch {
	case info.GetType() != registerapi.DRAPlugin:
		return fmt.Errorf("no handler registered for plugin type: %s", info.GetType())
	case !slices.Contains(info.GetSupportedVersions(), dra.DRAPluginService):
		return fmt.Errorf("none of services supported by the plugin (%q) are supported by the kubelet",
			info.GetSupportedVersions())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, q := range k.plugins {
		if q.info.GetName() == info.GetName() && q.info.GetEndpoint() == info.GetEndpoint() {
			return fmt.Errorf("endpoint %s already registered", info.GetEndpoint())
		}
	}
	conn, err := dial(info.GetEndpoint())
	if err != nil {
		return err
	}
	conn.Connect()
	ctx, cancel := context.WithCancel(p.ctx)
	q := &plugin{socket: socket, file: file, info: info, conn: conn, cancel: cancel}
	k.plugins = append(k.plugins, q)
	k.wake()
	p.running.Go(func() { k.followHealth(ctx, q) })
	return nil
}

// deregister forgets the drivers that match.
func (k *Kubelet) deregister(match func(*plugin) bool) {
	k.mu.Lock()
	var gone []*plugin
	k.plugins = slices.DeleteFunc(k.plugins, func(q *plugin) bool {
		if match(q) {
			gone = append(gone, q)
			return true
		}
		return false
	})
	k.wake()
	k.mu.Unlock()
	for _, q := range gone {
		q.cancel()
		q.conn.Close()
	}
}

// followHealth reads the health of a driver's devices. When a stream ends, their health is
// unknown.
func (k *Kubelet) followHealth(ctx context.Context, q *plugin) {
	for ctx.Err() == nil {
		stream, err := healthapi.NewDRAResourceHealthClient(q.conn).NodeWatchResources(ctx,
			&healthapi.NodeWatchResourcesRequest{})
		for err == nil {
			var response *healthapi.NodeWatchResourcesResponse
			if response, err = stream.Recv(); err == nil {
				k.setHealth(q, response)
			}
		}
		k.setHealth(q, nil)
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
		}
	}
}

func (k *Kubelet) setHealth(q *plugin, response *healthapi.NodeWatchResourcesResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.health {
		if response == nil && strings.HasPrefix(name, q.info.GetName()+"/") {
			delete(k.health, name)
		}
	}
	for _, d := range response.GetDevices() {
		device := d.GetDevice()
		k.health[q.info.GetName()+"/"+device.GetPoolName()+"/"+device.GetDeviceName()] = Health{
			Healthy: d.GetHealth() == healthapi.HealthStatus_HEALTHY,
			Message: d.GetMessage(),
		}
	}
	k.wake()
}

// wake wakes those that wait. The caller holds mu.
func (k *Kubelet) wake() {
	close(k.changed)
	k.changed = make(chan struct{})
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///driver",
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
}

// wait waits until f, which is called with mu held, returns true.
func (k *Kubelet) wait(ctx context.Context, what string, f func() bool) error {
	for {
		k.mu.Lock()
		done, changed := f(), k.changed
		k.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// WaitRegistered waits until n instances of the driver are registered, or until ctx ends.
func (k *Kubelet) WaitRegistered(ctx context.Context, driver string, n int) error {
	return k.wait(ctx, fmt.Sprintf("%d registered instances of %s", n, driver), func() bool {
		return len(k.instances(driver)) == n
	})
}

// WaitHealth waits until a device has a health for which f returns true, or until ctx ends. Unknown
// health is the zero Health.
func (k *Kubelet) WaitHealth(ctx context.Context, driver, pool, device string, f func(Health) bool) error {
	name := driver + "/" + pool + "/" + device
	return k.wait(ctx, "the health of "+name, func() bool { return f(k.health[name]) })
}

// instances returns the registered instances of the driver. The caller holds mu.
func (k *Kubelet) instances(driver string) (found []*plugin) {
	for _, q := range k.plugins {
		if q.info.GetName() == driver {
			found = append(found, q)
		}
	}
	return found
}

// newest returns a client of the newest instance, which the kubelet prefers.
func (k *Kubelet) newest(driver string) (dra.DRAPluginClient, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := k.instances(driver)
	if len(found) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", driver)
	}
	return dra.NewDRAPluginClient(found[len(found)-1].conn), nil
}

// Prepare prepares a claim. It returns the devices, or the driver's error.
func (k *Kubelet) Prepare(ctx context.Context, driver string, claim *dra.Claim) ([]*dra.Device, error) {
	client, err := k.newest(driver)
	if err != nil {
		return nil, err
	}
	response, err := client.NodePrepareResources(ctx, &dra.NodePrepareResourcesRequest{Claims: []*dra.Claim{claim}})
	if err != nil {
		return nil, err
	}
	result := response.GetClaims()[claim.GetUid()]
	if result == nil {
		return nil, errors.New("NodePrepareResources skipped 1 ResourceClaims")
	}
	if result.GetError() != "" {
		return nil, errors.New(result.GetError())
	}
	return result.GetDevices(), nil
}

// Unprepare unprepares a claim.
func (k *Kubelet) Unprepare(ctx context.Context, driver string, claim *dra.Claim) error {
	client, err := k.newest(driver)
	if err != nil {
		return err
	}
	response, err := client.NodeUnprepareResources(ctx, &dra.NodeUnprepareResourcesRequest{Claims: []*dra.Claim{claim}})
	if err != nil {
		return err
	}
	result := response.GetClaims()[claim.GetUid()]
	switch {
	case result == nil:
		return errors.New("NodeUnprepareResources skipped 1 ResourceClaims")
	case result.GetError() != "":
		return errors.New(result.GetError())
	}
	return nil
}
