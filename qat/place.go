package qat

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// A candidate is a VF as the kubelet could see it.
type candidate struct {
	resource string
	device   *devtree.Device
}

// place puts the touched VFs where they belong now. With a limit, what is listed keeps its place.
func (f *fold) place(touched map[Address]bool, now time.Time) {
	b := f.tree.Edit()
	for _, a := range slices.SortedFunc(maps.Keys(touched), Address.Compare) {
		c, why := f.judge(a, now)
		delete(f.waiting, a)
		delete(f.left, a)
		resource := f.listed[a]
		if resource != "" && resource != c.resource {
			b.Remove(resource, a.String())
		}
		switch {
		case c.resource == "":
			delete(f.listed, a)
			if why != "" {
				f.left[a] = why
			}
		case resource != "" || f.max == 0:
			f.list(b, a, c)
		default:
			f.waiting[a] = c
		}
	}
	if len(f.waiting) > 0 {
		f.admit(b)
	}
	before := f.tree
	f.tree = b.Build()
	if f.tree != before && f.prefer.policy != NoPolicy {
		f.prefer.homes.Store(newHomes(maps.Keys(f.listed), f.homeOf))
	}
}

// admit gives the places that the limit leaves to VFs that wait for one. A VF that is being bound waits too, and holds its place: else
// the VFs of the PF that is bound first would take all.
func (f *fold) admit(b *devtree.Builder) {
	waiting := f.binder.underWay()
	for a := range f.waiting {
		waiting = append(waiting, a)
	}
	places := f.max - len(f.listed)
	for _, a := range admissionOrder(f.prefer.policy, waiting, f.homeOf, newHomes(maps.Keys(f.listed), f.homeOf).listed) {
		c, ready := f.waiting[a]
		switch {
		case places == 0 && ready:
			f.left[a] = fmt.Sprintf("hidden by -max-num-devices=%d", f.max)
		case places > 0 && ready:
			f.list(b, a, c)
			delete(f.waiting, a)
			places--
		case places > 0:
			places--
		}
	}
}

// homeOf is the PF of a VF that is known, for the policies.
func (f *fold) homeOf(vf Address) (Address, bool) {
	if fn := f.functions[vf]; fn != nil {
		return f.pfOf(fn)
	}
	return Address{}, false
}

func (f *fold) list(b *devtree.Builder, a Address, c candidate) {
	delete(f.left, a)
	if err := b.Put(c.resource, c.device); err != nil {
		klog.ErrorS(err, "Left a device out", "device", a)
		b.Remove(c.resource, a.String())
		f.left[a] = err.Error()
		delete(f.listed, a)
		return
	}
	f.listed[a] = c.resource
}

// judge says what the kubelet should see of a VF: a candidate, or why not. Neither: there is no such VF.
func (f *fold) judge(a Address, now time.Time) (c candidate, why string) {
	vf := f.functions[a]
	switch {
	case vf == nil:
		f.binder.forget(a)
		return c, f.unreadable[a]
	case vf.Broken != "":
		f.binder.forget(a)
		return c, vf.Broken
	case !f.vfDrivers[vf.Family.VFDriver]:
		return c, fmt.Sprintf("its family's driver %s is not one of -kernel-vf-drivers", vf.Family.VFDriver)
	case vf.Node.Leaving && f.listed[a] != "":
		// It stays listed, and unhealthy, until it is gone or is back.
	case vf.Node.Leaving && vf.Driver == "":
		f.binder.forget(a)
		return c, vf.Node.Missing // to bind it now would wait for its holder
	case vf.Going && !f.host.bound(vf.Driver):
		f.binder.forget(a)
		return c, "it is being removed" // to bind it now would only hold that up
	case !f.host.bound(vf.Driver):
		return c, f.binder.want(vf, now)
	case vf.Node.Missing != "":
		f.binder.settled(a, now)
		return c, vf.Node.Missing
	}
	f.binder.forget(a)
	c.resource, why = f.resource(vf)
	if c.resource != "" {
		c.device = f.device(vf)
	}
	return c, why
}

