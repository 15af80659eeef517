package qat

import "slices"

// Family is one kind of QAT device: a physical function (PF), the virtual functions (VFs) it makes, and their drivers.
type Family struct {
	Name       string
	PF, VF     uint16 // PCI device IDs; the vendor is Intel
	PFDriver   string
	VFDriver   string // the VF's kernel driver, whether or not the mainline kernel has one
	Denylisted bool   // vfio-pci refuses its VFs unless it is told otherwise
	Services   bool   // the PF has qat/state and qat/cfg_services (Documentation/ABI/testing/sysfs-driver-qat)
}

const vendorIntel = 0x8086

// families are the devices of drivers/crypto/intel/qat (adf_accel_devices.h) and of Intel's out-of-tree driver.
var families = [...]Family{
	{Name: "DH895xCC", PF: 0x0435, VF: 0x0443, PFDriver: "dh895xcc", VFDriver: "dh895xccvf", Denylisted: true},
	{Name: "DH895xCC", PF: 0x0434, VF: 0x0442, PFDriver: "dh895xcc", VFDriver: "dh895xccvf", Denylisted: true},
	{Name: "C62x", PF: 0x37c8, VF: 0x37c9, PFDriver: "c6xx", VFDriver: "c6xxvf", Denylisted: true},
	{Name: "C3xxx", PF: 0x19e2, VF: 0x19e3, PFDriver: "c3xxx", VFDriver: "c3xxxvf", Denylisted: true},
	{Name: "200xx", PF: 0x18ee, VF: 0x18ef, PFDriver: "200xx", VFDriver: "200xxvf"},
	{Name: "D15xx", PF: 0x6f54, VF: 0x6f55, PFDriver: "d15xx", VFDriver: "d15xxvf"},
	{Name: "C4xxx", PF: 0x18a0, VF: 0x18a1, PFDriver: "c4xxx", VFDriver: "c4xxxvf"},
	{Name: "4xxx", PF: 0x4940, VF: 0x4941, PFDriver: "4xxx", VFDriver: "4xxxvf", Services: true},
	{Name: "401xx", PF: 0x4942, VF: 0x4943, PFDriver: "4xxx", VFDriver: "4xxxvf", Services: true},
	{Name: "402xx", PF: 0x4944, VF: 0x4945, PFDriver: "4xxx", VFDriver: "4xxxvf", Services: true},
	{Name: "420xx", PF: 0x4946, VF: 0x4947, PFDriver: "420xx", VFDriver: "420xxvf", Services: true},
	{Name: "6xxx", PF: 0x4948, VF: 0x4949, PFDriver: "6xxx", VFDriver: "6xxxvf", Services: true},
}

// KernelVFDrivers are the names of all known VF drivers, each once, in the order of the families.
func KernelVFDrivers() []string {
	var names []string
	for _, f := range families {
		if !slices.Contains(names, f.VFDriver) {
			names = append(names, f.VFDriver)
		}
	}
	return names
}

// familyOf finds the family of a PCI ID; isVF tells which of its two functions it is. nil: not a QAT device.
func familyOf(vendor, device uint16) (family *Family, isVF bool) {
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
