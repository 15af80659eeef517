// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// IsUsable reports whether a VFIO driver still holds a VF as it did when the VF was read with this
// Registration and this node. It makes three system calls, where [Reader.Read] makes twenty. If it
// returns false, Read says why; the VF may be usable all the same. IsUsable opens nothing and takes
// no lock of a device, so it does not block (fs/kernfs/inode.c, kernfs_iop_getattr).
func (r *Reader) IsUsable(a pci.Address, registration uint64, node string) bool {
	if registration == 0 {
		return false
	}
	// An inode number that is gone does not come back. So the device is the same, it has had this
	// driver all the time, and its node has the same name.
	inode, err := sysfs.Inode(filepath.Join(r.entry(a), "vfio-dev"))
	if err != nil || inode != registration {
		return false
	}
	// A VF on its way out loses this link first. In kernels before 6.6 it keeps vfio-dev for as
	// long as a workload holds it (drivers/base/dd.c, __device_release_driver;
	// drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
	if driver, err := sysfs.Link(filepath.Join(r.entry(a), "driver")); err != nil || !r.IsBound(driver) {
		return false
	}
	exists, err := sysfs.Exists(filepath.Join(r.cfg.Dev, node))
	return err == nil && exists
}
