// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
)

// TestDRAProvisioning installs the overlay on a host whose PFs have no VFs, and changes the
// services while a pod holds a VF. The VFs of its PF are tainted until the pod ends.
func TestDRAProvisioning(t *testing.T) {
	const name = "qat_dra_driver/overlays/provisioning"
	n := openNode(t)
	checkRendered(t, name)
	h := startHost(t)
	must(t, h.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym"}))
	must(t, h.AddPF(lookalike.PF{Address: dcPF, Services: "dc"}))
	in := n.installDriver(name, h)
	in.awaitReady()
	in.awaitPool(func(p pool) error { return p.hasResources(resources{"cy": 16, "dc": 16}) })

	w := in.runClaims("holds", vfs(1, selectSym))
	held := w.vfs()[0]
	began := time.Now()
	kubectl(t, "patch", "-n", pluginNamespace, "configmap/qat-provisioning", "--type=merge",
		"-p", `{"data":{"qat.yaml":"rules: [{services: [sym, dc], vfs: all}]\n"}}`)
	changed := in.awaitPool(func(p pool) error {
		want := map[string]string{}
		for _, vf := range h.VFs(cyPF) {
			want[deviceName(vf)] = taintUnhealthy + "=withdrawn:NoSchedule"
		}
		if diff := cmp.Diff(want, p.taints()); diff != "" {
			return fmt.Errorf("taints (-want +got):\n%s", diff)
		}
		return p.hasResources(resources{"sym-dc": 16, "cy": 16})
	})
	t.Logf("%.1f s after the change of the ConfigMap, the PF without pods had other services, "+
		"and the VFs of the other one were tainted", changed.Sub(began).Seconds())
	w.checkUnchanged("the change of the ConfigMap")
	if !slices.Contains(h.VFs(cyPF), held) {
		t.Errorf("%s, which the pod holds, is gone", held)
	}

	in.create(in.newClaimPod("waits", vfs(17, selectSym, selectDC)))
	in.awaitUnschedulable("waits")
	waits := in.watchPod("waits")
	kubectl(t, "delete", "pod", w.name)
	ended := time.Now()
	scheduled := waits.await("scheduled", isScheduled)
	t.Logf("the pod ended: another one had VFs of both PFs with other services %.1f s later",
		scheduled.Sub(ended).Seconds())
	in.awaitWorkload("default", "waits").checkHas(h, 17, slices.Concat(h.VFs(cyPF), h.VFs(dcPF)))
}

// hasResources returns an error unless the pool has these numbers of devices, healthy or not, by
// their resource.
func (p pool) hasResources(want resources) error {
	got := resources{}
	for _, d := range p {
		if name := d.Attributes["resource"].StringValue; name != nil {
			got[*name]++
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("devices by resource (-want +got):\n%s", diff)
	}
	return nil
}
