package qat

import (
	"slices"
	"testing"
)

// The IDs are those of include/linux/pci_ids.h, drivers/crypto/intel/qat/qat_common/adf_accel_devices.h and, for 200xx, D15xx and C4xxx, of
// the out-of-tree driver's pci.ids entries.
func TestFamilyOf(t *testing.T) {
	tests := []struct {
		pf, vf   uint16
		pfDriver string
		services bool
	}{
		{0x0435, 0x0443, "dh895xcc", false}, {0x37c8, 0x37c9, "c6xx", false}, {0x19e2, 0x19e3, "c3xxx", false},
		{0x18ee, 0x18ef, "200xx", false}, {0x6f54, 0x6f55, "d15xx", false}, {0x18a0, 0x18a1, "c4xxx", false},
		{0x4940, 0x4941, "4xxx", true}, {0x4942, 0x4943, "4xxx", true}, {0x4944, 0x4945, "4xxx", true},
		{0x4946, 0x4947, "420xx", true}, {0x4948, 0x4949, "6xxx", true},
	}
	for _, test := range tests {
		for id, wantVF := range map[uint16]bool{test.pf: false, test.vf: true} {
			f, isVF := familyOf(0x8086, id)
			if f == nil || isVF != wantVF || f.PFDriver != test.pfDriver || f.VFDriver != test.pfDriver+"vf" || f.Services != test.services {
				t.Errorf("familyOf(8086:%04x) = %+v, VF %v; want drivers %s and %[4]svf, VF %v, services %v", id, f, isVF, test.pfDriver, wantVF, test.services)
			}
			if f, _ := familyOf(0x1af4, id); f != nil {
				t.Errorf("familyOf(1af4:%04x) = %+v, want none: another vendor", id, f)
			}
		}
	}
	if f, _ := familyOf(0x8086, 0x1572); f != nil {
		t.Errorf("familyOf of a network card = %+v, want none", f)
	}
}

func TestKernelVFDriversAreEachOnce(t *testing.T) {
	want := []string{"200xxvf", "420xxvf", "4xxxvf", "6xxxvf", "c3xxxvf", "c4xxxvf", "c6xxvf", "d15xxvf", "dh895xccvf"}
	if got := slices.Sorted(slices.Values(KernelVFDrivers())); !slices.Equal(got, want) {
		t.Errorf("KernelVFDrivers() sorted = %v, want %v", got, want)
	}
}
