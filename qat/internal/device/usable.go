// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// IsUsable reports whether a VFIO driver has been bound to a VF without interruption since the VF
// was read with this Registration, and whether its node exists. It makes three system calls, where
// [Reader.Read] makes twenty. If IsUsable returns false, the VF may still be usable; Read returns
// the cause. IsUsable opens no file and takes no device lock, so it does not block
// (fs/kernfs/inode.c, kernfs_iop_getattr).
func (r *Reader) IsUsable(a pci.Address, registration uint64, node string) bool {
	if registration == 0 {
		return false
	}
	// Inode numbers are not reused. The same number means that the device is the same, that it has
	// been bound all the time, and that its node has the same name.
	inode, err := sysfs.Inode(filepath.Join(r.entry(a), "vfio-dev"))
	if err != nil || inode != registration {
		return false
	}
	// When a VF is unbound, the kernel removes this link first. Kernels before 6.6 keep vfio-dev
	// for as long as a workload holds the VF open (drivers/base/dd.c, __device_release_driver;
	// drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
	if driver, err := sysfs.Link(filepath.Join(r.entry(a), "driver")); err != nil || !r.IsBound(driver) {
		return false
	}
	exists, err := sysfs.Exists(filepath.Join(r.cfg.Dev, node))
	return err == nil && exists
}
