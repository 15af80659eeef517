// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"slices"

	"qatplugin/devtree"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// facts are all that decide goes by for one VF.
type facts struct {
	address    pci.Address
	vf         *function    // nil: there is no VF, or not even its kind could be read
	unreadable string       // why it could not be read
	pf         *function    // nil: it has none, or none that is known
	pfAddress  *pci.Address // nil: it has none
	pfReadErr  string       // what could not be read of the PF
	pfExists   bool         // pf is nil, and there is a PCI function at pfAddress
	listed     bool         // the VF is listed now

	held bool // the VF has been on its way out for so long that a workload must hold it

	driverBound bool               // the VF is bound to the DPDK driver, or to one that does its work
	driver      device.DriverState // of the DPDK driver; not read if all VFs of the batch are bound to it

	members  []member // the other functions of the VF's IOMMU group
	shared   bool     // there are VFs among them that could be listed, too
	groupErr string   // why members are not known; "" when they are
}

// A member is another function in the IOMMU group of a VF.
type member struct {
	address pci.Address
	driver  string // "" if it has none, or is gone
	taken   bool   // it is a VF, too, and the plugin takes it from its driver
}

// blocker returns the first member whose driver keeps the IOMMU group from user space, or nil. It
// ignores those that the plugin takes from their drivers, if that is asked for.
func (f *facts) blocker(ignoreTaken bool) *member {
	for i := range f.members {
		if m := &f.members[i]; !device.LeavesGroup(m.driver) && !(ignoreTaken && m.taken) {
			return m
		}
	}
	return nil
}

// taken lists the members that the plugin takes from their drivers.
func (f *facts) taken() (list []pci.Address) {
	for _, m := range f.members {
		if m.taken && !device.LeavesGroup(m.driver) {
			list = append(list, m.address)
		}
	}
	return list
}

// skipGroup skips a VF whose IOMMU group cannot be used.
func (f *facts) skipGroup(m *member) decision {
	return skip(fmt.Sprintf("its IOMMU group %d cannot be used: %s in it is bound to %s",
		*f.vf.Group, m.address, m.driver))
}

// rules are the part of the configuration that decide goes by.
type rules struct {
	driver string   // the DPDK driver
	served []string // kernel VF drivers whose families are served
	bind   bool     // VFs are bound
	steal  bool     // also bind VFs that another driver holds, or that driver_override reserves
}

// An action is what to do about a VF.
type action uint8

const (
	actionSkip      action = iota // do not list it, for the reason; without a reason there is no such VF
	actionList                    // list it in the resource, as the device
	actionBind                    // bind it to the DPDK driver
	actionAwaitNode               // it is bound; wait for its device node
)

// A decision is what follows from the facts about one VF.
type decision struct {
	vf        pci.Address
	function  *function // what is known of the VF; nil: nothing
	action    action
	reason    string          // why the VF is not listed; "" when it is, or does not exist
	resource  string          // of actionList
	device    *devtree.Device // of actionList
	taken     []pci.Address   // VFs of the same IOMMU group that are taken from their drivers, too
	group     *int            // the IOMMU group that the VF shares with other VFs; nil: with none
	unhealthy bool            // of actionList and actionBind: the VF cannot be used now, or could not if it were bound
}

func skip(reason string) decision { return decision{action: actionSkip, reason: reason} }

// decide says what to do about a VF. It has no side effects.
func decide(f *facts, r *rules) decision {
	vf := f.vf
	switch {
	case vf == nil:
		return skip(f.unreadable)
	case vf.readErr != "":
		return skip(vf.readErr)
	case !slices.Contains(r.served, vf.Family.VFDriver):
		return skip(fmt.Sprintf("its family's driver %s is not one of -kernel-vf-drivers", vf.Family.VFDriver))
	case vf.Node.Releasing && f.listed:
		return decideResource(f, r) // listed, but unhealthy, until it is gone or back
	case vf.Node.Releasing && vf.Driver == "":
		return skip(f.releasingReason()) // binding it would wait for the workload that holds it
	case vf.removing && !f.driverBound:
		return skip("it is being removed") // binding it would only delay that
	case f.groupErr != "" && !f.listed: // another VF of its group may be listed
		return skip(fmt.Sprintf("its IOMMU group %d cannot be read: %s", *vf.Group, f.groupErr))
	case !f.driverBound:
		return decideBind(f, r)
	case vf.Node.Missing != "":
		return decision{action: actionAwaitNode, reason: vf.Node.Missing}
	}
	if m := f.blocker(false); m != nil {
		return f.skipGroup(m)
	}
	return decideResource(f, r)
}

