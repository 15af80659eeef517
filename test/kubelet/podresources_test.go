// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"qatplugin/test/kubelet/devicemanager"
)

// servePodResources serves the kubelet's PodResources API until the test ends.
func (n *node) servePodResources() {
	n.t.Helper()
	stop, err := n.ServePodResources(n.t.Context())
	must(n.t, err)
	n.t.Cleanup(stop)
}

// podResources returns what List reports: pod → its devices, sorted.
func podResources(ctx context.Context) (map[string][]string, error) {
	conn, err := grpc.NewClient("unix://"+devicemanager.PodResourcesSocket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list := &podresourcesapi.ListPodResourcesRequest{}
	response, err := podresourcesapi.NewPodResourcesListerClient(conn).List(ctx, list)
	if err != nil {
		return nil, err
	}
	pods := map[string][]string{}
	for _, pod := range response.GetPodResources() {
		ids := []string{}
		for _, c := range pod.GetContainers() {
			for _, d := range c.GetDevices() {
				ids = append(ids, d.GetDeviceIds()...)
			}
		}
		slices.Sort(ids)
		pods[pod.GetName()] = slices.Compact(ids)
	}
	return pods, nil
}

// The plugin relies on these facts (kubeletapi/podresources, package comment).
func TestWhatTheKubeletReports(t *testing.T) {
	p := &fakePlugin{}
	n, _ := serveDevices(t, p, 4)
	n.servePodResources()
	want := func(want map[string][]string) {
		t.Helper()
		got, err := podResources(t.Context())
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("pods and their devices (-want +got):\n%s", diff)
		}
	}
	want(map[string][]string{})

	// A pod is reported as soon as it is admitted, before its containers start.
	first := devicemanager.Pod("first", devicemanager.Container("c", generic, 2))
	n.mustAdmit(first)
	firstIDs := n.Assigned(first, "c", generic)
	want(map[string][]string{"first": firstIDs})

	// The devices of an init container are not reported, unless it is a sidecar.
	always := v1.ContainerRestartPolicyAlways
	sidecar := devicemanager.Container("sidecar", generic, 1)
	sidecar.RestartPolicy = &always
	second := devicemanager.Pod("second")
	second.Spec.InitContainers = []v1.Container{sidecar, devicemanager.Container("init", generic, 1)}
	n.mustAdmit(second)
	if len(n.Assigned(second, "init", generic)) != 1 {
		t.Fatal("the init container got no device")
	}
	want(map[string][]string{"first": firstIDs, "second": n.Assigned(second, "sidecar", generic)})

	// A rejected pod is not reported, and neither is a pod that is over.
	if err := n.Admit(devicemanager.Pod("third", devicemanager.Container("c", generic, 1))); err == nil {
		t.Fatal("the third pod was admitted")
	}
	n.Remove(second)
	want(map[string][]string{"first": firstIDs})

	// After a restart the kubelet reports the same, even before the plugin has registered.
	n.restart()
	want(map[string][]string{"first": firstIDs})
}

// A plugin with a device limit restarts while pods hold VFs that it would not choose itself.
func testHeldVFs(t *testing.T, path string) {
	n, host, stop := startQATNode(t, path)
	must(t, host.SetVFs(cyPF, 16))
	vfs := host.VFs(cyPF)
	n.wantVFs(cy, vfs, 1)
	pods := map[string]*v1.Pod{} // VF → pod
	for _, vf := range vfs {
		pod := devicemanager.Pod("pod-"+vf, devicemanager.Container("c", cy, 1))
		n.mustAdmit(pod)
		pods[n.Assigned(pod, "c", cy)[0]] = pod
	}
	held := []string{vfs[9], vfs[13]}
	for vf, pod := range pods {
		if !slices.Contains(held, vf) {
			n.Remove(pod)
		}
	}
	stop()

	n.servePodResources()
	for range 2 {
		stop := n.startQAT(path, host, "-max-num-devices=2")
		n.wantVFs(cy, held, 1)
		stop()
	}
	stop = n.startQAT(path, host, "-max-num-devices=2", "-pod-resources-socket=")
	n.wantVFs(cy, vfs[:2], 1) // without an answer, the order of the addresses decides
	stop()
}
