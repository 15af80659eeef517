// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

// TestProvisioningOverlay installs the overlay on a host whose PFs have no VFs, and changes the
// services while a pod holds VFs. The plugin asks the real kubelet for the VFs of pods.
func TestProvisioningOverlay(t *testing.T) {
	const name = "qat_plugin/overlays/provisioning"
	n := openNode(t)
	checkRendered(t, name)
	h := startHost(t)
	must(t, h.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym"}))
	must(t, h.AddPF(lookalike.PF{Address: dcPF, Services: "dc"}))

	began := time.Now()
	in := n.install(name, h.hostPaths())
	in.checkPodSecurity("hostPath volumes", "seLinuxOptions")
	in.awaitReady()
	listed := n.awaitResources(resources{cy: 16, dc: 16})
	t.Logf("32 VFs of bare PFs in the Node's capacity %.1f s after kubectl apply", listed.Sub(began).Seconds())

	w := n.runPod("holds", cy, 2)
	w.checkOpens("/dev/vfio/vfio")
	began = time.Now()
	kubectl(t, "patch", "-n", pluginNamespace, "configmap/qat-provisioning", "--type=merge",
		"-p", `{"data":{"qat.yaml":"rules: [{services: [sym, dc], vfs: all}]\n"}}`)
	const symDC = prefix + "sym-dc"
	changed := n.awaitResources(resources{symDC: 16, dc: 0})
	t.Logf("the PF without pods had other services %.1f s after the change of the ConfigMap",
		changed.Sub(began).Seconds())
	poll(t, func() error {
		if log := in.logs(); !strings.Contains(log, w.pod.Namespace+"/"+w.name) {
			return fmt.Errorf("the log does not name the pod %s:\n%s", w.name, log)
		}
		return nil
	})
	w.checkUnchanged("the change of the ConfigMap")
	if services := strings.TrimSpace(readFile(t, h.Path(cyPF), "qat/cfg_services")); services != "sym;asym" {
		t.Errorf("services of the PF whose VFs a pod holds: %s", services)
	}
	for _, vf := range w.vfs() {
		if !slices.Contains(h.VFs(cyPF), vf) {
			t.Errorf("%s, which the pod holds, is gone", vf)
		}
	}

	began = time.Now()
	kubectl(t, "delete", "pod", w.name)
	ended := time.Now()
	changed = n.awaitResources(resources{symDC: 32, cy: 0})
	t.Logf("the pod took %.1f s to end; then its PF had other services after %.1f s",
		ended.Sub(began).Seconds(), changed.Sub(ended).Seconds())
}