// releasingReason says why a VF whose node outlives its VFIO device cannot be used.
func (f *facts) releasingReason() string {
	if f.held {
		return f.vf.Node.Missing + " while a workload holds it"
	}
	return f.vf.Node.Missing
}

// decideBind decides about a VF that is not bound to the DPDK driver.
func decideBind(f *facts, r *rules) decision {
	if reason := notBindable(f.vf, &f.driver, r); reason != "" {
		return skip(reason)
	}
	if m := f.blocker(true); m != nil {
		return f.skipGroup(m)
	}
	return decision{action: actionBind, unhealthy: unhealthyReason(f) != ""}
}

// notBindable says why a VF must not or cannot be bound to the DPDK driver; "" when nothing that is
// known forbids it.
func notBindable(vf *function, driver *device.DriverState, r *rules) string {
	switch {
	case !r.bind:
		return fmt.Sprintf("it is not bound to %s, and -bind=false leaves binding to others", r.driver)
	case vf.Driver != "" && vf.Driver != vf.Family.VFDriver && !r.steal:
		return fmt.Sprintf("it is bound to %s, which is left alone without -steal", vf.Driver)
	case !driver.Loaded:
		return fmt.Sprintf("driver %s is not loaded: modprobe %[1]s", r.driver)
	case driver.NeedsGroup && vf.Group == nil:
		return device.NoIOMMUGroup
	case driver.Denylist && vf.Family.Denylisted:
		return fmt.Sprintf("%s refuses %s devices unless it is loaded with disable_denylist=1 "+
			"(modprobe -r %[1]s; modprobe %[1]s disable_denylist=1)", r.driver, vf.Family.Name)
	}
	return ""
}

// decideResource decides in which resource a usable VF is listed: the resource of its PF's
// services, or Generic if the VF has no PF, the PF has no services, or the PF is not a known QAT
// device.
func decideResource(f *facts, r *rules) decision {
	resource := device.Generic
	if f.pfAddress != nil && f.vf.Family.Services {
		switch {
		case f.pfReadErr != "":
			return skip(fmt.Sprintf("its PF %s cannot be read: %s", f.pfAddress, f.pfReadErr))
		case f.pf != nil:
			resource = f.pf.Resource
		case !f.pfExists:
			return skip(fmt.Sprintf("its PF %s is gone", f.pfAddress))
		}
	}
	d := newDevice(f, r)
	return decision{action: actionList, resource: resource, device: d, unhealthy: d.Health == devtree.Unhealthy}
}

// newDevice is the VF as the kubelet sees it.
func newDevice(f *facts, r *rules) *devtree.Device {
	vf := f.vf
	d := &devtree.Device{
		ID:             vf.Address.String(),
		Health:         devtree.Healthy,
		ContainerEdits: containerEdits(vf.Node, r.driver),
	}
	if vf.NUMANode >= 0 {
		d.NUMANodes = []int{vf.NUMANode}
	}
	if reason := unhealthyReason(f); reason != "" {
		d.Health, d.Reason = devtree.Unhealthy, reason
	}
	return d
}

// unhealthyReason says why a listed VF must not be handed out; "" when it may.
func unhealthyReason(f *facts) string {
	switch vf, pf := f.vf, f.pf; {
	case vf.Node.Releasing:
		return f.releasingReason()
	case pf != nil && pf.IsDown():
		return fmt.Sprintf("its PF %s is %s", pf.Address, pf.State)
	case pf != nil && pf.unhealthy != "":
		return fmt.Sprintf("its PF %s %s", pf.Address, pf.unhealthy)
	case vf.unhealthy != "":
		return "it " + vf.unhealthy
	}
	return ""
}

// containerEdits is what a container needs to drive a VF through its node. The paths are those of
// the host, wherever its /dev is mounted here.
func containerEdits(node device.Node, driver string) devtree.ContainerEdits {
	edits := devtree.ContainerEdits{DeviceNodes: []devtree.DeviceNode{deviceNode(node.Name)}}
	switch {
	case driver == device.DriverIGBUIO:
		attributes := "/sys/class/uio/" + node.Name + "/device"
		edits.Mounts = []devtree.Mount{{HostPath: attributes, ContainerPath: attributes}}
	case node.IsCdev(): // and iommufd (Documentation/userspace-api/iommufd.rst)
		edits.DeviceNodes = append(edits.DeviceNodes, deviceNode("iommu"))
	default: // and the VFIO container, one for all groups (Documentation/driver-api/vfio.rst)
		edits.DeviceNodes = append(edits.DeviceNodes, deviceNode("vfio/vfio"))
	}
	return edits
}

func deviceNode(name string) devtree.DeviceNode {
	path := "/dev/" + name
	return devtree.DeviceNode{HostPath: path, ContainerPath: path, Permissions: "rw"}
}
