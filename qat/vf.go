package qat

import (
	"path/filepath"
	"slices"
	"strconv"
)

func (h *host) lookAtVF(d directory, f *Function) error {
	physfn, err := d.link("physfn")
	if err != nil {
		return err
	}
	if pf, ok := ParseAddress(physfn); ok {
		f.PF = &pf
	}
	group, err := d.link("iommu_group")
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(group); err == nil {
		f.Group = &n
	}
	switch {
	case h.dpdkDriver == driverVFIO && f.Group != nil && (h.bound(f.Driver) || f.Driver == ""):
		return h.lookForVFIO(d, f)
	case !h.bound(f.Driver):
		return nil
	case h.dpdkDriver == driverUIO:
		return h.lookForUIO(d, f)
	}
	f.Node.Missing = "it has no IOMMU group: the kernel needs intel_iommu=on, or vfio its enable_unsafe_noiommu_mode"
	return nil
}

// The ways in which VFIO shows a device to user space: by the node of its IOMMU group (drivers/vfio/group.c), or by one of its own that goes
// with iommufd's /dev/iommu (drivers/vfio/device_cdev.c). A kernel may have either or both; auto is the group when it is there.
const (
	vfioAuto  = "auto"
	vfioGroup = "group"
	vfioCdev  = "cdev"

	cdevPrefix = "vfio/devices/"
)

// VFIOInterfaces are the ways in which a container can be given a VFIO device.
func VFIOInterfaces() []string { return []string{vfioAuto, vfioGroup, vfioCdev} }

// lookForVFIO finds the node of a VF that has an IOMMU group. When a VF is removed or unbound that a workload holds open, the driver link
// and vfio-dev go at once; the group's node stays until the holder closes it, which may take seconds (drivers/base/dd.c,
// __device_release_driver; drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
func (h *host) lookForVFIO(d directory, f *Function) error {
	group := "vfio/" + strconv.Itoa(*f.Group)
	if name, err := d.read("iommu_group/name"); err == nil && name == "vfio-noiommu" {
		group = "vfio/noiommu-" + strconv.Itoa(*f.Group)
	}
	there := exists(filepath.Join(h.dev, group))
	if f.Driver == "" {
		if there && alone(d) && !driven(d) {
			f.Node = Node{Name: group, Missing: leaving, Leaving: true}
		}
		return nil
	}
	if h.vfio == vfioCdev || h.vfio == vfioAuto && !there {
		cdev, err := h.lookForCdev(d)
		if err != nil {
			return err
		}
		if cdev.Missing == "" || h.vfio == vfioCdev {
			f.Node = cdev
			return nil
		}
	}
	f.Node.Name = group
	if !there {
		f.Node.Missing = "/dev/" + group + " is not there"
		return nil
	}
	// Kernels from 6.1 on have a vfio-dev for each device that VFIO serves.
	if exists(filepath.Join(h.sysfs, "class/vfio-dev")) {
		there, err := d.exists("vfio-dev")
		if err != nil {
			return err
		}
		if !there {
			f.Node.Missing, f.Node.Leaving = leaving, true
		}
	}
	return nil
}

// driven tells whether a driver came since the link was read: a node that is there may then be the one that it made.
func driven(d directory) bool {
	driver, err := d.link("driver")
	return err == nil && driver != ""
}

// lookForCdev finds the VF's own VFIO node.
func (h *host) lookForCdev(d directory) (Node, error) {
	names, err := d.names("vfio-dev")
	if err != nil && !absent(err) {
		return Node{}, err
	}
	if len(names) == 0 {
		return Node{Missing: "it has no vfio-dev"}, nil
	}
	slices.Sort(names)
	node := Node{Name: cdevPrefix + names[0]}
	for _, name := range []string{node.Name, "iommu"} {
		if !exists(filepath.Join(h.dev, name)) {
			node.Missing = "/dev/" + name + " is not there: the kernel needs VFIO_DEVICE_CDEV and iommufd"
			break
		}
	}
	return node, nil
}

const leaving = "it is being removed or unbound while a workload holds it"

// alone tells whether a function shares its IOMMU group with no other, so that the group's node is its own.
func alone(d directory) bool {
	names, err := d.names("iommu_group/devices")
	return err == nil && len(names) <= 1
}

func (h *host) lookForUIO(d directory, f *Function) error {
	names, err := d.names("uio")
	if err != nil && !absent(err) {
		return err
	}
	if len(names) == 0 {
		f.Node.Missing = "it has no uio device yet"
		return nil
	}
	slices.Sort(names)
	f.Node.Name = names[0]
	if !exists(filepath.Join(h.dev, names[0])) {
		f.Node.Missing = "/dev/" + names[0] + " is not there"
	}
	return nil
}
