package lookalike

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// LoadDriver loads the module of a PCI driver: bus/pci/drivers/<name> appears. Parameters are those of its module ("disable_denylist=1" of
// vfio-pci). A driver that is there already is fine. Devices are not probed for it.
func (h *Host) LoadDriver(name string, parameters ...string) error {
	return h.do("load driver", name, false, func(o *op) { o.loadDriver(name, parameters...) })
}

func (o *op) loadDriver(name string, parameters ...string) {
	h := o.h
	if h.drivers[name] {
		return
	}
	if isVFIO(name) {
		o.startVFIO()
		o.mkdir(h.sys("module", moduleOf(name), "parameters"))
		o.put(h.sys("module", moduleOf(name), "parameters/disable_denylist"), "N")
	}
	if isUIO(name) {
		o.mkdir(h.sys("class/uio"))
	}
	o.mkdir(h.sys("module", moduleOf(name)))
	for _, p := range parameters {
		key, value, _ := strings.Cut(p, "=")
		switch value {
		case "", "1", "y":
			value = "Y"
		case "0", "n":
			value = "N"
		}
		o.mkdir(h.sys("module", moduleOf(name), "parameters"))
		o.put(h.sys("module", moduleOf(name), "parameters", key), value)
	}
	o.emit("add", "/module/"+moduleOf(name), "module")
	dir := h.sys("bus/pci/drivers", name)
	o.mkdir(h.scratch())
	staging := path.Join(h.scratch(), name) // appears with its files, for a program that writes to bind as soon as it is there
	o.mkdir(staging)
	o.fifo(path.Join(staging, "bind"))
	o.fifo(path.Join(staging, "unbind"))
	if h.server != nil {
		o.try(func() error { return h.server.openDriver(name, staging) })
	}
	o.decided()
	o.try(func() error { return os.Rename(staging, dir) })
	o.link(h.sys("module", moduleOf(name)), path.Join(dir, "module"))
	o.emit("add", "/bus/pci/drivers/"+name, "drivers")
	if !o.failed() {
		h.drivers[name] = true
	}
}

// UnloadDriver removes the module: its devices are unbound first.
func (h *Host) UnloadDriver(name string) error {
	return h.do("unload driver", name, false, func(o *op) {
		if !h.drivers[name] {
			o.fail(syscall.ENOENT)
			return
		}
		for _, address := range h.boundTo(name) {
			if d := h.devices[address]; d != nil && d.driver == name { // a PF's VFs went with it
				o.decided()
				o.unbind(d)
			}
		}
		o.rmtree(h.sys("bus/pci/drivers", name))
		o.emit("remove", "/bus/pci/drivers/"+name, "drivers")
		o.rmtree(h.sys("module", moduleOf(name)))
		o.emit("remove", "/module/"+moduleOf(name), "module")
		if h.server != nil {
			h.server.closeDriver(name)
		}
		delete(h.drivers, name)
	})
}

// Bound are the addresses of the functions that the driver holds, in order.
func (h *Host) Bound(driver string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boundTo(driver)
}

func (h *Host) boundTo(driver string) []string {
	var addresses []string
	for address, d := range h.devices {
		if d.driver == driver {
			addresses = append(addresses, address)
		}
	}
	slices.Sort(addresses)
	return addresses
}

// Bind binds a function that has no driver, whatever driver_override says.
func (h *Host) Bind(address, driver string) error {
	return h.do("bind", address, false, func(o *op) {
		o.Detail = driver
		if d := o.find(address); d != nil {
			o.bind(d, driver)
		}
	})
}

// Unbind takes the driver from a function.
func (h *Host) Unbind(address string) error {
	return h.do("unbind", address, false, func(o *op) {
		switch d := o.find(address); {
		case d == nil:
		case d.driver == "":
			o.fail(syscall.ENODEV)
		default:
			o.Detail = d.driver
			o.decided()
			o.unbind(d)
		}
	})
}

// FailBind makes every bind of the function fail with err, until it is called with nil.
func (h *Host) FailBind(address string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.failBinds, address)
		return
	}
	h.failBinds[address] = err
}

