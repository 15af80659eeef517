// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"slices"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// facts is the input of decide for one VF.
type facts struct {
	address    pci.Address
	vf         *function    // nil: there is no VF, or not even its kind could be read
	unreadable string       // why vf is nil although the function exists; else ""
	pf         *function    // nil: the VF has no PF, or its PF is unknown
	pfAddress  *pci.Address // nil: the VF has no PF
	pfReadErr  string       // why the PF could not be read in full; "" if it could
	pfExists   bool         // pf is nil, and there is a PCI function at pfAddress
	listed     bool         // the VF is listed now
	inUse      bool         // a container had the VF when the mode started; it was probably listed then

	held bool // Node.Releasing for holdTime: a workload still has the VF open

	withdrawn string // why the VF's PF is withdrawn; "" if it is not

	driverBound bool               // the VF is bound to the DPDK driver or an equivalent driver
	driver      device.DriverState // of the DPDK driver; not read if no VF of the batch may be bound to it

	members  []member // the other functions in the VF's IOMMU group
	shared   bool     // a member is a VF of a served family
	groupErr string   // why members could not be read; "" if they could
}

// A member is another function in the IOMMU group of a VF.
type member struct {
	address pci.Address
	driver  string // "" if the function has none or is gone

	// bindable reports whether the function is a VF of a served family that the plugin may bind to
	// the DPDK driver.
	bindable bool
}

// blocker returns the first member whose driver keeps user space from using the IOMMU group, or
// nil. If ignoreBindable is set, it ignores the members that the plugin may bind.
func (f *facts) blocker(ignoreBindable bool) *member {
	for i := range f.members {
		if m := &f.members[i]; !device.LeavesGroup(m.driver) && !(ignoreBindable && m.bindable) {
			return m
		}
	}
	return nil
}

// taken returns the members that the plugin must take from their drivers when it binds the VF.
func (f *facts) taken() (list []pci.Address) {
	for _, m := range f.members {
		if m.bindable && !device.LeavesGroup(m.driver) {
			list = append(list, m.address)
		}
	}
	return list
}

// skipGroup returns the decision to skip a VF because m makes its IOMMU group unusable.
func (f *facts) skipGroup(m *member) decision {
	return skip(status.ClassGroupBlocked, fmt.Sprintf("its IOMMU group %d cannot be used: %s in it is bound to %s",
		*f.vf.Group, m.address, m.driver))
}

// rules is the part of the configuration that decide uses.
type rules struct {
	driver string   // the DPDK driver
	served []string // kernel VF drivers whose families are served
	bind   bool     // VFs are bound
	steal  bool     // also bind VFs that are bound to another driver, or reserved by driver_override

	// attributes reports whether devices have attributes and causes. Then the lists also have the
	// VFs that cannot be allocated while their PF is withdrawn or a workload holds them, as
	// unhealthy. The cause tells their consumers why.
	attributes bool
}

// An action is what to do with a VF.
type action uint8

const (
	actionSkip      action = iota // do not list it, for the reason; without a reason the VF does not exist
	actionList                    // list it in the resource, as the device
	actionBind                    // bind it to the DPDK driver
	actionAwaitNode               // it is bound; wait for its device node
)

// A decision is the result of decide for one VF.
type decision struct {
	vf        pci.Address
	function  *function // the VF as last read; nil: unknown
	action    action
	reason    status.Reason   // why the VF is not listed; zero if it is listed or to be bound, or does not exist
	resource  string          // of actionList
	device    *devtree.Device // of actionList
	taken     []pci.Address   // VFs of the same IOMMU group that must be taken from their drivers as well
	group     *int            // the IOMMU group that the VF shares with other VFs; nil: it shares none
	unhealthy bool            // of actionList and actionBind: the VF is unhealthy, and may lose its place to another
}

// skip returns the decision not to list a VF, for a reason of this class.
func skip(class, reason string) decision {
	return decision{action: actionSkip, reason: status.Reason{Class: class, Text: reason}}
}

// decideAll decides about VFs. The results also have what identifies the VF and its IOMMU group.
func decideAll(vfs []facts, r *rules) []decision {
	decisions := make([]decision, len(vfs))
	for i := range vfs {
		decisions[i] = decide(&vfs[i], r)
		decisions[i].vf, decisions[i].function = vfs[i].address, vfs[i].vf
		if vfs[i].shared {
			decisions[i].group, decisions[i].taken = vfs[i].vf.Group, vfs[i].taken()
		}
	}
	return decisions
}

