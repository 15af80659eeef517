package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

const (
	namespace = "color.example.com"
	yellow    = namespace + "/yellow"
	blue      = namespace + "/blue"

	patience = 20 * time.Second // for what must happen; only a failing test waits as long
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hand is a Plugin whose Trees come from the test's hand.
type hand struct {
	ready   chan struct{}
	publish func(*devtree.Tree)
	fail    chan error // what Watch returns, before ctx ends
}

func newHand() *hand {
	return &hand{ready: make(chan struct{}), fail: make(chan error, 1)}
}

func (h *hand) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	h.publish = publish
	close(h.ready)
	select {
	case <-ctx.Done():
		return ctx.Err() // which Run must not take for a failure
	case err := <-h.fail:
		return err
	}
}

func (h *hand) set(t *devtree.Tree) {
	<-h.ready
	h.publish(t)
}

// running is a Manager that runs.
type running struct {
	t      testing.TB
	m      *Manager
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	log    *logbook
}

// run starts a Manager on dir; it is ended with the test at the latest, and must then return nil.
func run(t testing.TB, dir string, plugin Plugin, opts ...Option) *running {
	t.Helper()
	r := &running{t: t, done: make(chan struct{}), log: &logbook{changed: make(chan struct{})}}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), r.log.logger()))
	r.cancel = cancel
	m := NewManager(namespace, plugin, slices.Concat([]Option{WithKubeletDir(dir)}, opts)...)
	r.m = m
	go func() {
		defer close(r.done)
		r.err = m.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if t.Failed() {
			t.Logf("the Manager's log:\n%s", r.log)
		}
	})
	return r
}

// stop ends the Manager, and returns what Run returned.
func (r *running) stop() error {
	r.t.Helper()
	r.cancel()
	return r.wait()
}

func (r *running) wait() error {
	r.t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(patience):
		r.t.Error("Run does not return")
		return errors.New("stuck")
	}
}

// logbook keeps what the Manager logs.
type logbook struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

func (b *logbook) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lines = append(b.lines, time.Now().Format("05.000000 ")+args)
		close(b.changed)
		b.changed = make(chan struct{})
	}, funcr.Options{Verbosity: 2})
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

func (b *logbook) count(part string) int {
	n := 0
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// await waits for a line that contains part.
func (b *logbook) await(t testing.TB, part string) {
	t.Helper()
	limit := time.After(patience)
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if b.count(part) > 0 {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%q never was in the log:\n%s", part, b)
		}
	}
}

// kubeletDir is a directory whose name is short: socket paths are limited, and t.TempDir holds the test's name.
func kubeletDir(t testing.TB) string {
	t.Helper()
	parent, err := os.MkdirTemp("", "k") // of its own: nobody else's events there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	dir := filepath.Join(parent, "device-plugins")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startKubelet(t testing.TB, dir string, opts ...kubelettest.Option) *kubelettest.Kubelet {
	t.Helper()
	k, err := kubelettest.Start(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	return k
}

func restart(t testing.TB, k *kubelettest.Kubelet) {
	t.Helper()
	if err := k.Restart(); err != nil {
		t.Fatal(err)
	}
}

// waitIDs waits until the kubelet holds exactly these devices, in this order, and returns the list.
func waitIDs(t testing.TB, k *kubelettest.Kubelet, resource string, ids ...string) kubelettest.List {
	t.Helper()
	return waitList(t, k, resource, fmt.Sprintf("devices %q", ids), func(l kubelettest.List) bool {
		return l.Live && slices.Equal(listIDs(l), ids)
	})
}

func waitList(t testing.TB, k *kubelettest.Kubelet, resource, want string, cond func(kubelettest.List) bool) kubelettest.List {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := k.WaitList(ctx, resource, cond)
	if err != nil {
		t.Fatalf("%s: waited for %s: %v", resource, want, err)
	}
	return l
}

func listIDs(l kubelettest.List) []string {
	ids := []string{}
	for _, d := range l.Devices {
		ids = append(ids, d.ID)
	}
	return ids
}

func healthOf(l kubelettest.List, id string) string {
	i := slices.IndexFunc(l.Devices, func(d *pluginapi.Device) bool { return d.ID == id })
	if i < 0 {
		return ""
	}
	return l.Devices[i].Health
}

// tree makes the Tree after before, in which the resource holds exactly these devices, healthy.
func tree(t testing.TB, before *devtree.Tree, resource string, ids ...string) *devtree.Tree {
	t.Helper()
	b := before.Edit()
	for d := range before.Resource(resource).Devices() {
		if !slices.Contains(ids, d.ID) {
			b.Remove(resource, d.ID)
		}
	}
	if err := b.Keep(resource); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		put(t, b, resource, device(id))
	}
	return b.Build()
}

// with makes the Tree after before in which the resource also holds the device.
func with(t testing.TB, before *devtree.Tree, resource string, d *devtree.Device) *devtree.Tree {
	t.Helper()
	b := before.Edit()
	put(t, b, resource, d)
	return b.Build()
}

func put(t testing.TB, b *devtree.Builder, resource string, d *devtree.Device) {
	t.Helper()
	if err := b.Put(resource, d); err != nil {
		t.Fatal(err)
	}
}

// device is a healthy device with a node of its own and one that all share.
func device(id string) *devtree.Device {
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/color/" + id, ContainerPath: "/dev/color/" + id, Permissions: "rw"},
			{HostPath: "/dev/color/all", ContainerPath: "/dev/color/all", Permissions: "rw"},
		},
	}}
}

func sick(id, reason string) *devtree.Device {
	d := device(id)
	d.Health, d.Reason = devtree.Unhealthy, reason
	return d
}

// sockets are the names of the socket files in dir.
func sockets(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		if e.Type() == os.ModeSocket {
			names = append(names, e.Name())
		}
	}
	return names
}

// openFiles is the number of descriptors that this process has open.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// eventually waits for what has no event to wait for: another process's or the kernel's doing. It yields between the looks.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s", what)
		}
	}
}