// Hold plays a workload that holds the VFIO device open: when it is unbound or removed, everything after vfio-dev waits until release is
// called.
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

// bind is really_probe: the links are there before the driver's probe runs, and go again when it fails.
func (o *op) bind(d *function, driver string) {
	h := o.h
	switch {
	case o.failed():
		return
	case !h.drivers[driver]:
		o.fail(fmt.Errorf("driver %s is not loaded: %w", driver, syscall.ENODEV))
		return
	case d.driver != "":
		o.fail(fmt.Errorf("driver %s is bound: %w", d.driver, syscall.EBUSY))
		return
	}
	inDriver, inDevice := h.sys("bus/pci/drivers", driver, d.address), path.Join(d.dir(h), "driver")
	o.link(d.dir(h), inDriver)
	o.decided()
	o.link(h.sys("bus/pci/drivers", driver), inDevice)
	if err := o.refusal(d, driver); err != nil {
		o.unlink(inDevice)
		o.unlink(inDriver)
		o.fail(fmt.Errorf("to %s: %w", driver, err))
		return
	}
	switch {
	case isVFIO(driver):
		o.addVFIO(d)
	case isUIO(driver):
		o.addUIO(d)
	case d.spec != nil && driver == d.spec.Driver:
		o.startQAT(d)
	}
	d.driver = driver
	o.emitFunction("bind", d)
}

// refusal is why the driver's probe fails, nil when it does not.
func (o *op) refusal(d *function, driver string) error {
	if err := o.h.failBinds[d.address]; err != nil {
		return err
	}
	f, known := familyOf(d.id)
	if driver == "vfio-pci" && known && f.denylist && read(o.h.sys("module/vfio_pci/parameters/disable_denylist")) != "Y" {
		return fmt.Errorf("%s is on vfio-pci's denylist, load it with disable_denylist=1: %w", d.id, syscall.EINVAL)
	}
	return nil
}

// unbind is __device_release_driver: the links go first, then the driver lets go of the device.
func (o *op) unbind(d *function) {
	h := o.h
	driver := d.driver
	o.unlink(h.sys("bus/pci/drivers", driver, d.address))
	o.unlink(path.Join(d.dir(h), "driver"))
	switch {
	case isVFIO(driver):
		o.removeVFIO(d)
	case isUIO(driver):
		o.removeUIO(d)
	case d.spec != nil && driver == d.spec.Driver:
		o.stopQAT(d)
		o.showNumVFs(d)
	}
	d.driver = ""
	o.emitFunction("unbind", d)
}

// probe is device_attach: it looks for a driver that takes the function, and is content when there is none.
func (o *op) probe(d *function) {
	if driver := o.match(d); driver != "" && d.driver == "" {
		o.bind(d, driver)
		if o.failed() { // a probe that fails leaves the device as it is, and its maker does not hear of it
			o.Err = nil
		}
	}
}

// match is pci_bus_match and pci_device_can_probe: driver_override is exact and excludes all others.
func (o *op) match(d *function) string {
	h := o.h
	override := read(path.Join(d.dir(h), "driver_override"))
	if override != "" && override != "(null)" {
		if h.drivers[override] {
			return override
		}
		return ""
	}
	if d.pf != nil && read(path.Join(d.pf.dir(h), "sriov_drivers_autoprobe")) == "0" {
		return ""
	}
	own := ""
	if d.spec != nil {
		own = d.spec.Driver
	} else if f, ok := familyOf(d.id); ok {
		own = f.driver + "vf"
	}
	if h.drivers[own] {
		return own
	}
	return ""
}

// read is an attribute's value without its newline, "" when it cannot be read.
func read(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func isVFIO(driver string) bool { return driver == "vfio-pci" || driver == "qat_vfio_pci" }

func isUIO(driver string) bool { return driver == "igb_uio" || driver == "uio_pci_generic" }

func moduleOf(driver string) string { return strings.ReplaceAll(driver, "-", "_") }