// decide decides what to do with a VF. It has no side effects.
func decide(f *facts, r *rules) decision {
	vf := f.vf
	switch {
	case vf == nil && f.unreadable == "":
		return decision{}
	case vf == nil:
		return skip(status.ClassUnreadable, f.unreadable)
	case vf.readErr != "":
		return skip(status.ClassUnreadable, vf.readErr)
	case !slices.Contains(r.served, vf.Family.VFDriver):
		return skip(status.ClassFamily,
			fmt.Sprintf("its family's driver %s is not one of -kernel-vf-drivers", vf.Family.VFDriver))
	case vf.Node.Releasing && (f.listed || r.attributes && vf.Driver == ""):
		return decideResource(f, r) // listed, but unhealthy, until it is gone or back
	case vf.Node.Releasing && vf.Driver == "": // the bind would wait for the workload that holds the VF
		return decision{reason: f.releasingReason()}
	case vf.removing && !f.driverBound:
		return skip(status.ClassRemoving, "it is being removed") // binding it would only delay the removal
	case f.withdrawn != "" && !((f.hasPlace() || r.attributes) && f.driverBound && vf.Node.Missing == ""):
		return skip(status.ClassWithdrawn, f.withdrawn)
	case f.groupErr != "" && !f.listed: // another VF of the group may be listed
		return skip(status.ClassUnreadable, fmt.Sprintf("its IOMMU group %d cannot be read: %s", *vf.Group, f.groupErr))
	case !f.driverBound:
		return decideBind(f, r)
	case vf.Node.Missing != "":
		return decision{action: actionAwaitNode, reason: f.missingReason(r)}
	}
	if m := f.blocker(false); m != nil {
		return f.skipGroup(m)
	}
	return decideResource(f, r)
}

// hasPlace reports whether the VF is listed, or probably was when the mode started.
func (f *facts) hasPlace() bool { return f.listed || f.inUse }

// releasingReason returns why a VF whose node outlives its VFIO device cannot be used.
func (f *facts) releasingReason() status.Reason {
	text := f.vf.Node.Missing
	if f.held {
		text += " while a workload holds it"
	}
	return status.Reason{Class: status.ClassReleasing, Text: text}
}

// missingReason returns why a VF that is bound to the DPDK driver has no node.
func (f *facts) missingReason(r *rules) status.Reason {
	class := status.ClassOther
	switch {
	case f.vf.Node.Releasing:
		class = status.ClassReleasing
	case r.driver == device.DriverVFIO && f.vf.Group == nil:
		class = status.ClassNoIOMMUGroup
	}
	return status.Reason{Class: class, Text: f.vf.Node.Missing}
}

// decideBind decides about a VF that is not bound to the DPDK driver.
func decideBind(f *facts, r *rules) decision {
	if reason := notBindable(f.vf, &f.driver, r); reason.Text != "" {
		return decision{reason: reason}
	}
	if m := f.blocker(true); m != nil {
		return f.skipGroup(m)
	}
	return decision{action: actionBind, unhealthy: unhealthyReason(f).Text != ""}
}

// notBindable returns why a VF must not or cannot be bound to the DPDK driver, or the zero Reason
// if no known fact prevents it.
func notBindable(vf *function, driver *device.DriverState, r *rules) status.Reason {
	switch {
	case !r.bind:
		return status.Reason{
			Class: status.ClassNotBound,
			Text:  fmt.Sprintf("it is not bound to %s, and -bind=false leaves binding to others", r.driver),
		}
	case vf.Driver != "" && vf.Driver != vf.Family.VFDriver && !r.steal:
		return status.Reason{
			Class: status.ClassOtherDriver,
			Text:  fmt.Sprintf("it is bound to %s, which is left alone without -steal", vf.Driver),
		}
	case !driver.Loaded:
		return status.Reason{
			Class: status.ClassDriverNotLoaded,
			Text:  fmt.Sprintf("driver %s is not loaded: modprobe %[1]s", r.driver),
		}
	case driver.NeedsGroup && vf.Group == nil:
		return status.Reason{Class: status.ClassNoIOMMUGroup, Text: device.NoIOMMUGroup}
	case driver.Denylist && vf.Family.Denylisted:
		return status.Reason{
			Class: status.ClassDenylist,
			Text: fmt.Sprintf("%s refuses %s devices unless it is loaded with disable_denylist=1 "+
				"(modprobe -r %[1]s; modprobe %[1]s disable_denylist=1)", r.driver, vf.Family.Name),
		}
	}
	return status.Reason{}
}

