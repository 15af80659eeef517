// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/draapi/kubelettest"
	"qatplugin/internal/apitest"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/internal/testlog"
)

// timeout only keeps a broken test from hanging.
const timeout = 20 * time.Second

const (
	driver = "qat.intel.com"
	node   = "worker-1"
	pf     = "0000:6b:00.0"
)

// A rig is a node on which qat_dra_driver runs.
type rig struct {
	t       *testing.T
	host    *lookalike.Host
	kubelet *kubelettest.Kubelet
	api     *apitest.Server
	config  string // a kubeconfig for the API server
	cdiDir  string
	socket  string // of the status
	log     *testlog.Buffer

	cancel context.CancelFunc
	status chan int
}

// newRig returns a node with an empty host, on which no driver runs.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		t:       t,
		host:    lookalike.Start(t),
		kubelet: kubelettest.New(t),
		api:     apitest.New(),
		cdiDir:  t.TempDir(),
		log:     testlog.CaptureBuffer(t),
	}
	r.socket = filepath.Join(r.kubelet.Root(), "status.sock")
	must(t, os.Mkdir(r.devicePlugins(), 0o750))
	r.api.AddNode(nodeWith("containerd://2.4.2"))
	server := httptest.NewServer(r.api)
	t.Cleanup(server.Close)
	r.config = kubeconfig(t, server.URL)
	return r
}

// nodeWith returns the Node, with a container runtime.
func nodeWith(runtime string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{ContainerRuntimeVersion: runtime}},
	}
}

// devicePlugins returns the directory in which device plugins have their sockets.
func (r *rig) devicePlugins() string { return filepath.Join(r.kubelet.Root(), "device-plugins") }

// args returns the flags for the node.
func (r *rig) args() []string {
	return []string{
		"-node-name", node, "-kubeconfig", r.config, "-kubelet-root", r.kubelet.Root(),
		"-kubelet-dir", r.devicePlugins(), "-cdi-dir", r.cdiDir,
		"-sysfs-root", r.host.Sysfs(), "-dev-root", r.host.Dev(), "-status-socket", r.socket,
	}
}

// start runs the driver until stop or the end of the test.
func (r *rig) start(args ...string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.status = cancel, make(chan int, 1)
	args = slices.Concat(r.args(), []string{"-logtostderr=false"}, args)
	go func() { r.status <- run(ctx, args, io.Discard, io.Discard) }()
	r.t.Cleanup(r.stop)
}

// stop ends the driver, as SIGTERM does. It may be called more than once.
func (r *rig) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case status := <-r.status:
		if status != 0 {
			r.t.Errorf("exit status %d, want 0; log:\n%s", status, r.log)
		}
	case <-time.After(timeout):
		r.t.Fatalf("the driver does not end; log:\n%s", r.log)
	}
}

// addVFs adds a PF for cy and its first n VFs.
func (r *rig) addVFs(n int) {
	r.t.Helper()
	must(r.t, r.host.LoadDriver("vfio-pci"))
	must(r.t, r.host.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
	must(r.t, r.host.SetVFs(pf, n))
}

// await waits until f returns true.
func (r *rig) await(what string, f func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(timeout); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s; log:\n%s", what, r.log)
		}
	}
}

// devices returns the devices of all slices by name.
func (r *rig) devices() map[string]resourcev1.Device {
	list := map[string]resourcev1.Device{}
	for _, slice := range r.api.Slices() {
		for _, d := range slice.Spec.Devices {
			list[d.Name] = d
		}
	}
	return list
}

// awaitDevices waits until the API server has n devices.
func (r *rig) awaitDevices(n int) {
	r.t.Helper()
	r.await("slices with all devices", func() bool { return len(r.devices()) == n })
}

// awaitRegistered waits until n instances of the driver are registered.
func (r *rig) awaitRegistered(n int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), timeout)
	defer cancel()
	must(r.t, r.kubelet.WaitRegistered(ctx, driver, n))
}

// allocate adds a claim for these devices, as the scheduler allocates them.
func (r *rig) allocate(name string, devices ...string) *dra.Claim {
	var results []resourcev1.DeviceRequestAllocationResult
	for _, d := range devices {
		results = append(results, resourcev1.DeviceRequestAllocationResult{
			Request: "vf", Driver: driver, Pool: node, Device: d,
		})
	}
	r.api.AddClaim(&resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-1")},
		Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{
			Devices: resourcev1.DeviceAllocationResult{Results: results},
		}},
	})
	return &dra.Claim{Namespace: "default", Name: name, Uid: name + "-1"}
}

// prepare prepares a claim, as the kubelet does, and returns its devices.
func (r *rig) prepare(claim *dra.Claim) ([]*dra.Device, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), timeout)
	defer cancel()
	return r.kubelet.Prepare(ctx, driver, claim)
}

func (r *rig) unprepare(claim *dra.Claim) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), timeout)
	defer cancel()
	must(r.t, r.kubelet.Unprepare(ctx, driver, claim))
}

// edits returns the environment and the device nodes of a container with the devices. The runtime's
// library cannot apply the specs: it needs the device nodes of the look-alike host at their paths.
func (r *rig) edits(devices []*dra.Device) (env, nodes []string) {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.cdiDir, "*.json"))
	must(r.t, err)
	for _, file := range files {
		spec, err := cdi.ReadSpec(file, 0)
		must(r.t, err)
		for _, d := range devices {
			for _, name := range d.GetCdiDeviceIds() {
				if found := spec.GetDevice(strings.TrimPrefix(name, spec.Kind+"=")); found != nil {
					env = append(env, found.ContainerEdits.Env...)
					for _, n := range found.ContainerEdits.DeviceNodes {
						nodes = append(nodes, n.Path)
					}
				}
			}
		}
	}
	return env, nodes
}

// get returns the answer of the status socket.
func (r *rig) get(path string) (code int, body string) {
	r.t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
		},
	}
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://driver"+path, nil)
	must(r.t, err)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err.Error() // it is not served yet
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(r.t, err)
	return response.StatusCode, string(text)
}

// snapshot returns the answer of /statusz.
func (r *rig) snapshot() *status.Snapshot {
	r.t.Helper()
	s := &status.Snapshot{}
	code, body := r.get("/statusz?format=json")
	if err := json.Unmarshal([]byte(body), s); err != nil || code != http.StatusOK {
		r.t.Fatalf("/statusz: %d, %v\n%s", code, err, body)
	}
	return s
}

// awaitReady waits until all checks pass.
func (r *rig) awaitReady() {
	r.t.Helper()
	body := ""
	for deadline := time.Now().Add(timeout); ; time.Sleep(5 * time.Millisecond) {
		code := 0
		if code, body = r.get("/readyz?verbose"); code == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the driver is not ready:\n%s\nlog:\n%s", body, r.log)
		}
	}
}

// notReady returns whether /readyz fails for a reason.
func (r *rig) notReady(reason string) bool {
	r.t.Helper()
	code, body := r.get("/readyz?verbose")
	return code == http.StatusInternalServerError && strings.Contains(body, reason)
}
