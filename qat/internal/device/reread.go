// SPDX-License-Identifier: Apache-2.0

package device

import (
	"strconv"

	"qatplugin/qat/internal/sysfs"
)

// Reread reads a VF again. known is what [Handle.Read] returned without an error. Reread returns
// nil if the VF no longer exists or was replaced, or if it cannot be read. Read then shows which.
//
// Reread makes half of the system calls that Read makes. It takes NUMANode from known, because only
// user space changes that (drivers/pci/pci-sysfs.c, numa_node_store). It does not block: the kernel
// looks up names in sysfs, and reads links and directories, without the device lock
// (fs/kernfs/dir.c, fs/kernfs/symlink.c). The only attribute that Reread may read is the name of
// the IOMMU group, for which the kernel takes no lock either (drivers/iommu/iommu.c,
// iommu_group_show_name).
//
// The kernel assigns the inode numbers of sysfs in turn (fs/kernfs/dir.c, __kernfs_new_node). If
// the entry of the VF still has the inode of known after the last read, all reads were of that VF.
func (r *Reader) Reread(known *Function) *Function {
	if !known.IsVF {
		return nil
	}
	h := Handle{
		reader: r,
		entry:  r.entry(known.Address),
		dir:    links{path: known.Dir, numaNode: known.NUMANode},
		known:  known,
		identity: Function{
			Address:     known.Address,
			Dir:         known.Dir,
			Family:      known.Family,
			IsVF:        true,
			Incarnation: known.Incarnation,
			NUMANode:    -1,
			PCIeRoot:    known.PCIeRoot,
		},
	}
	f, err := h.Read()
	if err != nil {
		return nil
	}
	return f
}

// links reads the directory of a VF by its path.
type links struct {
	path     string
	numaNode int // as read last
}

func (l links) Read(name string) (string, error) {
	if name == "numa_node" {
		return strconv.Itoa(l.numaNode), nil
	}
	return sysfs.ReadFile(l.path + "/" + name)
}

func (l links) Inode(name string) (uint64, error)  { return sysfs.Inode(l.path + "/" + name) }
func (l links) Link(name string) (string, error)   { return sysfs.Link(l.path + "/" + name) }
func (l links) Exists(name string) (bool, error)   { return sysfs.Exists(l.path + "/" + name) }
func (l links) Names(sub string) ([]string, error) { return sysfs.Names(l.path + "/" + sub) }
func (l links) Close()                             {}
