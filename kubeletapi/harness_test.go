// SPDX-License-Identifier: Apache-2.0

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
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
	"qatplugin/internal/unixsocket"
	"qatplugin/kubeletapi/kubelettest"
)

const (
	namespace = "color.example.com"
	yellow    = namespace + "/yellow"
	blue      = namespace + "/blue"

	testTimeout = 20 * time.Second // only a failing test waits as long
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePlugin is a Plugin whose Trees the test publishes.
type fakePlugin struct {
	watching chan struct{} // closed when Watch was called
	sink     func(*devtree.Tree)
	result   chan error // what Watch returns before its context ends
}

func newFakePlugin() *fakePlugin {
	return &fakePlugin{watching: make(chan struct{}), result: make(chan error, 1)}
}

func (p *fakePlugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	p.sink = publish
	close(p.watching)
	select {
	case <-ctx.Done():
		return ctx.Err() // which Run must not report as a failure
	case err := <-p.result:
		return err
	}
}

func (p *fakePlugin) publish(t *devtree.Tree) {
	select {
	case <-p.watching:
	case <-time.After(testTimeout):
		panic("Run does not call Watch")
	}
	p.sink(t)
}

// fullPlugin is a fakePlugin with all optional interfaces. The test sets the functions
// that it expects to be called.
type fullPlugin struct {
	*fakePlugin
	allocate func(resource string, devices []*devtree.Device) (*devtree.ContainerEdits, error)
	post     func(devices []*devtree.Device, edits *devtree.ContainerEdits) error
	prefer   func(available, mustInclude []string, size int) ([]string, error)
	preStart func(devices []string) error
}

func (p *fullPlugin) Allocate(
	_ context.Context, resource string, devices []*devtree.Device,
) (*devtree.ContainerEdits, error) {
	return p.allocate(resource, devices)
}

func (p *fullPlugin) PostAllocate(
	_ context.Context, _ string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	if p.post == nil {
		return nil
	}
	return p.post(devices, edits)
}

func (p *fullPlugin) PreferredAllocation(
	_ context.Context, _ string, available, mustInclude []*devtree.Device, size int,
) ([]string, error) {
	return p.prefer(deviceIDs(available), deviceIDs(mustInclude), size)
}

func (p *fullPlugin) PreStartContainer(_ context.Context, _ string, devices []*devtree.Device) error {
	return p.preStart(deviceIDs(devices))
}

func deviceIDs(devices []*devtree.Device) []string {
	var ids []string
	for _, d := range devices {
		ids = append(ids, d.ID)
	}
	return ids
}

// runningManager is a Manager whose Run is called.
type runningManager struct {
	*Manager
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	log    *logRecorder
}

// run runs a Manager for dir until the test ends. Run must return nil.
func run(t testing.TB, dir string, plugin Plugin, opts ...Option) *runningManager {
	t.Helper()
	return runNamespace(t, namespace, dir, plugin, opts...)
}

func runNamespace(t testing.TB, namespace, dir string, plugin Plugin, opts ...Option) *runningManager {
	t.Helper()
	r := &runningManager{
		Manager: NewManager(namespace, plugin, slices.Concat([]Option{WithKubeletDir(dir)}, opts)...),
		t:       t,
		done:    make(chan struct{}),
		log:     newLogRecorder(),
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(klog.NewContext(context.Background(), r.log.logger()))
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if t.Failed() {
			t.Logf("log of the Manager:\n%s", r.log)
		}
	})
	return r
}

// stop ends Run and returns its result.
func (r *runningManager) stop() error {
	r.t.Helper()
	r.cancel()
	return r.wait()
}

func (r *runningManager) wait() error {
	r.t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(testTimeout):
		r.t.Error("Run does not return")
		return errors.New("timeout")
	}
}

// newTestReconciler returns a reconciler that does nothing by itself. The test calls it
// with t.Context.
func newTestReconciler(t *testing.T, dir string, opts ...Option) (*reconciler, *Manager, *logRecorder) {
	t.Helper()
	m := NewManager(namespace, newFakePlugin(), slices.Concat([]Option{WithKubeletDir(dir)}, opts)...)
	log := newLogRecorder()
	r := newReconciler(m, log.logger())
	t.Cleanup(func() {
		watched := make(chan struct{})
		close(watched)
		if err := r.stop(watched); err != nil {
			t.Error(err)
		}
	})
	return r, m, log
}

// withBackOff sets the first and the longest pause between attempts.
func withBackOff(first, longest time.Duration) Option {
	return func(c *config) { c.backOffMin, c.backOffMax = first, longest }
}

// fastRetries lets tests wait for many attempts.
var fastRetries = withBackOff(time.Millisecond, 5*time.Millisecond)

// noComparison leaves the deadlines of the endpoints as the earliest ones.
func noComparison(c *config) { c.compareInterval = 24 * time.Hour }

// logRecorder records log lines up to verbosity 2.
type logRecorder struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

