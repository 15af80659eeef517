// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// podResourcesDir is the directory of the socket of the kubelet's PodResources API.
const podResourcesDir = "/var/lib/kubelet/pod-resources"

// TestVFsThatPodsHoldKeepTheirPlaces restarts the plugin with a device limit while pods hold VFs
// that the plugin would not choose itself.
func TestVFsThatPodsHoldKeepTheirPlaces(t *testing.T) {
	in, h := installOnHost(t)
	vfs := h.VFs(cyPF)
	var pods []*workload
	var held []string
	for len(pods) == 0 || slices.Equal(held, vfs[:len(held)]) {
		w := in.runPod(fmt.Sprintf("held-%d", len(pods)), cy, 2)
		pods, held = append(pods, w), append(held, w.vfs()...)
		slices.Sort(held)
	}
	in.limitDevices(len(held))
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"restart of the plugin with a limit", func() {}},
		{"kill of the plugin", func() { in.kill() }},
		{"restart of the kubelet", func() { in.restartKubelet() }},
	} {
		step.do()
		in.awaitHealthy(cy, held)
		for _, w := range pods {
			w.checkUnchanged(step.name)
		}
	}
	for _, w := range pods {
		kubectl(t, "delete", "pod", w.name)
	}
	in.awaitHealthy(cy, held) // VFs that are listed stay listed
	again := in.runPod("again", cy, int64(len(held)))
	if diff := cmp.Diff(held, again.vfs()); diff != "" {
		t.Errorf("VFs of a pod that requests all (-want +got):\n%s", diff)
	}
}

// limitDevices sets -max-num-devices, and gives the plugin what it needs to ask the kubelet which
// VFs pods hold (docs/flags.md). It waits for the new pod.
func (in *installation) limitDevices(limit int) {
	in.t.Helper()
	const container = "/spec/template/spec/containers/0"
	type object = map[string]any
	add := func(path string, value any) object { return object{"op": "add", "path": path, "value": value} }
	patch, err := json.Marshal([]object{
		add("/spec/template/spec/volumes/-", object{
			"name":     "pod-resources",
			"hostPath": object{"path": podResourcesDir, "type": "Directory"},
		}),
		add(container+"/volumeMounts/-", object{
			"name":      "pod-resources",
			"mountPath": podResourcesDir,
			"readOnly":  true,
		}),
		add(container+"/args/-", fmt.Sprintf("-max-num-devices=%d", limit)),
	})
	must(in.t, err)
	kubectl(in.t, "patch", "-n", pluginNamespace, "daemonset/"+in.set, "--type=json", "-p", string(patch))
	in.awaitReady()
}

// awaitHealthy waits until the kubelet has exactly these healthy devices of a resource.
func (in *installation) awaitHealthy(resource string, want []string) {
	in.t.Helper()
	poll(in.t, func() error {
		got, err := healthyDevices(in.t.Context(), resource)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the kubelet has %v of %s, want %v", got, resource, want)
		}
		return err
	})
}

// healthyDevices returns the kubelet's healthy devices of a resource, in use or not, sorted.
func healthyDevices(ctx context.Context, resource string) ([]string, error) {
	conn, err := grpc.NewClient("unix://"+podResourcesDir+"/kubelet.sock",
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	response, err := podresourcesapi.NewPodResourcesListerClient(conn).
		GetAllocatableResources(ctx, &podresourcesapi.AllocatableResourcesRequest{})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, d := range response.GetDevices() {
		if d.GetResourceName() == resource {
			ids = append(ids, d.GetDeviceIds()...)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
