// SPDX-License-Identifier: Apache-2.0

package device

import (
	"slices"
	"strconv"
)

// Family is a kind of QAT device: a physical function (PF), its virtual functions (VFs) and their
// drivers.
type Family struct {
	Name     string
	PF, VF   uint16 // PCI device IDs; the vendor is Intel
	pfDriver string
	VFDriver string // the VFs' kernel driver, whether or not the mainline kernel has it

	// Denylisted reports whether vfio-pci refuses the VFs unless it is loaded with
	// disable_denylist=1 (drivers/vfio/pci/vfio_pci.c, vfio_pci_dev_in_denylist).
	Denylisted bool

	// Services reports whether the PF has qat/state and qat/cfg_services
	// (Documentation/ABI/testing/sysfs-driver-qat).
	Services bool

	// Gen is the generation whose code in the mainline driver the family uses
	// (drivers/crypto/intel/qat/qat_common, adf_gen2_*.c, adf_gen4_*.c and adf_gen6_*.c), or the
	// generation in DPDK's table for the families that the mainline driver does not have
	// (drivers/common/qat/qat_device.c, pci_id_qat_map).
	Gen int
}

// PFDriver returns the name of the PFs' driver.
func (f *Family) PFDriver() string { return f.pfDriver }

// PFModule returns the name of the module with the PFs' driver.
func (f *Family) PFModule() string {
	if f.pfDriver == "c6xx" {
		return "qat_c62x" // drivers/crypto/intel/qat/qat_c62x/Makefile
	}
	return "qat_" + f.pfDriver
}

// Firmware returns the names of the files in /lib/firmware that the PFs' driver of the mainline
// kernel loads (drivers/crypto/intel/qat, ADF_*_FW and ADF_*_MMP). It returns nil for a family that
// only the out-of-tree driver has.
func (f *Family) Firmware() []string {
	name := f.pfDriver
	switch f.pfDriver {
	case "200xx", "d15xx", "c4xxx":
		return nil
	case "dh895xcc":
		name = "895xcc"
	case "c6xx":
		name = "c62x"
	case "4xxx":
		if f.PF == 0x4944 { // qat_4xxx/adf_4xxx_hw_data.c, adf_init_hw_data_4xxx
			name = "402xx"
		}
	}
	return []string{"qat_" + name + ".bin", "qat_" + name + "_mmp.bin"}
}

const vendorIntel = 0x8086

// families lists the devices of drivers/crypto/intel/qat (qat_common/adf_accel_devices.h) and of
// Intel's out-of-tree driver. Those with the same VFDriver follow each other.
var families = [...]Family{
	{Name: "DH895xCC", PF: 0x0435, VF: 0x0443, pfDriver: "dh895xcc", VFDriver: "dh895xccvf", Denylisted: true, Gen: 2},
	{Name: "DH895xCC", PF: 0x0434, VF: 0x0442, pfDriver: "dh895xcc", VFDriver: "dh895xccvf", Denylisted: true, Gen: 2},
	{Name: "C62x", PF: 0x37c8, VF: 0x37c9, pfDriver: "c6xx", VFDriver: "c6xxvf", Denylisted: true, Gen: 2},
	{Name: "C3xxx", PF: 0x19e2, VF: 0x19e3, pfDriver: "c3xxx", VFDriver: "c3xxxvf", Denylisted: true, Gen: 2},
	{Name: "200xx", PF: 0x18ee, VF: 0x18ef, pfDriver: "200xx", VFDriver: "200xxvf", Gen: 2},
	{Name: "D15xx", PF: 0x6f54, VF: 0x6f55, pfDriver: "d15xx", VFDriver: "d15xxvf", Gen: 2},
	{Name: "C4xxx", PF: 0x18a0, VF: 0x18a1, pfDriver: "c4xxx", VFDriver: "c4xxxvf", Gen: 3},
	{Name: "4xxx", PF: 0x4940, VF: 0x4941, pfDriver: "4xxx", VFDriver: "4xxxvf", Services: true, Gen: 4},
	{Name: "401xx", PF: 0x4942, VF: 0x4943, pfDriver: "4xxx", VFDriver: "4xxxvf", Services: true, Gen: 4},
	{Name: "402xx", PF: 0x4944, VF: 0x4945, pfDriver: "4xxx", VFDriver: "4xxxvf", Services: true, Gen: 4},
	{Name: "420xx", PF: 0x4946, VF: 0x4947, pfDriver: "420xx", VFDriver: "420xxvf", Services: true, Gen: 4},
	{Name: "6xxx", PF: 0x4948, VF: 0x4949, pfDriver: "6xxx", VFDriver: "6xxxvf", Services: true, Gen: 6},
}

// Families returns all families. Two of them can have the same names.
func Families() []*Family {
	all := make([]*Family, len(families))
	for i := range families {
		all[i] = &families[i]
	}
	return all
}

// ConfigName returns the name of the family in configuration files, such as "c6xx" or "401xx". It
// is the name of the PF's kernel driver, or the name of the family where families with different
// services share a driver.
func (f *Family) ConfigName() string {
	if f.Services {
		return f.Name
	}
	return f.pfDriver
}

// KernelVFDrivers returns the names of the VFs' kernel drivers, each once.
func KernelVFDrivers() []string {
	var names []string
	for _, f := range families {
		names = append(names, f.VFDriver)
	}
	return slices.Compact(names)
}

// FamilyOf returns the family that a PCI ID belongs to, and whether the ID is the VF ID of that
// family. It returns nil if no QAT device has the ID.
func FamilyOf(vendor, device uint16) (family *Family, isVF bool) {
	if vendor != vendorIntel {
		return nil, false
	}
	for i := range families {
		switch f := &families[i]; device {
		case f.PF:
			return f, false
		case f.VF:
			return f, true
		}
	}
	return nil, false
}

// IsQATID reports whether the value of a uevent's PCI_ID, such as "8086:4941", is that of a QAT
// device. IsQATID does not allocate for an ID that the kernel prints (drivers/pci/pci-driver.c,
// pci_uevent).
func IsQATID(id []byte) bool {
	if len(id) != len("8086:4941") || string(id[:5]) != "8086:" {
		return false
	}
	device, err := strconv.ParseUint(string(id[5:]), 16, 16)
	family, _ := FamilyOf(vendorIntel, uint16(device))
	return err == nil && family != nil
}
