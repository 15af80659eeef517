// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
)

// Major numbers that a kernel might allocate.
const (
	majorMisc    = 10
	majorUIO     = 243
	majorVFIODev = 510
	majorVFIO    = 511
)

// classDevice is a device of a class, most of which have a node in /dev.
type classDevice struct {
	class, name  string    // /sys/class/<class>/<name> is a link to it
	devpath      string    // of a device without a parent
	parent       *function // its directory is <parent>/<class>/<name>
	node         string    // path below /dev; "" if it has none
	major, minor int       // of the node
	forAll       bool      // every user can open the node; else only its owner
}

func (c *classDevice) path() string {
	if c.parent == nil {
		return c.devpath
	}
	return path.Join(c.parent.devpath, c.class, c.name)
}

func (c *classDevice) variables() []string {
	if c.node == "" {
		return nil
	}
	return []string{fmt.Sprintf("MAJOR=%d", c.major), fmt.Sprintf("MINOR=%d", c.minor), "DEVNAME=" + c.node}
}

// addClassDevice is device_add: directory, links, node, uevent. Extra variables go to the uevent.
func (o *op) addClassDevice(c *classDevice, variables ...string) {
	h := o.h
	dir := h.sys(c.path())
	o.mkdir(dir)
	o.link(h.sys("class", c.class), path.Join(dir, "subsystem"))
	o.link(dir, h.sys("class", c.class, c.name))
	if c.parent != nil {
		o.link(c.parent.dir(h), path.Join(dir, "device"))
	}
	if c.node != "" {
		o.create(path.Join(dir, "dev"), fmt.Sprintf("%d:%d", c.major, c.minor))
		o.mkdir(path.Dir(h.dev(c.node)))
		o.create(h.dev(c.node), "")
		mode := os.FileMode(0o600) // drivers/base/devtmpfs.c, devtmpfs_create_node
		if c.forAll {
			mode = 0o666
		}
		o.try(func() error { return os.Chmod(h.dev(c.node), mode) })
	}
	o.emit("add", c.path(), c.class, append(c.variables(), variables...)...)
}

// removeClassDevice is device_del: node, link, uevent, directory.
func (o *op) removeClassDevice(c *classDevice) {
	h := o.h
	if c.node != "" {
		o.unlink(h.dev(c.node))
	}
	o.unlink(h.sys("class", c.class, c.name))
	o.emit("remove", c.path(), c.class, c.variables()...)
	if c.parent == nil {
		o.removeAll(h.sys(c.path()))
	} else {
		o.removeAll(path.Dir(h.sys(c.path()))) // the only device of its class
	}
}

// startVFIO simulates loading the module vfio. It adds the classes and the parameter of the module,
// and the container node.
func (o *op) startVFIO() {
	h := o.h
	if read(h.sys("class/misc/vfio/dev")) != "" {
		return
	}
	for _, dir := range []string{"class/misc", "class/vfio", "class/vfio-dev", "module/vfio/parameters"} {
		o.mkdir(h.sys(dir))
	}
	noiommu := "N"
	if h.noIOMMU {
		noiommu = "Y"
	}
	o.create(h.sys("module/vfio/parameters/enable_unsafe_noiommu_mode"), noiommu)
	o.addClassDevice(&classDevice{
		class:   "misc",
		name:    "vfio",
		devpath: "/devices/virtual/misc/vfio",
		node:    "vfio/vfio",
		major:   majorMisc,
		minor:   196,
		forAll:  true,
	}, "DEVMODE=0666")
}

// addVFIO is vfio_register_group_dev: it adds first the group, then the device.
func (o *op) addVFIO(d *function) {
	if !d.inGroup {
		d.noiommu = true
		o.joinGroup(d, "unknown")
	}
	if !o.h.hasVFIOGroup(d) {
		o.addClassDevice(d.vfioGroup())
	}
	d.vfio = o.h.vfios.take()
	o.markVisible()
	o.addClassDevice(o.vfioDevice(d))
}

// removeVFIO is vfio_unregister_group_dev: it removes the device, waits until nobody holds it
// open, and removes the group.
func (o *op) removeVFIO(d *function) {
	h := o.h
	o.removeClassDevice(o.vfioDevice(d))
	h.vfios.free(d.vfio)
	if held := h.held(d.address); held != nil {
		<-held
	}
	if !h.hasVFIOGroup(d) {
		o.removeClassDevice(d.vfioGroup())
	}
	if d.noiommu {
		o.leaveGroup(d)
		d.noiommu = false
	}
}

// hasVFIOGroup reports whether another function in the IOMMU group is bound to a VFIO driver.
func (h *Host) hasVFIOGroup(d *function) bool {
	return slices.ContainsFunc(h.groupMembers(d.group), func(other *function) bool {
		return other != d && isVFIO(other.driver)
	})
}

// vfioGroup returns the VFIO group of the function, whose node is /dev/vfio/<name>.
func (d *function) vfioGroup() *classDevice {
	name := strconv.Itoa(d.group)
	if d.noiommu {
		name = "noiommu-" + name
	}
	return &classDevice{
		class:   "vfio",
		name:    name,
		devpath: "/devices/virtual/vfio/" + name,
		node:    "vfio/" + name,
		major:   majorVFIO,
		minor:   d.group,
	}
}

// vfioDevice returns the VFIO device of the function. It has a node only with iommufd.
func (o *op) vfioDevice(d *function) *classDevice {
	c := &classDevice{class: "vfio-dev", name: "vfio" + strconv.Itoa(d.vfio), parent: d}
	if o.h.iommufd {
		c.node, c.major, c.minor = "vfio/devices/"+c.name, majorVFIODev, d.vfio
	}
	return c
}

func (o *op) addUIO(d *function) {
	d.uio = o.h.uios.take()
	o.markVisible()
	o.addClassDevice(d.uioDevice())
}

func (o *op) removeUIO(d *function) {
	o.removeClassDevice(d.uioDevice())
	o.h.uios.free(d.uio)
}

func (d *function) uioDevice() *classDevice {
	name := "uio" + strconv.Itoa(d.uio)
	return &classDevice{class: "uio", name: name, parent: d, node: name, major: majorUIO, minor: d.uio}
}

// Hold simulates a workload that holds the VFIO device of a function open: when the function is
// unbound or removed, everything after the removal of its vfio-dev waits until release is called.
func (h *Host) Hold(address string) (release func()) {
	c := make(chan struct{})
	h.holdMu.Lock()
	defer h.holdMu.Unlock()
	h.holds[address] = c
	return func() {
		h.holdMu.Lock()
		defer h.holdMu.Unlock()
		if h.holds[address] == c {
			delete(h.holds, address)
			close(c)
		}
	}
}

func (h *Host) held(address string) <-chan struct{} {
	h.holdMu.Lock()
	defer h.holdMu.Unlock()
	return h.holds[address]
}
