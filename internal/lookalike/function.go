// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// PCI class codes.
const (
	classQAT    = "0b4000" // co-processor
	classBridge = "060400" // PCI-to-PCI bridge
)

// function is one PCI function of the host.
type function struct {
	address string
	devpath string    // /devices/pci0000:6b/0000:6b:00.0
	id      string    // PCI device ID, four hexadecimal digits
	class   string    // six hexadecimal digits
	numa    int       // -1 if the platform does not say
	driver  string    // "" if none is bound
	inGroup bool      // the function is in an IOMMU group
	group   int       // number of the IOMMU group
	groupOf *function // function whose IOMMU group this function joins when it is added; nil: none
	noiommu bool      // VFIO created the group in noiommu mode, and removes it on unbind
	vfio    int       // N of vfio-dev/vfioN, while bound to a VFIO driver
	uio     int       // N of uio/uioN, while bound to a UIO driver

	pf    *function // of a VF: its PF; nil if that is not on this host, as in a guest
	index int       // of a VF with a PF: N of virtfnN

	spec   *PF         // of a PF; nil for any other function
	vfs    []*function // of a PF: its VFs by index
	numVFs int         // of a PF: the value of sriov_numvfs

	heartbeatsFailed int       // of a PF: the value of heartbeat/queries_failed
	telemetry        telemetry // of a PF that is up

	autoReset, pmIdle string // of a PF: the values of qat/auto_reset and qat/pm_idle_enabled

	// shown holds, for the attributes of a PF that users write to, what the host last wrote to
	// or read from the file. If the file differs while the host is served, a user wrote to it
	// and Serve will handle that.
	shown map[string]string
	// stateWritten: a user wrote to qat/state, but Serve saw that the PF was up (whileDown).
	stateWritten bool
}

// findPF returns the PF with that address. If there is none, the operation fails.
func (o *op) findPF(address string) *function {
	d := o.h.devices[address]
	switch {
	case d == nil:
		o.fail(syscall.ENODEV)
	case d.spec == nil:
		o.fail(fmt.Errorf("%s is not a PF", address))
		return nil
	}
	return d
}

func (d *function) dir(h *Host) string { return h.sys(d.devpath) }

// addFunction creates the function's directory, then the link in bus/pci/devices by which
// programs find it, then sends the uevent: pci_device_add.
func (o *op) addFunction(d *function) {
	h := o.h
	if h.devices[d.address] != nil {
		o.fail(syscall.EEXIST)
		return
	}
	dir := d.dir(h)
	o.mkdir(dir)
	if d.spec != nil {
		o.watchWrites(dir)
	}
	o.link(h.sys("bus/pci"), path.Join(dir, "subsystem"))
	for _, a := range [][2]string{
		{"vendor", "0x8086"},
		{"device", "0x" + d.id},
		{"subsystem_vendor", "0x8086"},
		{"subsystem_device", "0x0000"},
		{"class", "0x" + d.class},
		{"revision", "0x40"},
		{"numa_node", strconv.Itoa(d.numa)},
		{"driver_override", "(null)"},
		{"modalias", d.modalias()},
		{"uevent", strings.Join(d.variables(), "\n")},
	} {
		o.create(path.Join(dir, a[0]), a[1])
	}
	if d.spec != nil {
		o.replace(path.Join(dir, "sriov_totalvfs"), strconv.Itoa(d.spec.TotalVFs))
		o.show(d, "sriov_numvfs", "0")
		o.replace(path.Join(dir, "sriov_drivers_autoprobe"), "1")
		o.replace(path.Join(dir, "sriov_vf_device"), d.spec.VFDeviceID)
		o.replace(path.Join(dir, "remove"), "")
	}
	if !h.noIOMMU && d.groupOf != nil && d.groupOf.inGroup {
		d.inGroup, d.group = true, d.groupOf.group
		o.linkGroup(d)
	} else if !h.noIOMMU && d.class == classQAT {
		o.joinGroup(d, "DMA")
	}
	h.devices[d.address] = d
	o.markVisible()
	o.link(dir, h.sys("bus/pci/devices", d.address))
	o.emitPCI("add", d)
}

// removeFunction unbinds the function and removes it: pci_stop_and_remove_bus_device. The link
// disappears before the uevent, the directory after it.
func (o *op) removeFunction(d *function) {
	h := o.h
	if d.driver != "" {
		o.unbind(d)
	}
	o.unlink(h.sys("bus/pci/devices", d.address))
	if d.inGroup {
		o.leaveGroup(d)
	}
	o.emitPCI("remove", d)
	o.removeAll(d.dir(h))
	if h.devices[d.address] == d {
		delete(h.devices, d.address)
	}
}

// ShareGroup moves a function into the IOMMU group of another one, as on a host without ACS, where
// the functions below one port share a group. No uevent reports the move. The function must not be
// bound to a VFIO driver.
func (h *Host) ShareGroup(address, with string) error {
	return h.doFunction("share group of", with, func(o *op, other *function) {
		d := h.devices[address]
		switch {
		case d == nil:
			o.fail(syscall.ENODEV)
		case !other.inGroup || isVFIO(d.driver):
			o.fail(syscall.EBUSY)
		case !d.inGroup || d.group != other.group:
			o.markVisible()
			if d.inGroup {
				o.leaveGroup(d)
			}
			d.inGroup, d.group = true, other.group
			o.linkGroup(d)
		}
	})
}

// groupMembers returns the functions of an IOMMU group.
func (h *Host) groupMembers(group int) (members []*function) {
	for _, d := range h.devices {
		if d.inGroup && d.group == group {
			members = append(members, d)
		}
	}
	return members
}

// joinGroup puts the function into an IOMMU group of its own.
func (o *op) joinGroup(d *function, kind string) {
	h := o.h
	d.inGroup, d.group = true, h.groups.take()
	group := h.sys("kernel/iommu_groups", strconv.Itoa(d.group))
	o.mkdir(path.Join(group, "devices"))
	o.create(path.Join(group, "type"), kind)
	o.create(path.Join(group, "reserved_regions"), "")
	if d.noiommu {
		o.create(path.Join(group, "name"), "vfio-noiommu")
	}
	o.linkGroup(d)
}

func (o *op) linkGroup(d *function) {
	group := o.h.sys("kernel/iommu_groups", strconv.Itoa(d.group))
	o.link(d.dir(o.h), path.Join(group, "devices", d.address))
	o.link(group, path.Join(d.dir(o.h), "iommu_group"))
}

func (o *op) leaveGroup(d *function) {
	h := o.h
	group := h.sys("kernel/iommu_groups", strconv.Itoa(d.group))
	o.unlink(path.Join(d.dir(h), "iommu_group"))
	o.unlink(path.Join(group, "devices", d.address))
	d.inGroup = false
	if len(h.groupMembers(d.group)) == 0 {
		o.removeAll(group)
		h.groups.free(d.group)
	}
}
