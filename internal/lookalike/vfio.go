package lookalike

import (
	"fmt"
	"path"
	"strconv"
)

// Major numbers that a kernel might hand out; nobody relies on them.
const (
	majorVFIO    = 511
	majorVFIODev = 510
	majorUIO     = 243
)

// startVFIO is what the module vfio brings: its classes and the container node.
func (o *op) startVFIO() {
	h := o.h
	if read(h.sys("class/misc/vfio/dev")) != "" {
		return
	}
	for _, dir := range []string{"class/vfio", "class/vfio-dev", "class/misc", "devices/virtual/vfio", "devices/virtual/misc/vfio"} {
		o.mkdir(h.sys(dir))
	}
	o.put(h.sys("devices/virtual/misc/vfio/dev"), "10:196")
	o.link(h.sys("devices/virtual/misc/vfio"), h.sys("class/misc/vfio"))
	o.mkdir(h.dev("vfio"))
	o.put(h.dev("vfio/vfio"), "")
	o.emit("add", "/devices/virtual/misc/vfio", "misc", "MAJOR=10", "MINOR=196", "DEVNAME=vfio/vfio", "DEVMODE=0666")
}

// addVFIO is vfio_register_group_dev: first the group and its node, then the device.
func (o *op) addVFIO(d *function) {
	h := o.h
	if d.group < 0 {
		d.noiommu = true
		o.joinGroup(d, "unknown")
	}
	group := d.vfioGroup()
	devpath := "/devices/virtual/vfio/" + group
	o.mkdir(h.sys(devpath))
	o.put(h.sys(devpath, "dev"), fmt.Sprintf("%d:%d", majorVFIO, d.group))
	o.put(h.sys(devpath, "uevent"), fmt.Sprintf("MAJOR=%d\nMINOR=%d\nDEVNAME=vfio/%s", majorVFIO, d.group, group))
	o.link(h.sys("class/vfio"), h.sys(devpath, "subsystem"))
	o.link(h.sys(devpath), h.sys("class/vfio", group))
	o.put(h.dev("vfio", group), "")
	o.emitNode("add", devpath, "vfio", "vfio/"+group, majorVFIO, d.group)

	d.vfio = h.vfios.take()
	name := "vfio" + strconv.Itoa(d.vfio)
	devpath = path.Join(d.devpath, "vfio-dev", name)
	o.decided()
	o.mkdir(h.sys(devpath))
	o.link(d.dir(h), h.sys(devpath, "device"))
	o.link(h.sys("class/vfio-dev"), h.sys(devpath, "subsystem"))
	o.link(h.sys(devpath), h.sys("class/vfio-dev", name))
	if h.iommufd {
		o.put(h.sys(devpath, "dev"), fmt.Sprintf("%d:%d", majorVFIODev, d.vfio))
		o.mkdir(h.dev("vfio/devices"))
		o.put(h.dev("vfio/devices", name), "")
		o.emitNode("add", devpath, "vfio-dev", "vfio/devices/"+name, majorVFIODev, d.vfio)
		return
	}
	o.emit("add", devpath, "vfio-dev")
}

// removeVFIO is vfio_unregister_group_dev: the device goes, then the kernel waits until nobody holds it, then its group goes.
func (o *op) removeVFIO(d *function) {
	h := o.h
	name := "vfio" + strconv.Itoa(d.vfio)
	devpath := path.Join(d.devpath, "vfio-dev", name)
	o.unlink(h.sys("class/vfio-dev", name))
	if h.iommufd {
		o.unlink(h.dev("vfio/devices", name))
		o.emitNode("remove", devpath, "vfio-dev", "vfio/devices/"+name, majorVFIODev, d.vfio)
	} else {
		o.emit("remove", devpath, "vfio-dev")
	}
	o.rmtree(path.Join(d.dir(h), "vfio-dev"))
	h.vfios.free(d.vfio)
	d.vfio = -1

	if held := h.held(d.address); held != nil {
		<-held
	}
	group := d.vfioGroup()
	devpath = "/devices/virtual/vfio/" + group
	o.unlink(h.dev("vfio", group))
	o.unlink(h.sys("class/vfio", group))
	o.emitNode("remove", devpath, "vfio", "vfio/"+group, majorVFIO, d.group)
	o.rmtree(h.sys(devpath))
	if d.noiommu {
		o.leaveGroup(d)
		d.noiommu = false
	}
}

// vfioGroup is the name of the function's VFIO group: of its node below /dev/vfio.
func (d *function) vfioGroup() string {
	if d.noiommu {
		return "noiommu-" + strconv.Itoa(d.group)
	}
	return strconv.Itoa(d.group)
}

func (o *op) addUIO(d *function) {
	h := o.h
	d.uio = h.uios.take()
	name := "uio" + strconv.Itoa(d.uio)
	devpath := path.Join(d.devpath, "uio", name)
	o.mkdir(h.sys(devpath))
	o.put(h.sys(devpath, "name"), "igb_uio")
	o.put(h.sys(devpath, "dev"), fmt.Sprintf("%d:%d", majorUIO, d.uio))
	o.link(d.dir(h), h.sys(devpath, "device"))
	o.link(h.sys("class/uio"), h.sys(devpath, "subsystem"))
	o.link(h.sys(devpath), h.sys("class/uio", name))
	o.decided()
	o.put(h.dev(name), "")
	o.emitNode("add", devpath, "uio", name, majorUIO, d.uio)
}

func (o *op) removeUIO(d *function) {
	h := o.h
	name := "uio" + strconv.Itoa(d.uio)
	o.unlink(h.dev(name))
	o.unlink(h.sys("class/uio", name))
	o.emitNode("remove", path.Join(d.devpath, "uio", name), "uio", name, majorUIO, d.uio)
	o.rmtree(path.Join(d.dir(h), "uio"))
	h.uios.free(d.uio)
	d.uio = -1
}
