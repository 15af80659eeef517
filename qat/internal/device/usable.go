// SPDX-License-Identifier: Apache-2.0

package device

import "qatplugin/qat/internal/sysfs"

// IsUsable reports whether a VFIO driver still holds a VF as it did when the VF was read, and its
// node exists. It makes two system calls, where [Reader.Read] makes twenty. If it returns false,
// Read says why; the VF may be usable all the same. IsUsable opens nothing and takes no lock of a
// device, so it does not block (fs/kernfs/inode.c, kernfs_iop_getattr).
func (r *Reader) IsUsable(vf *Function) bool {
	if vf.registration == 0 {
		return false
	}
	// An inode number that is gone does not come back. So the device is the same, it has had this
	// driver all the time, and its node has the same name.
	//
	// The path leads through the driver's link to the VF, which a VF on its way out loses first. In
	// kernels before 6.6 it keeps vfio-dev for as long as a workload holds it (drivers/base/dd.c,
	// driver_sysfs_remove; drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
	path := r.cfg.Sysfs + "/bus/pci/drivers/" + vf.Driver + "/" + vf.Address.String() + "/vfio-dev"
	if inode, err := sysfs.Inode(path); err != nil || inode != vf.registration {
		return false
	}
	exists, err := sysfs.Exists(r.cfg.Dev + "/" + vf.Node.Name)
	return err == nil && exists
}
