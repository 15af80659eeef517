// SPDX-License-Identifier: Apache-2.0

package lookalike

// family describes one kind of PF.
type family struct {
	pf, vf   string // PCI device IDs, four hexadecimal digits
	driver   string // the PF's; the VF's adds "vf"
	vfs      int    // sriov_totalvfs
	offset   int    // sriov_offset: from the PF's routing ID to that of its first VF
	engines  int    // number of engines that fw_counters lists; 0 with drivers outside of the kernel
	denylist bool   // vfio-pci refuses its VFs unless disable_denylist=1 (drivers/vfio/pci/vfio_pci.c)
}

// families returns those of the in-tree drivers (drivers/crypto/intel/qat) and of Intel's
// out-of-tree package.
func families() []family {
	return []family{
		{pf: "0435", vf: "0443", driver: "dh895xcc", vfs: 32, offset: 8, engines: 12, denylist: true},
		{pf: "37c8", vf: "37c9", driver: "c6xx", vfs: 16, offset: 8, engines: 10, denylist: true},
		{pf: "19e2", vf: "19e3", driver: "c3xxx", vfs: 16, offset: 8, engines: 6, denylist: true},
		{pf: "18ee", vf: "18ef", driver: "200xx", vfs: 16, offset: 8},
		{pf: "6f54", vf: "6f55", driver: "d15xx", vfs: 16, offset: 8},
		{pf: "18a0", vf: "18a1", driver: "c4xxx", vfs: 128, offset: 8},
		{pf: "4940", vf: "4941", driver: "4xxx", vfs: 16, offset: 1, engines: 8},
		{pf: "4942", vf: "4943", driver: "4xxx", vfs: 16, offset: 1, engines: 8},
		{pf: "4944", vf: "4945", driver: "4xxx", vfs: 16, offset: 1, engines: 8},
		{pf: "4946", vf: "4947", driver: "420xx", vfs: 16, offset: 1, engines: 16},
		{pf: "4948", vf: "4949", driver: "6xxx", vfs: 16, offset: 1, engines: 8},
	}
}

// familyOf returns the family with that device ID, of its PF or its VF.
func familyOf(id string) (family, bool) {
	for _, f := range families() {
		if f.pf == id || f.vf == id {
			return f, true
		}
	}
	return family{}, false
}
