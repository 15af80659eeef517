// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"
	"strconv"
	"strings"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// IsUsable reports whether a QAT VF with this address is bound to a VFIO driver, and has this
// group's node below /dev, such as "vfio/12". It makes less than half as many system calls as
// [Reader.Read]. If it returns false, Read says why; the VF may even be usable, because IsUsable
// knows only what is usual. What it reads takes no lock of a device, so it does not block
// (drivers/pci/pci-sysfs.c, modalias_show; fs/kernfs/symlink.c).
func (r *Reader) IsUsable(a pci.Address, node string) bool {
	group, ok := strings.CutPrefix(node, "vfio/")
	if !ok || r.cfg.Driver != DriverVFIO || r.cfg.Interface == InterfaceCdev {
		return false
	}
	dir, err := sysfs.OpenDir(r.entry(a))
	if err != nil {
		return false
	}
	defer dir.Close()
	alias, err := dir.Read("modalias")
	if err != nil || !isVFAlias(alias) {
		return false
	}
	// In a directory that was removed meanwhile, no link can be read.
	if driver, err := dir.Link("driver"); err != nil || !r.IsBound(driver) {
		return false
	}
	if link, err := dir.Link("iommu_group"); err != nil || link != group {
		return false
	}
	if registered, err := dir.Exists("vfio-dev"); err != nil || !registered {
		return false
	}
	exists, err := sysfs.Exists(filepath.Join(r.cfg.Dev, node))
	return err == nil && exists
}

// isVFAlias reports whether a modalias, which starts like "pci:v00008086d00004941sv", is that of a
// QAT VF (drivers/pci/pci-sysfs.c, modalias_show).
func isVFAlias(alias string) bool {
	ids, ok := strings.CutPrefix(alias, "pci:v")
	if !ok || len(ids) < 17 || ids[8] != 'd' {
		return false
	}
	vendor, err1 := strconv.ParseUint(ids[:8], 16, 16)
	device, err2 := strconv.ParseUint(ids[9:17], 16, 16)
	_, isVF := FamilyOf(uint16(vendor), uint16(device))
	return err1 == nil && err2 == nil && isVF
}
