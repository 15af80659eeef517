// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"testing"
	"testing/synctest"

	"qatplugin/internal/lookalike"
)

// numbers returns the attribute pfIndex of each listed VF; nil: it has none.
func (r *rig) numbers() map[string]any {
	m := map[string]any{}
	for resource := range r.tree.Resources() {
		for d := range resource.Devices() {
			m[d.ID] = d.Attributes[attributePFIndex]
		}
	}
	return m
}

// The event of a VF comes before that of its PF (drivers/pci/iov.c, sriov_enable). If the VF had its
// number only after the second one, its slice would be written twice.
func TestNewVFIsListedWithItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true, Attributes: true})
		r.rescan()
		addVFs(t, h, pfA, vfA2)
		r.read(vfA2)
		if n := r.numbers(); n[vfA1] != int64(0) || n[vfA2] != int64(1) {
			t.Errorf("numbers of the VFs are %v, want 0 and 1", n)
		}
		must(t, h.RemoveVF(vfA1))
		r.read(vfA1)
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		must(t, h.Bind(vfA1, "vfio-pci"))
		r.read(vfA1)
		if n := r.numbers(); n[vfA1] != int64(0) || n[vfA2] != int64(1) {
			t.Errorf("numbers after a VF came back are %v, want 0 and 1", n)
		}
	})
}