// decideResource decides in which resource a usable VF is listed: the resource of its PF's
// services, or Generic if the VF has no PF, the PF has no services, or the PF is not a known QAT
// device.
func decideResource(f *facts, r *rules) decision {
	resource := device.Generic
	if f.pfAddress != nil && f.vf.Family.Services {
		switch {
		case f.pfReadErr != "":
			return skip(status.ClassUnreadable, fmt.Sprintf("its PF %s cannot be read: %s", f.pfAddress, f.pfReadErr))
		case f.pf != nil:
			resource = f.pf.Resource
		case !f.pfExists:
			return skip(status.ClassRemoving, fmt.Sprintf("its PF %s is gone", f.pfAddress))
		}
	}
	d := newDevice(f, r, resource)
	return decision{
		action:    actionList,
		resource:  resource,
		device:    d,
		unhealthy: d.Health == devtree.Unhealthy && !(f.withdrawn != "" && f.hasPlace()),
	}
}

// newDevice returns the device under which a VF is listed in a resource.
func newDevice(f *facts, r *rules, resource string) *devtree.Device {
	vf := f.vf
	d := &devtree.Device{
		ID:             vf.Address.String(),
		Health:         devtree.Healthy,
		ContainerEdits: containerEdits(vf.Node, r.driver),
	}
	if vf.NUMANode >= 0 {
		d.NUMANodes = []int{vf.NUMANode}
	}
	reason := unhealthyReason(f)
	if reason.Text != "" {
		d.Health, d.Reason = devtree.Unhealthy, reason.Text
	}
	if r.attributes {
		d.Cause, d.Attributes = reason.Class, attributes(f, resource)
	}
	return d
}

// unhealthyReason returns why a listed VF must not be allocated, or the zero Reason if it may be.
func unhealthyReason(f *facts) status.Reason {
	switch vf, pf := f.vf, f.pf; {
	case f.withdrawn != "":
		return status.Reason{Class: status.ClassWithdrawn, Text: f.withdrawn}
	case vf.Node.Releasing:
		return f.releasingReason()
	case pf != nil && pf.IsDown():
		return status.Reason{Class: status.ClassPFDown, Text: fmt.Sprintf("its PF %s is %s", pf.Address, pf.State)}
	case pf != nil && pf.unhealthy.Text != "":
		return status.Reason{
			Class: pf.unhealthy.Class,
			Text:  fmt.Sprintf("its PF %s %s", pf.Address, pf.unhealthy.Text),
		}
	case vf.unhealthy.Text != "":
		return status.Reason{Class: vf.unhealthy.Class, Text: "it " + vf.unhealthy.Text}
	}
	return status.Reason{}
}

// containerEdits returns what a container needs to use a VF through its node. All paths are paths
// on the host.
func containerEdits(node device.Node, driver string) devtree.ContainerEdits {
	edits := devtree.ContainerEdits{DeviceNodes: []devtree.DeviceNode{deviceNode(node.Name)}}
	switch {
	case driver == device.DriverIGBUIO:
		attributes := "/sys/class/uio/" + node.Name + "/device"
		edits.Mounts = []devtree.Mount{{HostPath: attributes, ContainerPath: attributes}}
	case node.IsCdev(): // a container also needs iommufd (Documentation/userspace-api/iommufd.rst)
		edits.DeviceNodes = append(edits.DeviceNodes, deviceNode("iommu"))
	default: // a container also needs /dev/vfio/vfio, which all groups share (Documentation/driver-api/vfio.rst)
		edits.DeviceNodes = append(edits.DeviceNodes, deviceNode("vfio/vfio"))
	}
	return edits
}

func deviceNode(name string) devtree.DeviceNode {
	path := "/dev/" + name
	return devtree.DeviceNode{HostPath: path, ContainerPath: path, Permissions: "rw"}
}
