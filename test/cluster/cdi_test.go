// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"tags.cncf.io/container-device-interface/specs-go"
)

// cdiSpec is the file of the device plugin with the overlay cdi.
const cdiSpec = "/var/run/cdi/qat.intel.com-vf_device-plugin.json"

// checkCDISpec checks that the CDI directory of the node has a spec of the VFs.
func checkCDISpec(t *testing.T, vfs []string) {
	t.Helper()
	spec := readCDISpec(t)
	var got []string
	for _, d := range spec.Devices {
		got = append(got, d.Name)
	}
	slices.Sort(got)
	slices.Sort(vfs)
	if diff := cmp.Diff(vfs, got); diff != "" || spec.Kind != "qat.intel.com/vf" {
		t.Errorf("CDI spec of kind %s (-want +got):\n%s", spec.Kind, diff)
	}
}

func readCDISpec(t *testing.T) (spec specs.Spec) {
	t.Helper()
	must(t, json.Unmarshal([]byte(readFile(t, cdiSpec)), &spec))
	return spec
}

// checkRuntimeUsesCDI checks that the runtime applies the edits in the spec of a pod's VF. The
// plugin's spec has the same edits as its response to Allocate, so the test adds a variable to the
// spec while the plugin is suspended, and lets the kubelet restart the container.
func (in *installation) checkRuntimeUsesCDI() {
	in.t.Helper()
	pod := requesting(newPod("cdi"), cy, 1)
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	w := in.run(pod)
	before := w.devices

	original := readFile(in.t, cdiSpec)
	plugin, err := in.pod()
	must(in.t, err)
	resume := in.suspend(plugin)
	defer resume()
	spec := readCDISpec(in.t)
	for i := range spec.Devices {
		edits := &spec.Devices[i].ContainerEdits
		edits.Env = append(edits.Env, "QAT_FROM_CDI="+spec.Devices[i].Name)
	}
	text, err := json.Marshal(spec)
	must(in.t, err)
	must(in.t, os.WriteFile(cdiSpec+".new", text, 0o644))
	must(in.t, os.Rename(cdiSpec+".new", cdiSpec))

	must(in.t, syscall.Kill(in.process(w.pod), syscall.SIGKILL))
	poll(in.t, func() error {
		now, err := in.client.CoreV1().Pods(pod.Namespace).Get(in.t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if restarts := now.Status.ContainerStatuses[0].RestartCount; restarts != 1 {
			return fmt.Errorf("the container of pod %s has been restarted %d times, want once", pod.Name, restarts)
		}
		return checkReady(now)
	})
	want := devices{Env: maps.Clone(before.Env), Nodes: before.Nodes}
	want.Env["QAT_FROM_CDI"] = before.Env["QAT0"]
	if diff := cmp.Diff(want, w.readDevices()); diff != "" {
		in.t.Errorf("devices of a container that started with an edited CDI spec (-want +got):\n%s", diff)
	}

	resume()
	poll(in.t, func() error {
		if diff := cmp.Diff(original, readFile(in.t, cdiSpec)); diff != "" {
			return fmt.Errorf("the plugin has not restored its CDI spec (-want +got):\n%s", diff)
		}
		return nil
	})
}
