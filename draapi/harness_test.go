// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
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
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	cdilib "tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
	"qatplugin/draapi/kubelettest"
	"qatplugin/internal/apitest"
)

const (
	driverName  = "color.example.com"
	nodeName    = "node-1"
	testTimeout = 20 * time.Second // only a failing test waits as long
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePlugin is a Plugin whose Trees the test publishes.
type fakePlugin struct {
	watching chan struct{} // closed when Watch was called
	sink     func(*devtree.Tree)
	result   chan error // what Watch returns before its context ends

	mu      sync.Mutex
	prepare func(context.Context, *Claim) error // may be nil
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

func (p *fakePlugin) setPrepare(f func(context.Context, *Claim) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prepare = f
}

func (p *fakePlugin) Prepare(ctx context.Context, claim *Claim) error {
	p.mu.Lock()
	prepare := p.prepare
	p.mu.Unlock()
	if prepare == nil {
		return nil
	}
	return prepare(ctx, claim)
}

// color returns a healthy device with a node.
func color(id string) *devtree.Device {
	node := devtree.DeviceNode{HostPath: "/dev/null", ContainerPath: "/dev/color/" + id, Permissions: "rw"}
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{node},
		Env:         map[string]string{"COLOR_" + strings.ToUpper(strings.ReplaceAll(id, ":", "_")): id},
	}}
}

func broken(id, reason string) *devtree.Device {
	d := color(id)
	d.Health, d.Reason, d.Cause = devtree.Unhealthy, reason, "fade"
	return d
}

// tree returns the successor of prev with these devices of resource "paint", and no others.
func tree(t testing.TB, prev *devtree.Tree, devices ...*devtree.Device) *devtree.Tree {
	t.Helper()
	b := new(devtree.Tree).Edit()
	for _, d := range devices {
		if err := b.Put("paint", d); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build().After(prev)
}

// host is a node with a kubelet, an API server and a CDI directory.
type host struct {
	t       testing.TB
	kubelet *kubelettest.Kubelet
	api     *apitest.Server
	cdiDir  string
}

func newHost(t testing.TB) *host {
	h := &host{t: t, api: apitest.New(), cdiDir: t.TempDir(), kubelet: kubelettest.New(t)}
	h.setRuntime("containerd://2.1.4")
	return h
}

// startKubelet starts the kubelet after Stop.
func (h *host) startKubelet() {
	h.t.Helper()
	if err := h.kubelet.Restart(); err != nil {
		h.t.Fatal(err)
	}
}

// waitRegistered waits until n instances of the driver are registered.
func (h *host) waitRegistered(n int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := h.kubelet.WaitRegistered(ctx, driverName, n); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) setRuntime(version string) {
	h.api.AddNode(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{ContainerRuntimeVersion: version}},
	})
}

// result is the allocation of a device for a request.
func result(request, device string) resourcev1.DeviceRequestAllocationResult {
	return resourcev1.DeviceRequestAllocationResult{
		Request: request, Driver: driverName, Pool: nodeName, Device: device,
	}
}

// allocate adds a claim with this allocation, whose UID is made from its name and the number.
func (h *host) allocate(name string, n int, results ...resourcev1.DeviceRequestAllocationResult) *dra.Claim {
	uid := fmt.Sprintf("%s-%d", name, n)
	h.api.AddClaim(&resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)},
		Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{
			Devices: resourcev1.DeviceAllocationResult{Results: results},
		}},
	})
	return &dra.Claim{Namespace: "default", Name: name, Uid: uid}
}

// prepare prepares the claim, which must succeed.
func (h *host) prepare(claim *dra.Claim) []*dra.Device {
	h.t.Helper()
	devices, err := h.tryPrepare(claim)
	if err != nil {
		h.t.Fatalf("prepare %s: %v", claim.GetName(), err)
	}
	return devices
}

func (h *host) tryPrepare(claim *dra.Claim) ([]*dra.Device, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	return h.kubelet.Prepare(ctx, driverName, claim)
}

func (h *host) unprepare(claim *dra.Claim) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := h.kubelet.Unprepare(ctx, driverName, claim); err != nil {
		h.t.Fatalf("unprepare %s: %v", claim.GetName(), err)
	}
}

// inject returns a container with the devices, as a container runtime makes it. It resolves their
// CDI names.
func (h *host) inject(devices []*dra.Device) (*oci.Spec, error) {
	h.t.Helper()
	cache, err := cdilib.NewCache(cdilib.WithSpecDirs(h.cdiDir), cdilib.WithAutoRefresh(false))
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, d := range devices {
		names = append(names, d.GetCdiDeviceIds()...)
	}
	container := &oci.Spec{}
	_, err = cache.InjectDevices(container, names...)
	return container, err
}

// files returns the names of the files in the CDI directory that a runtime reads.
func (h *host) files() (names []string) {
	h.t.Helper()
	entries, err := os.ReadDir(h.cdiDir)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".json" {
			names = append(names, e.Name())
		}
	}
	return names
}

// runningDriver is a Driver whose Run is called.
type runningDriver struct {
	*Driver
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	log    *logRecorder
}

// run runs a Driver until the test ends. Run must return nil.
func (h *host) run(plugin Plugin, opts ...Option) *runningDriver {
	h.t.Helper()
	r := &runningDriver{
		Driver: NewDriver(driverName, plugin, slices.Concat([]Option{
			WithNodeName(nodeName),
			WithRESTConfig(h.api.Config()),
			WithKubeletRoot(h.kubelet.Root()),
			WithCDIDir(h.cdiDir),
		}, opts)...),
		t:    h.t,
		done: make(chan struct{}),
		log:  newLogRecorder(),
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(klog.NewContext(context.Background(), r.log.logger()))
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	h.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			h.t.Errorf("Run = %v, want nil", err)
		}
		if h.t.Failed() {
			h.t.Logf("log of the Driver:\n%s", r.log)
		}
	})
	return r
}

// start runs a Driver with these devices and waits until it is registered.
func (h *host) start(plugin *fakePlugin, devices *devtree.Tree, opts ...Option) *runningDriver {
	h.t.Helper()
	r := h.run(plugin, opts...)
	plugin.publish(devices)
	h.waitRegistered(1)
	await(h.t, "the registration", func() bool { return r.CheckRegistered(context.Background()) == nil })
	return r
}

// stop ends Run and returns its result.
func (r *runningDriver) stop() error {
	r.t.Helper()
	r.cancel()
	select {
	case <-r.done:
		return r.err
	case <-time.After(testTimeout):
		r.t.Error("Run does not return")
		return nil
	}
}

// await waits until f returns true.
func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timeout waiting for %s", what)
		}
	}
}

// logRecorder records the log of a Driver.
type logRecorder struct {
	mu    sync.Mutex
	lines []string
}

func newLogRecorder() *logRecorder { return &logRecorder{} }

func (l *logRecorder) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, time.Now().Format("05.000000 ")+args)
	}, funcr.Options{Verbosity: 2})
}

func (l *logRecorder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// count returns the number of lines that contain part.
func (l *logRecorder) count(part string) (n int) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
