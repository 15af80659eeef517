// SPDX-License-Identifier: Apache-2.0

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
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"

	"qatplugin/devtree"
	"qatplugin/draapi"
	"qatplugin/internal/apitest"
)

const draDriver = "color.example.com"

// draNode is a node with the real kubelet's manager of DRA and an API server in memory.
type draNode struct {
	t      *testing.T
	api    *apitest.Server
	root   string // the kubelet's directory
	cdiDir string

	manager *dra.Manager // nil while the kubelet is stopped
	stop    func()       // stops the kubelet

	mu   sync.Mutex // guards pods
	pods []*corev1.Pod
}

func startDRANode(t *testing.T) *draNode {
	t.Helper()
	root, err := os.MkdirTemp("", "k") // a short path, for sockets
	must(t, err)
	n := &draNode{t: t, api: apitest.New(), root: root, cdiDir: t.TempDir()}
	n.api.AddNode(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{ContainerRuntimeVersion: "containerd://2.1.4"}},
	})
	t.Cleanup(func() {
		n.stopKubelet()
		must(t, os.RemoveAll(root))
	})
	n.startKubelet()
	return n
}

// startKubelet starts the managers of plugins and of claims, as the kubelet does. It reads the
// checkpoint of its predecessor.
func (n *draNode) startKubelet() {
	n.t.Helper()
	client, err := kubernetes.NewForConfig(n.api.Config())
	must(n.t, err)
	state := filepath.Join(n.root, "state")
	must(n.t, os.MkdirAll(state, 0o755))
	manager, err := dra.NewManager(klog.Background(), client, state)
	must(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready := config.NewSourcesReady(func(sets.Set[string]) bool { return true })
	getNode := func(ctx context.Context) (*corev1.Node, error) {
		return client.CoreV1().Nodes().Get(ctx, "node-1", metav1.GetOptions{})
	}
	activePods := func() []*corev1.Pod {
		n.mu.Lock()
		defer n.mu.Unlock()
		return slices.Clone(n.pods)
	}
	must(n.t, manager.Start(ctx, activePods, getNode, ready))
	plugins := pluginmanager.NewPluginManager(filepath.Join(n.root, "plugins_registry"), record.NewFakeRecorder(100))
	plugins.AddHandler(registerapi.DRAPlugin, manager.GetWatcherHandler())
	done := make(chan struct{})
	go func() {
		defer close(done)
		plugins.Run(ctx, ready, ctx.Done())
	}()
	n.manager = manager
	n.stop = func() {
		cancel()
		manager.GetWatcherHandler().(interface{ Stop() }).Stop()
		<-done
	}
}

func (n *draNode) stopKubelet() {
	if n.stop != nil {
		n.stop()
		n.stop, n.manager = nil, nil
	}
}

// runDriver runs a driver until the returned function is called or the test ends.
func (n *draNode) runDriver(p *fakePlugin, opts ...draapi.Option) (driver *draapi.Driver, stop func()) {
	n.t.Helper()
	driver = draapi.NewDriver(draDriver, p, append(opts, draapi.WithNodeName("node-1"),
		draapi.WithRESTConfig(n.api.Config()), draapi.WithKubeletRoot(n.root), draapi.WithCDIDir(n.cdiDir))...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- driver.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			must(n.t, <-done)
		}
	}
	n.t.Cleanup(stop)
	return driver, stop
}

// pod returns a pod whose container has a claim with these devices.
func (n *draNode) pod(name string, devices ...string) *corev1.Pod {
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("claim-" + name)},
		Status: resourcev1.ResourceClaimStatus{
			Allocation: &resourcev1.AllocationResult{},
			ReservedFor: []resourcev1.ResourceClaimConsumerReference{
				{Resource: "pods", Name: name, UID: types.UID("pod-" + name)},
			},
		},
	}
	for _, d := range devices {
		claim.Status.Allocation.Devices.Results = append(claim.Status.Allocation.Devices.Results,
			resourcev1.DeviceRequestAllocationResult{Request: "paint", Driver: draDriver, Pool: "node-1", Device: d})
	}
	n.api.AddClaim(claim)
	container := corev1.Container{Name: "wall"}
	container.Resources.Claims = []corev1.ResourceClaim{{Name: "paint"}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("pod-" + name)},
		Spec: corev1.PodSpec{
			Containers:     []corev1.Container{container},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "paint", ResourceClaimName: &name}},
		},
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods = append(n.pods, pod)
	return pod
}

