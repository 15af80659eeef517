// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

func TestNodeResourcesFollowHost(t *testing.T) {
	in, h := installOnHost(t)
	w := in.runPod("runs", cy, 1)
	used := w.devices.Env["QAT0"]
	free := h.VFs(cyPF)[slices.IndexFunc(h.VFs(cyPF), func(vf string) bool { return vf != used })]

	for _, step := range []struct {
		name     string
		do       func() error
		resource string
		count    int
	}{
		{"add a PF with 16 VFs", func() error { return h.addPF(dcPF, "dc") }, dc, 16},
		{"remove a VF that is not in use", func() error { return h.RemoveVF(free) }, cy, 15},
		{"add it again", func() error { return h.AddVF(lookalike.VF{Address: free, PF: cyPF}) }, cy, 16},
		{"remove all VFs of a PF", func() error { return h.SetVFs(dcPF, 0) }, dc, 0},
		{"add them again", func() error { return h.SetVFs(dcPF, 16) }, dc, 16},
		{"remove the PF", func() error { return h.RemovePF(dcPF) }, dc, 0},
	} {
		began := time.Now()
		must(t, step.do())
		changed := time.Now()
		listed := in.awaitResources(resources{step.resource: int64(step.count)})
		sent := in.awaitListSent(step.resource, step.count, began)
		t.Logf("%-30s: the host took %7.1f ms; then the list was sent after %6.1f ms, and in the Node after %6.1f ms",
			step.name, ms(changed.Sub(began)), ms(sent.Sub(changed)), ms(listed.Sub(changed)))
	}
	w.checkUnchanged("changes of the host")
}
