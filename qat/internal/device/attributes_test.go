// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/pci"
)

// attributeReader returns a Reader with Config.Attributes.
func attributeReader(h *lookalike.Host) *Reader {
	return NewReader(Config{
		Sysfs:      h.Sysfs(),
		Dev:        h.Dev(),
		Driver:     DriverVFIO,
		Interface:  InterfaceAuto,
		Attributes: true,
	})
}

// The kernel removes the VFs of a PF in the order of their numbers (drivers/pci/iov.c,
// sriov_del_vfs), so the position of a VF among those that exist is not its number.
func TestVFNumbersAreThoseOfTheLinks(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 12)) // virtfn10 lists between virtfn1 and virtfn2
	vfs := h.VFs(pfA)
	must(t, h.RemoveVF(vfs[0]))
	must(t, h.RemoveVF(vfs[7]))
	f := read(t, attributeReader(h), pfA)
	if want := []int{1, 2, 3, 4, 5, 6, 8, 9, 10, 11}; !slices.Equal(f.VFNumbers, want) {
		t.Errorf("VFNumbers = %v, want %v", f.VFNumbers, want)
	}
	var want []pci.Address
	for _, n := range f.VFNumbers {
		want = append(want, address(t, vfs[n]))
	}
	if diff := cmp.Diff(want, f.VFs); diff != "" {
		t.Errorf("VFs (-want +got):\n%s", diff)
	}
}

func TestFieldsOfAttributesAreReadOnRequest(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 1))
	vf := h.VFs(pfA)[0]
	for name, r := range map[string]*Reader{"with": attributeReader(h), "without": vfioReader(h)} {
		root, version, numbers := "", "", []int(nil)
		if name == "with" {
			root, version, numbers = "pci0000:6b", "0.6.0", []int{0}
		}
		f := read(t, r, pfA)
		if f.PCIeRoot != root || f.DriverVersion != version || !slices.Equal(f.VFNumbers, numbers) {
			t.Errorf("%s Attributes: PF %+v", name, f)
		}
		f = read(t, r, vf)
		if f.PCIeRoot != root {
			t.Errorf("%s Attributes: root %q of the VF, want %q", name, f.PCIeRoot, root)
		}
		again, err := r.Open(f.Address, f)
		must(t, err)
		known, err := again.Read()
		again.Close()
		must(t, err)
		for how, f := range map[string]*Function{"reread": r.Reread(f), "read as a known VF": known} {
			if f.PCIeRoot != root {
				t.Errorf("%s Attributes: root %q of the VF when it is %s, want %q", name, f.PCIeRoot, how, root)
			}
		}
	}
	must(t, h.Unbind(pfA)) // which removes the link to the module
	if f := read(t, attributeReader(h), pfA); f.DriverVersion != "" {
		t.Errorf("version %q of a PF without a driver, want none", f.DriverVersion)
	}
}

// The paths and results are those of TestGetPCIeRootAttributeByPCIBusID in
// k8s.io/dynamic-resource-allocation/deviceattribute, and of hosts with VMD, a device tree or
// Hyper-V.
func TestPCIeRoot(t *testing.T) {
	for dir, want := range map[string]string{
		"devices/pci0000:01/0000:01:02.3":                                           "pci0000:01",
		"devices/pci0000:16/0000:16:02.0/0000:17:00.0/0000:18:00.1":                 "pci0000:16",
		"devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0":   "pci0000:00",
		"devices/platform/40000000.pcie/pci0000:00/0000:00:01.0":                    "",
		"devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/a/pci0001:00/0001:00": "",
		"elsewhere/pci0000:01/0000:01:02.3":                                         "",
	} {
		if got := pcieRoot("/host/sys", filepath.Join("/host/sys", dir)); got != want {
			t.Errorf("pcieRoot of %s = %q, want %q", dir, got, want)
		}
	}
}

func TestServicesOfAResource(t *testing.T) {
	for value, want := range map[string][]string{
		"sym;asym":       {"asym", "sym"},
		"dc":             {"dc"},
		"dcc":            {"dcc"},
		"dc;sym":         {"sym", "dc"},
		"decomp;asym;dc": {"asym", "dc", "decomp"},
		"dc;sym;asym":    {"asym", "sym", "dc"},
	} {
		if got := ServicesOf(resourceOf(value)); !slices.Equal(got, want) {
			t.Errorf("services of the resource for %q = %v, want %v", value, got, want)
		}
	}
	if got := ServicesOf(Generic); got != nil {
		t.Errorf("services of %s = %v, want none", Generic, got)
	}
}