// cdiNames prepares the pod's claims and returns the CDI names that its container gets, each once.
// After a restart, the kubelet adds the devices of a claim to those of its checkpoint, and repeats
// all names (pkg/kubelet/cm/dra/claiminfo.go, addDevice). A runtime injects a device once.
func (n *draNode) cdiNames(pod *corev1.Pod) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := n.manager.PrepareResources(ctx, pod); err != nil {
		return nil, err
	}
	info, err := n.manager.GetResources(pod, &pod.Spec.Containers[0])
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range info.CDIDevices {
		if !slices.Contains(names, d.Name) {
			names = append(names, d.Name)
		}
	}
	return names, nil
}

func (n *draNode) wantCDINames(pod *corev1.Pod, want ...string) {
	n.t.Helper()
	eventually(n.t, func() error {
		names, err := n.cdiNames(pod)
		if err == nil && !slices.Equal(names, want) {
			n.t.Fatalf("the container gets the CDI devices %q, want %q", names, want)
		}
		return err
	})
}

// health returns what the pod's status says about its devices.
func (n *draNode) health(pod *corev1.Pod) (list []string) {
	status := &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "wall"}}}
	n.manager.UpdateAllocatedResourcesStatus(pod, status)
	for _, s := range status.ContainerStatuses[0].AllocatedResourcesStatus {
		for _, r := range s.Resources {
			text := string(r.ResourceID) + " " + string(r.Health)
			if r.Message != nil {
				text += " " + *r.Message
			}
			list = append(list, text)
		}
	}
	return list
}

func (n *draNode) waitHealth(pod *corev1.Pod, want ...string) {
	n.t.Helper()
	eventually(n.t, func() error {
		if diff := cmp.Diff(want, n.health(pod)); diff != "" {
			return fmt.Errorf("health (-want +got):\n%s", diff)
		}
		return nil
	})
}

func (n *draNode) waitSlices(want int) {
	n.t.Helper()
	eventually(n.t, func() error {
		devices := 0
		for _, s := range n.api.Slices() {
			devices += len(s.Spec.Devices)
		}
		if devices != want {
			return fmt.Errorf("the slices have %d devices, want %d", devices, want)
		}
		return nil
	})
}

func draDevice(id, reason string) *devtree.Device {
	d := &devtree.Device{ID: id, Health: devtree.Healthy}
	if reason != "" {
		d.Health, d.Reason = devtree.Unhealthy, reason
	}
	d.Env = map[string]string{"COLOR_" + id: id}
	return d
}

