// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"slices"
	"testing"

	"qatplugin/internal/lookalike"
)

// TestDRAExamples runs the pods of deployments/workloads/dra. The host has one PF more for each
// choice that they make.
func TestDRAExamples(t *testing.T) {
	const (
		symDCPF = "0000:75:00.0"
		newerPF = "0000:7a:00.0" // 6xxx, on the NUMA node of cyPF
	)
	in, h := installDRA(t)
	must(t, h.addPFOnNode(symDCPF, "sym;dc", 1, 2))
	newer := lookalike.PF{Address: newerPF, DeviceID: "4948", Services: "dc", NUMANode: 0}
	must(t, errors.Join(h.AddPF(newer), h.SetVFs(newerPF, 2)))
	var firsts []string // VFs of all PFs
	for _, pf := range []string{cyPF, dcPF, symDCPF, newerPF} {
		firsts = append(firsts, h.VFs(pf)[0])
	}
	in.awaitPool(func(p pool) error {
		return p.hasHealthy(slices.Concat(h.VFs(cyPF), h.VFs(dcPF), h.VFs(symDCPF), h.VFs(newerPF)))
	})
	in.addNamespace(workloadNamespace, enforceRestricted, "resource.kubernetes.io/admin-access=true")

	holds := in.runClaims("holds", vfs(1, selectPF(cyPF), `device.attributes["qat.intel.com"].pfIndex == 0`))
	in.runExample("one-vf").checkHas(h, 1, h.VFs(symDCPF))
	in.runExample("prioritized").checkHas(h, 1, h.VFs(newerPF))
	w := in.runExample("same-numa-node")
	w.checkHas(h, 2, slices.Concat(h.VFs(cyPF), h.VFs(newerPF)))
	if n := len(intersection(w.vfs(), h.VFs(cyPF))); n != 1 {
		t.Errorf("pod %s has %d VFs for cryptography, want 1", w.name, n)
	}
	w = in.runExample("same-pf")
	w.checkHas(h, 2, slices.Concat(h.VFs(cyPF), h.VFs(dcPF), h.VFs(symDCPF)))
	for _, pf := range []string{cyPF, dcPF, symDCPF} {
		if n := len(intersection(w.vfs(), h.VFs(pf))); n == 1 {
			t.Errorf("pod %s has VFs %v of two PFs", w.name, w.vfs())
		}
	}

	in.runExample("admin").checkHas(h, len(firsts), firsts)
	holds.checkUnchanged("admin access of another pod")
}

// runExample applies an example of claims with the node's busybox image, and waits until its pod is
// ready.
func (n *node) runExample(name string) *workload {
	n.t.Helper()
	checkRendered(n.t, "workloads/dra/"+name)
	return n.runShipped("workloads/dra/"+name, "qat-"+name)
}

func intersection(a, b []string) (both []string) {
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}