// resource is the resource of a VF by its PF's services.
func (f *fold) resource(vf *Function) (name, why string) {
	address, ok := f.pfOf(vf)
	if !ok || !vf.Family.Services {
		return Generic, ""
	}
	pf, unread := f.functions[address], f.unreadable[address]
	if pf != nil {
		unread = pf.Broken
	}
	switch {
	case unread != "":
		return "", fmt.Sprintf("its PF %s cannot be read: %s", address, unread)
	case pf != nil:
		return pf.Resource, ""
	}
	if exists(filepath.Join(f.host.sysfs, "bus/pci/devices", address.String())) {
		return Generic, "" // a PF that is not known here
	}
	return "", fmt.Sprintf("its PF %s is gone", address)
}

// device is the VF for the kubelet. It is Unhealthy, with the reason, when it is listed and must not be handed out.
func (f *fold) device(vf *Function) *devtree.Device {
	d := &devtree.Device{ID: vf.Address.String(), Health: devtree.Healthy}
	if vf.NUMANode >= 0 {
		d.NUMANodes = []int{vf.NUMANode}
	}
	d.ContainerEdits = f.host.edits(vf.Node.Name)
	if reason := f.unfit(vf); reason != "" {
		d.Health, d.Reason = devtree.Unhealthy, reason
	}
	return d
}

// unfit says why a VF that is listed must not be handed out; "" when it may.
func (f *fold) unfit(vf *Function) string {
	if vf.Node.Leaving {
		return vf.Node.Missing
	}
	if address, ok := f.pfOf(vf); ok {
		switch pf := f.functions[address]; {
		case pf == nil:
		case pf.State != "" && pf.State != "up":
			return fmt.Sprintf("its PF %s is %s", address, pf.State)
		case pf.Sick != "":
			return fmt.Sprintf("its PF %s %s", address, pf.Sick)
		}
	}
	if vf.Sick != "" {
		return "it " + vf.Sick
	}
	return ""
}

// edits is what a container needs to drive a VF through its node. The kubelet is told paths of the host, wherever /dev is seen here.
func (h *host) edits(node string) devtree.ContainerEdits {
	file := "/dev/" + node
	nodes := []devtree.DeviceNode{{HostPath: file, ContainerPath: file, Permissions: "rw"}}
	if h.dpdkDriver == driverUIO {
		attributes := "/sys/class/uio/" + node + "/device"
		return devtree.ContainerEdits{DeviceNodes: nodes, Mounts: []devtree.Mount{{HostPath: attributes, ContainerPath: attributes}}}
	}
	container := "/dev/vfio/vfio" // the VFIO container, one for all groups (Documentation/driver-api/vfio.rst)
	if strings.HasPrefix(node, cdevPrefix) {
		container = "/dev/iommu" // its successor (Documentation/userspace-api/iommufd.rst)
	}
	return devtree.ContainerEdits{DeviceNodes: append(nodes, devtree.DeviceNode{HostPath: container, ContainerPath: container, Permissions: "rw"})}
}

// outcome says for people what became of a function.
func (f *fold) outcome(a Address) string {
	fn := f.functions[a]
	switch {
	case f.unreadable[a] != "":
		return "left out: " + f.unreadable[a]
	case fn == nil:
		return "no QAT function there"
	case !fn.IsVF && fn.Broken != "":
		return "PF that cannot be read: " + fn.Broken
	case !fn.IsVF:
		return fmt.Sprintf("PF with %d VFs, resource %s", len(fn.VFs), fn.Resource)
	case f.left[a] != "":
		return "not listed: " + f.left[a]
	}
	d := f.tree.Resource(f.listed[a]).Device(a.String())
	if d == nil {
		return "not listed"
	}
	if d.Health == devtree.Unhealthy {
		return fmt.Sprintf("in %s, unhealthy: %s", f.listed[a], d.Reason)
	}
	return "in " + f.listed[a]
}