func paint(devices ...*devtree.Device) func(b *devtree.Builder) error {
	return func(b *devtree.Builder) error {
		for _, d := range devices {
			if err := b.Put("paint", d); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestKubeletPreparesClaims(t *testing.T) {
	n, p := startDRANode(t), &fakePlugin{}
	p.edit(t, paint(draDevice("1", ""), draDevice("2", "")))
	driver, _ := n.runDriver(p)
	first, second := n.pod("first", "1"), n.pod("second", "2", "1")
	n.wantCDINames(first, draDriver+"/claim=claim-first-1")
	_, err := n.cdiNames(second)
	want := "prepare dynamic resources: NodePrepareResources failed for ResourceClaim second: " +
		"device 1 is held by claim default/first (UID claim-first), which the kubelet has not unprepared"
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	must(t, n.manager.UnprepareResources(t.Context(), first))
	n.wantCDINames(second, draDriver+"/claim=claim-second-2", draDriver+"/claim=claim-second-1")
	must(t, n.manager.UnprepareResources(t.Context(), second))
	if claims := driver.Claims(); len(claims) > 0 {
		t.Errorf("claims %+v", claims)
	}
}

func TestPodStatusShowsHealthOfDevices(t *testing.T) {
	n, p := startDRANode(t), &fakePlugin{}
	p.edit(t, paint(draDevice("1", "")))
	n.runDriver(p)
	pod := n.pod("first", "1")
	n.wantCDINames(pod, draDriver+"/claim=claim-first-1")
	n.waitHealth(pod, draDriver+"/claim=claim-first-1 Healthy")
	drain(n.manager)
	start := time.Now()
	p.edit(t, paint(draDevice("1", "it fades in the sun")))
	select {
	case <-n.manager.Updates():
		t.Logf("the kubelet updates the pod %v after the change", time.Since(start))
	case <-time.After(testTimeout):
		t.Fatal("the kubelet does not update the pod")
	}
	n.waitHealth(pod, draDriver+"/claim=claim-first-1 Unhealthy it fades in the sun")
	p.edit(t, func(b *devtree.Builder) error {
		b.Remove("paint", "1")
		return nil
	})
	n.waitHealth(pod, draDriver+"/claim=claim-first-1 Unhealthy the device has left the host")
}

// drain reads the updates that are there.
func drain(m *dra.Manager) {
	for {
		select {
		case <-m.Updates():
		default:
			return
		}
	}
}

// A kubelet that starts deletes all slices of the node, and asks again for each claim.
func TestKubeletWithDRARestarts(t *testing.T) {
	n, p := startDRANode(t), &fakePlugin{}
	p.edit(t, paint(draDevice("1", ""), draDevice("2", "")))
	driver, _ := n.runDriver(p)
	pod := n.pod("first", "1")
	n.wantCDINames(pod, draDriver+"/claim=claim-first-1")
	n.waitSlices(2)
	for range 2 {
		n.stopKubelet()
		before := len(n.api.Writes())
		start := time.Now()
		n.startKubelet()
		eventually(t, func() error {
			if len(n.api.Writes()) == before {
				return errors.New("the kubelet has not deleted the slices")
			}
			return nil
		})
		n.waitSlices(2)
		t.Logf("the slices are back %v after the start of the kubelet", time.Since(start))
		n.wantCDINames(pod, draDriver+"/claim=claim-first-1")
		t.Logf("the claim is prepared again %v after the start of the kubelet", time.Since(start))
		n.waitHealth(pod, draDriver+"/claim=claim-first-1 Healthy")
		must(t, driver.CheckRegistered(t.Context()))
	}
}

func TestDriverRestartsUnderTheRealKubelet(t *testing.T) {
	n, p := startDRANode(t), &fakePlugin{}
	p.edit(t, paint(draDevice("1", ""), draDevice("2", "")))
	_, stop := n.runDriver(p)
	first := n.pod("first", "1")
	n.wantCDINames(first, draDriver+"/claim=claim-first-1")
	stop()
	second := n.pod("second", "2")
	if _, err := n.cdiNames(second); err == nil {
		t.Error("a claim is prepared without a driver")
	}
	p = &fakePlugin{}
	p.edit(t, paint(draDevice("1", ""), draDevice("2", "")))
	n.runDriver(p)
	n.wantCDINames(second, draDriver+"/claim=claim-second-2")
	must(t, n.manager.UnprepareResources(t.Context(), first))
	if files := list(t, n.cdiDir); slices.Contains(files, draDriver+"-claim-claim-first.json") {
		t.Errorf("files %q", files)
	}
}

// The new instance of a rolling update starts before the old one ends. At any time, claims can be
// prepared and unprepared, and the slices stay.
func TestRollingUpdateUnderTheRealKubelet(t *testing.T) {
	n, p := startDRANode(t), &fakePlugin{}
	p.edit(t, paint(draDevice("1", ""), draDevice("2", "")))
	_, stop := n.runDriver(p, draapi.WithPodUID("11111111-1111-1111-1111-111111111111"))
	first := n.pod("first", "1")
	n.wantCDINames(first, draDriver+"/claim=claim-first-1")
	n.waitSlices(2)
	writes := len(n.api.Writes())

	next := &fakePlugin{}
	next.edit(t, paint(draDevice("1", ""), draDevice("2", "")))
	driver, _ := n.runDriver(next, draapi.WithPodUID("22222222-2222-2222-2222-222222222222"))
	eventually(t, func() error { return driver.CheckRegistered(t.Context()) })
	eventually(t, func() error { return driver.CheckPublished(t.Context()) })
	stop()
	second := n.pod("second", "2")
	names, err := n.cdiNames(second) // at once
	if want := []string{draDriver + "/claim=claim-second-2"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the container gets the CDI devices %q, want %q: %v", names, want, err)
	}
	must(t, n.manager.UnprepareResources(t.Context(), first))
	if claims := driver.Claims(); len(claims) != 1 || claims[0].Name != "second" {
		t.Errorf("claims %+v", claims)
	}
	if n := len(n.api.Writes()) - writes; n > 0 {
		t.Errorf("%d writes to the API server in an update that changes nothing", n)
	}
}

func TestSocketsOfADRADriverAreDeleted(t *testing.T) {
	n, p := startDRANode(t), &fakePlugin{}
	p.edit(t, paint(draDevice("1", "")))
	driver, _ := n.runDriver(p)
	for i, path := range []string{
		"plugins_registry/" + draDriver + "-reg.sock", "plugins/" + draDriver + "/dra.sock", "plugins/" + draDriver,
	} {
		name := fmt.Sprintf("pod-%d", i)
		pod := n.pod(name, "1")
		n.wantCDINames(pod, draDriver+"/claim=claim-"+name+"-1")
		must(t, os.Rename(filepath.Join(n.root, path), filepath.Join(t.TempDir(), "old")))
		eventually(t, func() error {
			_, err := os.Stat(filepath.Join(n.root, path))
			return err
		})
		eventually(t, func() error { return driver.CheckRegistered(t.Context()) })
		eventually(t, func() error { return n.manager.UnprepareResources(t.Context(), pod) })
	}
	if claims := driver.Claims(); len(claims) > 0 {
		t.Errorf("claims %+v", claims)
	}
}