func newLogRecorder() *logRecorder { return &logRecorder{changed: make(chan struct{})} }

func (l *logRecorder) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, time.Now().Format("05.000000 ")+args)
		close(l.changed)
		l.changed = make(chan struct{})
	}, funcr.Options{Verbosity: 2})
}

func (l *logRecorder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// count returns the number of lines that contain part.
func (l *logRecorder) count(part string) int {
	n := 0
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// await waits for a line that contains part.
func (l *logRecorder) await(t testing.TB, part string) {
	t.Helper()
	l.awaitCount(t, part, 1)
}

func (l *logRecorder) awaitCount(t testing.TB, part string, n int) {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if l.count(part) >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%q is not in the log %d times:\n%s", part, n, l)
		}
	}
}

// kubeletDir returns a new directory for sockets. Its path is short, because a socket's
// path may have 107 bytes at most and t.TempDir's path contains the name of the test.
func kubeletDir(t testing.TB) string {
	t.Helper()
	parent, err := os.MkdirTemp("", "k") // watched, too, so no other test may use it
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

func socketOf(dir, resource string) string { return filepath.Join(dir, namespace+"-"+resource+".sock") }

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

// waitIDs waits until the kubelet has exactly these devices, in this order.
func waitIDs(t testing.TB, k *kubelettest.Kubelet, resource string, ids ...string) kubelettest.List {
	t.Helper()
	return waitList(t, k, resource, fmt.Sprintf("devices %q", ids), func(l kubelettest.List) bool {
		return l.Live && slices.Equal(listIDs(l.Devices), ids)
	})
}

func waitList(
	t testing.TB, k *kubelettest.Kubelet, resource, want string, cond func(kubelettest.List) bool,
) kubelettest.List {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	l, err := k.WaitList(ctx, resource, cond)
	if err != nil {
		t.Fatalf("%s: waiting for %s: %v", resource, want, err)
	}
	return l
}

func listIDs(devices []*pluginapi.Device) []string {
	ids := []string{}
	for _, d := range devices {
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

// streamClient is a ListAndWatch stream of the test's own, beside the kubelet's.
type streamClient struct {
	stream grpc.ServerStreamingClient[pluginapi.ListAndWatchResponse]
}

func openStream(t testing.TB, dir, resource string) *streamClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socketOf(dir, resource),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true))) // a new socket refuses until it listens
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		conn.Close()
	})
	stream, err := pluginapi.NewDevicePluginClient(conn).ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	return &streamClient{stream: stream}
}

func (c *streamClient) next(t testing.TB) []*pluginapi.Device {
	t.Helper()
	r, err := c.stream.Recv()
	if err != nil {
		t.Fatalf("ListAndWatch: %v", err)
	}
	return r.Devices
}

// until reads lists until one has exactly these devices.
func (c *streamClient) until(t testing.TB, ids ...string) {
	t.Helper()
	for !slices.Equal(listIDs(c.next(t)), ids) {
	}
}

// tree returns a successor of before in which the resource has exactly these devices.
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

// with returns a successor of before in which the resource also has the device.
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

// device returns a healthy device with a device node of its own and one that all share.
func device(id string) *devtree.Device {
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/color/" + id, ContainerPath: "/dev/color/" + id, Permissions: "rw"},
			{HostPath: "/dev/color/all", ContainerPath: "/dev/color/all", Permissions: "rw"},
		},
	}}
}

func unhealthy(id, reason string) *devtree.Device {
	d := device(id)
	d.Health, d.Reason = devtree.Unhealthy, reason
	return d
}

// toggledTrees returns two Trees of n devices that differ in the health of the middle one.
func toggledTrees(t testing.TB, n int) [2]*devtree.Tree {
	t.Helper()
	b := new(devtree.Tree).Edit()
	id := func(i int) string { return fmt.Sprintf("0000:%02x:%02x.%d", i/256, i/8%32, i%8) }
	for i := range n {
		d := device(id(i))
		d.NUMANodes = []int{i % 2}
		put(t, b, "yellow", d)
	}
	first := b.Build()
	d := unhealthy(id(n/2), "on fire")
	d.NUMANodes = []int{n / 2 % 2}
	return [2]*devtree.Tree{first, with(t, first, "yellow", d)}
}

// sockets returns the names of the sockets in dir.
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

// openFiles returns the number of open file descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// fileIDOf returns the ID of a file that exists.
func fileIDOf(t testing.TB, path string) unixsocket.FileID {
	t.Helper()
	id, _, err := unixsocket.Identify(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// waitReplaced waits until a file other than old is at path.
func waitReplaced(t testing.TB, path string, old unixsocket.FileID) {
	t.Helper()
	eventually(t, "socket replaced", func() bool {
		id, _, err := unixsocket.Identify(path)
		return err == nil && id != old
	})
}

// eventually polls a condition whose change yields no event.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(testTimeout)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("did not happen: %s", what)
		}
	}
}
