package lookalike

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"syscall"
)

// classQAT and classBridge are PCI class codes: co-processor, PCI-to-PCI bridge.
const (
	classQAT    = "0b4000"
	classBridge = "060400"
)

// function is one PCI function of the host.
type function struct {
	address string
	devpath string // /devices/pci0000:6b/0000:6b:00.0
	id      string // PCI device ID, four hexadecimal digits
	class   string // six hexadecimal digits
	numa    int    // -1: the platform does not say
	driver  string // "" when none is bound
	group   int    // number of the IOMMU group; -1 when it is in none
	noiommu bool   // the group was made by VFIO's noiommu mode, and goes with it
	vfio    int    // N of vfio-dev/vfioN while bound to a VFIO driver, else -1
	uio     int    // N of uio/uioN while bound to a UIO driver, else -1

	pf    *function // of a VF: its PF; nil when the PF is not on this host (a guest)
	index int       // of a VF with PF: N of virtfnN

	spec   *PF         // of a PF only
	vfs    []*function // of a PF: its VFs, by index
	numVFs int         // of a PF: what sriov_numvfs says
	// shown is what the host last wrote to, or read from, the attributes that users write to. When a file says something else while
	// the host is served, a user wrote it and Serve will come to it.
	shown map[string]string
	// stateWritten says that a user wrote to qat/state without changing it, as far as Serve could see (serve.go).
	stateWritten bool
}

// find is the function of that address; when there is none the operation fails.
func (o *op) find(address string) *function {
	d := o.h.devices[address]
	if d == nil {
		o.fail(syscall.ENODEV)
	}
	return d
}

func (o *op) findPF(address string) *function {
	d := o.find(address)
	if d != nil && d.spec == nil {
		o.fail(fmt.Errorf("%s is no PF", address))
		return nil
	}
	return d
}

func (d *function) dir(h *Host) string { return h.sys(d.devpath) }

// appear makes the function's directory, then the link by which programs find it, then tells the world: pci_device_add.
func (o *op) appear(d *function) {
	h := o.h
	if h.devices[d.address] != nil {
		o.fail(syscall.EEXIST)
		return
	}
	dir := d.dir(h)
	o.mkdir(dir)
	if h.server != nil && d.spec != nil {
		o.try(func() error { return h.server.watch(dir) })
	}
	o.link(h.sys("bus/pci"), path.Join(dir, "subsystem"))
	uevent := ""
	for i, v := range d.variables() {
		if i > 0 {
			uevent += "\n"
		}
		uevent += v
	}
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
		{"uevent", uevent},
	} {
		o.put(path.Join(dir, a[0]), a[1])
	}
	if d.spec != nil {
		o.replace(path.Join(dir, "sriov_totalvfs"), strconv.Itoa(d.spec.TotalVFs))
		o.show(d, "sriov_numvfs", "0")
		o.replace(path.Join(dir, "sriov_drivers_autoprobe"), "1")
		o.replace(path.Join(dir, "sriov_vf_device"), d.spec.VFDeviceID)
		o.replace(path.Join(dir, "remove"), "")
	}
	if !h.noIOMMU && d.class == classQAT {
		o.joinGroup(d, "DMA")
	}
	h.devices[d.address] = d
	o.decided()
	o.link(dir, h.sys("bus/pci/devices", d.address))
	o.emitFunction("add", d)
}

// vanish unbinds the function and takes it away: pci_stop_and_remove_bus_device. The link goes before the event, the directory after it.
func (o *op) vanish(d *function) {
	h := o.h
	if d.driver != "" {
		o.unbind(d)
	}
	o.unlink(h.sys("bus/pci/devices", d.address))
	if d.group >= 0 {
		o.leaveGroup(d)
	}
	o.emitFunction("remove", d)
	o.rmtree(d.dir(h))
	if h.devices[d.address] == d {
		delete(h.devices, d.address)
	}
}

// joinGroup puts the function into an IOMMU group of its own.
func (o *op) joinGroup(d *function, kind string) {
	h := o.h
	d.group = h.groups.take()
	group := h.sys("kernel/iommu_groups", strconv.Itoa(d.group))
	o.mkdir(path.Join(group, "devices"))
	o.put(path.Join(group, "type"), kind)
	o.put(path.Join(group, "reserved_regions"), "")
	o.link(d.dir(h), path.Join(group, "devices", d.address))
	if d.noiommu {
		o.put(path.Join(group, "name"), "vfio-noiommu")
	}
	o.link(group, path.Join(d.dir(h), "iommu_group"))
}

func (o *op) leaveGroup(d *function) {
	h := o.h
	o.unlink(path.Join(d.dir(h), "iommu_group"))
	o.rmtree(h.sys("kernel/iommu_groups", strconv.Itoa(d.group)))
	h.groups.free(d.group)
	d.group = -1
}

// show makes an attribute that users write to say what is true. A user's write that waits for Serve is left alone; for the attribute that
// asked for this operation, what waits is the rest of the same write (a shell truncates, then writes).
func (o *op) show(d *function, name, value string) {
	file := path.Join(d.dir(o.h), name)
	switch now := read(file); {
	case now == value:
	case o.h.server != nil && (now != d.shown[name] || o.taken != name && o.h.server.pending(file)):
		return
	default:
		o.replace(file, value)
	}
	d.shown[name] = value
}

// SetAttr gives an attribute of a function its value ("numa_node", "qat/auto_reset"), at one moment; it is made when it is missing. What
// a kernel would do because of it does not happen.
func (h *Host) SetAttr(address, name, value string) error {
	return h.do("set "+name+" of", address, false, func(o *op) {
		o.Detail = value
		d := o.find(address)
		if d == nil {
			return
		}
		file := path.Join(d.dir(h), name)
		o.mkdir(path.Dir(file))
		o.decided()
		o.replace(file, value)
		if d.shown != nil {
			d.shown[name] = value
		}
	})
}

// RemoveAttr takes an attribute (or a whole group such as "qat") away, as on a kernel that does not have it.
func (h *Host) RemoveAttr(address, name string) error {
	return h.do("remove "+name+" of", address, false, func(o *op) {
		if d := o.find(address); d != nil {
			o.decided()
			o.rmtree(path.Join(d.dir(h), name))
		}
	})
}

var addressParts = regexp.MustCompile(`^([0-9a-f]{4,}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$`)

// routing splits an address into its domain and the 16-bit number bus:device.function, which SR-IOV counts in.
func routing(address string) (domain string, id int, err error) {
	m := addressParts.FindStringSubmatch(address)
	if m == nil {
		return "", 0, fmt.Errorf("%q is not a PCI address such as 0000:6b:00.0", address)
	}
	bus, _ := strconv.ParseUint(m[2], 16, 8) // the pattern lets only hexadecimal digits through
	dev, _ := strconv.ParseUint(m[3], 16, 8)
	fn, _ := strconv.ParseUint(m[4], 8, 8)
	if dev > 31 {
		return "", 0, fmt.Errorf("%q: a bus has 32 devices", address)
	}
	return m[1], int(bus<<8 | dev<<3 | fn), nil
}

func addressOf(domain string, id int) string {
	return fmt.Sprintf("%s:%02x:%02x.%d", domain, id>>8, id>>3&31, id&7)
}
