// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi"
	"qatplugin/test/kubelet/devicemanager"
)

const (
	namespace = "qat.intel.com"
	generic   = namespace + "/generic"

	testTimeout = 20 * time.Second // only a failing test waits as long
)

// node is a node with the kubelet's device manager.
type node struct {
	*devicemanager.Manager
	t *testing.T

	mu      sync.Mutex
	updates []devicemanager.Update
}

// newNode returns a node whose kubelet is not started.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t}
	n.Manager = newManager(t, n.record)
	return n
}

// newManager returns a device manager that is not started, with an empty directory of sockets. It
// is stopped when the test ends.
func newManager(t *testing.T, onUpdate func(devicemanager.Update)) *devicemanager.Manager {
	t.Helper()
	if errNoNamespace != nil {
		testenv.Skip(t, fmt.Sprintf("the kubelet's socket has a fixed path, so the test needs a mount namespace: %v",
			errNoNamespace))
	}
	emptyDir(t, devicemanager.SocketDir)
	m := devicemanager.New(onUpdate)
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// startNode returns a node whose kubelet runs.
func startNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.start()
	return n
}

// serveDevices starts a kubelet and a plugin with healthy devices of the resource generic, and
// waits until the kubelet has them.
func serveDevices(t *testing.T, p testPlugin, count int) (n *node, tree *devtree.Tree) {
	t.Helper()
	n = startNode(t)
	tree = p.edit(t, healthyDevices("generic", count))
	n.startPlugin(p)
	n.wantTree(tree)
	return n, tree
}

func (n *node) start() {
	n.t.Helper()
	must(n.t, n.Start())
}

func (n *node) restart() {
	n.t.Helper()
	must(n.t, n.Restart())
}

func (n *node) record(u devicemanager.Update) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.updates = append(n.updates, u)
}

// history returns the updates of one resource.
func (n *node) history(resource string) []devicemanager.Update {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(n.updates), func(u devicemanager.Update) bool {
		return u.Resource != resource
	})
}

// registrations returns how often a resource was registered, in all starts of the kubelet.
func (n *node) registrations(resource string) int {
	count := 0
	for _, u := range n.history(resource) {
		if u.Kind == devicemanager.Connected {
			count++
		}
	}
	return count
}

func (n *node) wantOneRegistration(resource string) {
	n.t.Helper()
	if got := n.registrations(resource); got != 1 {
		n.t.Errorf("%s was registered %d times, want once", resource, got)
	}
}

// startPlugin runs a plugin until stop is called or the test ends. stop waits for it.
func (n *node) startPlugin(p kubeletapi.Plugin, opts ...kubeletapi.Option) (stop func()) {
	n.t.Helper()
	return n.startPluginWithLog(klog.Background(), p, opts...)
}

func (n *node) startPluginWithLog(
	log klog.Logger, p kubeletapi.Plugin, opts ...kubeletapi.Option,
) (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), log))
	done := make(chan error, 1)
	go func() { done <- kubeletapi.NewManager(namespace, p, opts...).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				n.t.Errorf("Run of the plugin's Manager: %v", err)
			}
		case <-time.After(testTimeout):
			n.t.Error("Run of the plugin's Manager did not return")
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// mustAdmit admits a pod.
func (n *node) mustAdmit(pod *v1.Pod) {
	n.t.Helper()
	must(n.t, n.Admit(pod))
}

// mustRun admits a pod, starts the container, and returns what it gets.
func (n *node) mustRun(pod *v1.Pod, container string) *devtree.ContainerEdits {
	n.t.Helper()
	n.mustAdmit(pod)
	edits, err := n.StartContainer(n.t.Context(), pod, container)
	must(n.t, err)
	if edits == nil {
		n.t.Fatalf("container %q of pod %q got no devices", container, pod.Name)
	}
	return edits
}

// wantCount waits until the status of the Node would have these counts.
func (n *node) wantCount(resource string, capacity, allocatable int64) {
	n.t.Helper()
	want := devicemanager.Count{Capacity: capacity, Allocatable: allocatable}
	eventually(n.t, func() error {
		got, ok := n.Count(resource)
		if !ok {
			return fmt.Errorf("the kubelet does not know %s, want %+v", resource, want)
		}
		if got != want {
			return fmt.Errorf("%s has %+v, want %+v", resource, got, want)
		}
		return nil
	})
}

// wantTree waits until the kubelet's lists are those of the Tree.
func (n *node) wantTree(tree *devtree.Tree) {
	n.t.Helper()
	eventually(n.t, func() error { return n.checkTree(tree) })
}

// checkTree returns an error if the kubelet's lists are not those of the Tree.
func (n *node) checkTree(tree *devtree.Tree) error {
	for r := range tree.Resources() {
		name := namespace + "/" + r.Name()
		want, healthy := []devicemanager.Device{}, []string(nil)
		for d := range r.Devices() {
			device := devicemanager.Device{ID: d.ID, Health: string(d.Health)}
			for _, numa := range d.NUMANodes {
				device.NUMANodes = append(device.NUMANodes, int64(numa))
			}
			want = append(want, device)
			if d.Health == devtree.Healthy {
				healthy = append(healthy, d.ID)
			}
		}
		got, ok := n.Devices(name)
		if !ok {
			return fmt.Errorf("the kubelet has no list of %s", name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("devices of %s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(healthy, n.AllocatableIDs(name)); diff != "" {
			return fmt.Errorf("allocatable devices of %s (-want +got):\n%s", name, diff)
		}
		wantCount := devicemanager.Count{Capacity: int64(len(want)), Allocatable: int64(len(healthy))}
		count, _ := n.Count(name)
		if diff := cmp.Diff(wantCount, count); diff != "" {
			return fmt.Errorf("count of %s (-want +got):\n%s", name, diff)
		}
	}
	return nil
}

// eventually calls check until it returns nil. If it does not in time, the test fails with the last
// error.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.After(testTimeout)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for err := check(); err != nil; err = check() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v: %v", testTimeout, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// usage is what the process, that is the plugin and the device manager together, holds.
type usage struct{ goroutines, descriptors int }

func currentUsage(t *testing.T) usage {
	t.Helper()
	return usage{runtime.NumGoroutine(), len(list(t, "/proc/self/fd"))}
}

// waitForUsage waits until the process holds no more than it did before.
func waitForUsage(t *testing.T, before usage) {
	t.Helper()
	eventually(t, func() error {
		u := currentUsage(t)
		if u.goroutines > before.goroutines || u.descriptors > before.descriptors {
			return fmt.Errorf("the process has %+v, had %+v before", u, before)
		}
		return nil
	})
}

// emptyDir removes everything in a directory, which it creates if necessary.
func emptyDir(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for _, name := range list(t, dir) {
		must(t, os.RemoveAll(filepath.Join(dir, name)))
	}
}

// list returns the names in a directory.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
