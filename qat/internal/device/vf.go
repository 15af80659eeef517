// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// Node is the device node through which user space drives a VF. It is the zero Node if the VF is
// not bound to the DPDK driver, unless the VF is still held after it was unbound.
type Node struct {
	Name    string // below /dev, such as "vfio/12", "vfio/noiommu-0", "vfio/devices/vfio3" or "uio3"
	Missing string // why the node cannot be used; "" when it can

	// Releasing reports whether the node exists without a VFIO device. The VF is then being removed
	// or unbound, which lasts while a workload holds it open, or it is just being bound.
	Releasing bool
}

// IsCdev reports whether the node is a VFIO character device, which is used with /dev/iommu.
func (n Node) IsCdev() bool { return strings.HasPrefix(n.Name, cdevPrefix) }

// isGroup reports whether the node is that of an IOMMU group.
func (n Node) isGroup() bool { return strings.HasPrefix(n.Name, "vfio/") && !n.IsCdev() }

const cdevPrefix = "vfio/devices/"

// readVF reads what is specific to a VF.
func (h *Handle) readVF(f *Function) error {
	physfn, err := h.dir.Link("physfn")
	if err != nil {
		return err
	}
	if pf, ok := pci.Parse(physfn); ok {
		f.PF = &pf
	}
	group, err := h.dir.Link("iommu_group")
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(group); err == nil {
		f.Group = &n
	}
	f.Node, err = h.readNode(f)
	return err
}

// NoIOMMUGroup is the reason why VFIO cannot use a VF without an IOMMU group.
const NoIOMMUGroup = "it has no IOMMU group: enable the IOMMU (boot with intel_iommu=on; in a guest, add a " +
	"virtual IOMMU), or load vfio with enable_unsafe_noiommu_mode=1"

// readNode finds the node of a VF. The node of a bound VF need not exist: the driver link also
// exists during a probe that then fails.
func (h *Handle) readNode(f *Function) (Node, error) {
	vfio, bound := h.reader.cfg.Driver == DriverVFIO, h.reader.IsBound(f.Driver)
	switch {
	case bound && !vfio:
		return h.readUIONode()
	case bound && f.Group == nil:
		return Node{Missing: NoIOMMUGroup}, nil
	case bound:
		return h.readVFIONode(f)
	case vfio && f.Driver == "" && f.Group != nil:
		return h.readReleasingNode(*f.Group)
	}
	return Node{}, nil
}

func (h *Handle) nodeExists(name string) (bool, error) {
	h.reader.progress.set(h.reader.cfg.Dev, name)
	return sysfs.Exists(filepath.Join(h.reader.cfg.Dev, name))
}

// groupNode returns the name of the node of an IOMMU group. The node exists while a VFIO driver is
// bound to a device of the group (drivers/vfio/group.c, vfio_group_alloc).
func (h *Handle) groupNode(group int) (string, error) {
	if k := h.known; k != nil && k.Group != nil && *k.Group == group && k.Node.isGroup() {
		// A group has its name before a function joins it (vfio_noiommu_group_alloc).
		return k.Node.Name, nil
	}
	name, err := h.dir.Read("iommu_group/name") // most groups have none
	switch {
	case sysfs.IsTransient(err):
		return "", err
	case name == "vfio-noiommu":
		return "vfio/noiommu-" + strconv.Itoa(group), nil
	}
	return "vfio/" + strconv.Itoa(group), nil
}

// readReleasingNode finds the node of a VF without a driver. When a VF that a workload holds open
// is removed or unbound, its driver link and vfio-dev disappear at once. The node of its group
// stays until the workload closes it, which may take seconds (drivers/base/dd.c,
// __device_release_driver; drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
func (h *Handle) readReleasingNode(group int) (Node, error) {
	node, err := h.groupNode(group)
	if err != nil {
		return Node{}, err
	}
	if exists, err := h.nodeExists(node); err != nil || !exists {
		return Node{}, err
	}
	// The node may exist for another function of the group, or a driver may have been bound since.
	names, err := h.dir.Names("iommu_group/devices")
	if sysfs.IsAbsent(err) {
		return Node{}, nil
	}
	if err != nil || len(names) > 1 {
		return Node{}, err
	}
	if driver, err := h.dir.Link("driver"); err != nil || driver != "" {
		return Node{}, err
	}
	return Node{Name: node, Missing: "it is being removed or unbound", Releasing: true}, nil
}

// readVFIONode finds the node of a VF that is bound to a VFIO driver, and its registration.
func (h *Handle) readVFIONode(f *Function) (Node, error) {
	group, err := h.groupNode(*f.Group)
	if err != nil {
		return Node{}, err
	}
	hasGroup, err := h.nodeExists(group)
	if err != nil {
		return Node{}, err
	}
	if i := h.reader.cfg.Interface; i == InterfaceCdev || i == InterfaceAuto && !hasGroup {
		cdev, err := h.readCdevNode()
		if err != nil || cdev.Missing == "" || i == InterfaceCdev {
			return cdev, err
		}
	}
	if !hasGroup {
		return Node{Name: group, Missing: doesNotExist(group)}, nil
	}
	// Since Linux 6.1, each device that is bound to a VFIO driver has a directory vfio-dev.
	f.registration, err = h.dir.Inode("vfio-dev")
	switch {
	case err == nil:
		return Node{Name: group}, nil
	case !sysfs.IsAbsent(err):
		return Node{}, err
	}
	hasEntries, err := sysfs.Exists(filepath.Join(h.reader.cfg.Sysfs, "class/vfio-dev"))
	if err != nil || !hasEntries {
		return Node{Name: group}, err
	}
	return Node{Name: group, Missing: noVFIODevice + ": it is being bound or unbound", Releasing: true}, nil
}

// readCdevNode finds the node of the VF itself, which is used together with /dev/iommu.
func (h *Handle) readCdevNode() (Node, error) {
	names, err := h.dir.Names("vfio-dev")
	if err != nil && !sysfs.IsAbsent(err) {
		return Node{}, err
	}
	if len(names) == 0 {
		return Node{Missing: noVFIODevice}, nil
	}
	node := Node{Name: cdevPrefix + slices.Min(names)}
	for _, name := range []string{node.Name, "iommu"} {
		exists, err := h.nodeExists(name)
		if err != nil {
			return Node{}, err
		}
		if !exists {
			node.Missing = doesNotExist(name) + ": the kernel needs CONFIG_VFIO_DEVICE_CDEV and CONFIG_IOMMUFD"
			break
		}
	}
	return node, nil
}

// readUIONode finds the node of a VF that is bound to igb_uio.
func (h *Handle) readUIONode() (Node, error) {
	names, err := h.dir.Names("uio")
	if err != nil && !sysfs.IsAbsent(err) {
		return Node{}, err
	}
	if len(names) == 0 {
		return Node{Missing: "its driver has not registered a UIO device"}, nil
	}
	node := Node{Name: slices.Min(names)}
	exists, err := h.nodeExists(node.Name)
	if err != nil {
		return Node{}, err
	}
	if !exists {
		node.Missing = doesNotExist(node.Name)
	}
	return node, nil
}

const noVFIODevice = "its driver has not registered a VFIO device"

func doesNotExist(node string) string { return "/dev/" + node + " does not exist" }
