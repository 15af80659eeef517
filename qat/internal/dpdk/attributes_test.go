// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"maps"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
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

// The event of a VF comes before that of its PF (drivers/pci/iov.c, sriov_enable). If the VF got
// its number only with the second event, its slice would be written twice.
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

func TestAttributesThatAreNotKnownAreLeftOut(t *testing.T) {
	vf := func(change func(f *facts)) facts {
		f := usableVF()
		f.vf.PCIeRoot, f.vf.NUMANode = "pci0000:6b", 1
		f.pf.VFs, f.pf.VFNumbers, f.pf.DriverVersion = []pci.Address{f.vf.Address}, []int{3}, "1.2.3"
		if change != nil {
			change(&f)
		}
		return f
	}
	all := map[string]any{
		attributePCIBusID: "0000:6b:00.1", attributePCIeRoot: "pci0000:6b", attributeNUMANode: int64(1),
		attributeFamily: "4xxx", attributeGeneration: int64(4), attributePFAddress: "0000:6b:00.0",
		attributePFIndex: int64(3), attributeServices: "sym;asym", attributeResource: "cy",
		attributeInterface: "group", attributeDriverVersion: devtree.Version("1.2.3"),
		"asym": true, "sym": true, "dc": false, "decomp": false, "dcc": false,
	}
	for name, tt := range map[string]struct {
		facts    facts
		resource string
		want     map[string]any // besides those of all; nil: it is left out
	}{
		"all":          {vf(nil), "cy", nil},
		"no NUMA node": {vf(func(f *facts) { f.vf.NUMANode = -1 }), "cy", map[string]any{attributeNUMANode: nil}},
		"NUMA node 0":  {vf(func(f *facts) { f.vf.NUMANode = 0 }), "cy", map[string]any{attributeNUMANode: int64(0)}},
		"no root":      {vf(func(f *facts) { f.vf.PCIeRoot = "" }), "cy", map[string]any{attributePCIeRoot: nil}},
		"no version": {
			vf(func(f *facts) { f.pf.DriverVersion = "" }), "cy",
			map[string]any{attributeDriverVersion: nil},
		},
		"not a semantic version": {
			vf(func(f *facts) { f.pf.DriverVersion = "1.1.50-00003" }), "cy",
			map[string]any{attributeDriverVersion: nil},
		},
		"no virtfn link": {vf(func(f *facts) { f.pf.VFs = nil }), "cy", map[string]any{attributePFIndex: nil}},
		"no PF": {
			vf(func(f *facts) { f.pf, f.pfAddress = nil, nil }), device.Generic,
			map[string]any{
				attributePFAddress: nil, attributePFIndex: nil, attributeDriverVersion: nil, attributeServices: nil,
				attributeResource: "generic", "asym": false, "sym": false,
			},
		},
		"PF that is not QAT": {
			vf(func(f *facts) { f.pf = nil }), device.Generic,
			map[string]any{
				attributePFIndex: nil, attributeDriverVersion: nil, attributeServices: nil,
				attributeResource: "generic", "asym": false, "sym": false,
			},
		},
		"three services": {
			vf(nil), "asym-sym-dc",
			map[string]any{attributeServices: "sym;asym;dc", attributeResource: "asym-sym-dc", "dc": true},
		},
		"without sym": {
			vf(nil), "asym-dc",
			map[string]any{attributeServices: "asym;dc", attributeResource: "asym-dc", "dc": true, "sym": false},
		},
		"cdev": {
			vf(func(f *facts) { f.vf.Node.Name = "vfio/devices/vfio3" }), "cy",
			map[string]any{attributeInterface: "cdev"},
		},
		"no IOMMU": {vf(func(f *facts) { f.vf.Node.Name = "vfio/noiommu-0" }), "cy", nil},
		"igb_uio":  {vf(func(f *facts) { f.vf.Node.Name = "uio3" }), "cy", map[string]any{attributeInterface: "uio"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := maps.Clone(all)
			for name, value := range tt.want {
				if want[name] = value; value == nil {
					delete(want, name)
				}
			}
			if diff := cmp.Diff(want, attributes(&tt.facts, tt.resource)); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
		})
	}
}
