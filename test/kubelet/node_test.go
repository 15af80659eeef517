package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi"
	"qatplugin/test/kubelet/devicemanager"
)

const (
	namespace = "qat.intel.com"
	deadline  = 20 * time.Second // for what takes milliseconds: only a failing test waits so long
)

// node is a machine with a kubelet's device manager, and with a plugin when startPlugin was called.
type node struct {
	*devicemanager.Manager
	t *testing.T

	mu      sync.Mutex
	updates []devicemanager.Update
}

// newNode is a node whose kubelet is not started, with nothing in the kubelet's directory.
func newNode(t *testing.T) *node {
	t.Helper()
	if noNamespace != nil {
		testenv.Skip(t, fmt.Sprintf("the kubelet's socket has a fixed path, which needs a mount namespace of the test's own: %v", noNamespace))
	}
	emptyDir(t, devicemanager.SocketDir)
	n := &node{t: t}
	n.Manager = devicemanager.New(devicemanager.Config{OnUpdate: n.update})
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// startNode is a node whose kubelet runs.
func startNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.start()
	return n
}

func (n *node) start() {
	n.t.Helper()
	if err := n.Start(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) restart() {
	n.t.Helper()
	if err := n.Restart(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) update(u devicemanager.Update) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.updates = append(n.updates, u)
}

// history is what plugins told so far of one resource.
func (n *node) history(resource string) []devicemanager.Update {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(n.updates), func(u devicemanager.Update) bool { return u.Resource != resource })
}

// connections is how often the resource was registered, in all starts.
func (n *node) connections(resource string) int {
	count := 0
	for _, u := range n.history(resource) {
		if u.Kind == devicemanager.Connected {
			count++
		}
	}
	return count
}

// startPlugin runs the plugin until the returned stop or the end of the test. stop returns when everything has ended.
func (n *node) startPlugin(plugin kubeletapi.Plugin) (stop func()) {
	n.t.Helper()
	return n.startPluginWith(klog.Background(), plugin)
}

func (n *node) startPluginWith(log klog.Logger, plugin kubeletapi.Plugin) (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), log))
	done := make(chan error, 1)
	go func() { done <- kubeletapi.NewManager(namespace, plugin).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				n.t.Errorf("the plugin's Manager ended with an error: %v", err)
			}
		case <-time.After(deadline):
			n.t.Error("the plugin's Manager did not end")
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// wantCount waits until the node's status would show so many devices.
func (n *node) wantCount(resource string, capacity, allocatable int64) {
	n.t.Helper()
	want := devicemanager.Count{Capacity: capacity, Allocatable: allocatable}
	eventually(n.t, func() error {
		got, ok := n.Count(resource)
		if !ok {
			return fmt.Errorf("%s is not known to the kubelet, want %+v", resource, want)
		}
		if got != want {
			return fmt.Errorf("%s counts %+v, want %+v", resource, got, want)
		}
		return nil
	})
}

// wantTree waits until the lists at the kubelet are those of the tree.
func (n *node) wantTree(tree *devtree.Tree) {
	n.t.Helper()
	eventually(n.t, func() error { return n.differs(tree) })
}

func (n *node) differs(tree *devtree.Tree) error {
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
			return fmt.Errorf("no list of %s has come", name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("devices of %s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(healthy, n.AllocatableIDs(name)); diff != "" {
			return fmt.Errorf("allocatable devices of %s (-want +got):\n%s", name, diff)
		}
		count, _ := n.Count(name)
		if diff := cmp.Diff(devicemanager.Count{Capacity: int64(len(want)), Allocatable: int64(len(healthy))}, count); diff != "" {
			return fmt.Errorf("count of %s (-want +got):\n%s", name, diff)
		}
	}
	return nil
}

// eventually waits until cond returns nil, and fails the test with cond's last error when it does not in time.
func eventually(t *testing.T, cond func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %v: %v", deadline, err)
		}
	}
}

// emptyDir makes the directory, or removes everything in it.
func emptyDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range list(t, dir) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// list are the names in the directory.
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
