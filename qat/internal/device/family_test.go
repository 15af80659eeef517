// SPDX-License-Identifier: Apache-2.0

package device

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The IDs are those of include/linux/pci_ids.h and adf_accel_devices.h in
// drivers/crypto/intel/qat/qat_common; those of 200xx, D15xx and C4xxx are from the out-of-tree
// driver's pci.ids entries. vfio-pci's denylist is vfio_pci_dev_in_denylist in
// drivers/vfio/pci/vfio_pci.c. The generations are those of the adf_gen*.h that the *_hw_data.c of
// each directory below drivers/crypto/intel/qat includes, and of pci_id_qat_map in DPDK's
// drivers/common/qat/qat_device.c.
func TestFamilyOf(t *testing.T) {
	tests := []struct {
		pf, vf               uint16
		pfDriver             string
		services, denylisted bool
		gen                  int
	}{
		{0x0435, 0x0443, "dh895xcc", false, true, 2},
		{0x0434, 0x0442, "dh895xcc", false, true, 2},
		{0x37c8, 0x37c9, "c6xx", false, true, 2},
		{0x19e2, 0x19e3, "c3xxx", false, true, 2},
		{0x18ee, 0x18ef, "200xx", false, false, 2},
		{0x6f54, 0x6f55, "d15xx", false, false, 2},
		{0x18a0, 0x18a1, "c4xxx", false, false, 3},
		{0x4940, 0x4941, "4xxx", true, false, 4},
		{0x4942, 0x4943, "4xxx", true, false, 4},
		{0x4944, 0x4945, "4xxx", true, false, 4},
		{0x4946, 0x4947, "420xx", true, false, 4},
		{0x4948, 0x4949, "6xxx", true, false, 6},
	}
	for _, test := range tests {
		for id, wantVF := range map[uint16]bool{test.pf: false, test.vf: true} {
			f, isVF := FamilyOf(0x8086, id)
			if f == nil {
				t.Errorf("FamilyOf(8086:%04x) = nil", id)
				continue
			}
			want := Family{
				Name: f.Name, PF: test.pf, VF: test.vf, pfDriver: test.pfDriver, VFDriver: test.pfDriver + "vf",
				Denylisted: test.denylisted, Services: test.services, Gen: test.gen,
			}
			if *f != want || isVF != wantVF {
				t.Errorf("FamilyOf(8086:%04x) = %+v, VF %v; want %+v, VF %v", id, *f, isVF, want, wantVF)
			}
			if f, _ := FamilyOf(0x1af4, id); f != nil {
				t.Errorf("FamilyOf(1af4:%04x) = %+v, want nil: another vendor", id, f)
			}
		}
	}
	if f, _ := FamilyOf(0x8086, 0x1572); f != nil {
		t.Errorf("FamilyOf of a network card = %+v, want nil", f)
	}
	if len(tests) != len(families) {
		t.Errorf("this test has %d families, the package %d", len(tests), len(families))
	}
}

func TestPFModuleIsThatOfTheKernel(t *testing.T) {
	// The names of directories and modules below drivers/crypto/intel/qat.
	for id, want := range map[uint16]string{
		0x0435: "qat_dh895xcc", 0x37c8: "qat_c62x", 0x19e2: "qat_c3xxx", 0x4942: "qat_4xxx", 0x4946: "qat_420xx",
		0x4948: "qat_6xxx",
	} {
		f, _ := FamilyOf(vendorIntel, id)
		if f == nil || f.PFModule() != want {
			t.Errorf("the module of PF %04x is %q, want %q", id, f.PFModule(), want)
		}
	}
}

func TestFirmwareIsThatOfTheKernel(t *testing.T) {
	// ADF_*_FW in the *_hw_data.h of each directory below drivers/crypto/intel/qat.
	for id, want := range map[uint16]string{
		0x0435: "qat_895xcc", 0x37c8: "qat_c62x", 0x19e2: "qat_c3xxx", 0x4940: "qat_4xxx", 0x4942: "qat_4xxx",
		0x4944: "qat_402xx", 0x4946: "qat_420xx", 0x4948: "qat_6xxx", 0x18ee: "", 0x6f54: "", 0x18a0: "",
	} {
		var files []string
		if want != "" {
			files = []string{want + ".bin", want + "_mmp.bin"}
		}
		f, _ := FamilyOf(vendorIntel, id)
		if got := f.Firmware(); !slices.Equal(got, files) {
			t.Errorf("the firmware of PF %04x is %q, want %q", id, got, files)
		}
	}
}

func TestKernelVFDriversHasNoDuplicates(t *testing.T) {
	want := []string{
		"200xxvf", "420xxvf", "4xxxvf", "6xxxvf", "c3xxxvf", "c4xxxvf", "c6xxvf", "d15xxvf", "dh895xccvf",
	}
	if got := slices.Sorted(slices.Values(KernelVFDrivers())); !slices.Equal(got, want) {
		t.Errorf("KernelVFDrivers() sorted = %v, want %v", got, want)
	}
}

func TestIsQATID(t *testing.T) {
	tests := map[string]bool{
		"8086:1572": false, "1AF4:4941": false, "8086:494": false, "8086:49410": false, "8086-4941": false,
		"8086:494G": false, "8086:49/1": false, "8086:494:": false, "8086:494`": false, "8086:04941": false, "": false,
	}
	for _, f := range families {
		for _, id := range []uint16{f.PF, f.VF} {
			text := fmt.Sprintf("8086:%04X", id)
			tests[text], tests[strings.ToLower(text)] = true, true
		}
	}
	for text, want := range tests {
		if got := IsQATID([]byte(text)); got != want {
			t.Errorf("IsQATID(%q) = %v, want %v", text, got, want)
		}
	}
	id := []byte("8086:4941")
	if n := testing.AllocsPerRun(100, func() { IsQATID(id) }); n != 0 {
		t.Errorf("IsQATID allocates %v times, want 0", n)
	}
}
