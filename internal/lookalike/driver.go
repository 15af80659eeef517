// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// LoadDriver loads the module of a PCI driver: bus/pci/drivers/<name> appears. The parameters are
// those of the module, such as "disable_denylist=1" for vfio-pci. Existing devices are not probed.
// Loading a driver twice has no effect.
func (h *Host) LoadDriver(name string, parameters ...string) error {
	return h.do("load driver", name, func(o *op) { o.loadDriver(name, parameters...) })
}

func (o *op) loadDriver(name string, parameters ...string) {
	h := o.h
	if h.drivers[name] {
		return
	}
	module := h.sys("module", moduleOf(name))
	o.mkdir(path.Join(module, "parameters"))
	if isVFIO(name) {
		o.startVFIO()
		o.create(path.Join(module, "parameters/disable_denylist"), "N")
	}
	if isUIO(name) {
		o.mkdir(h.sys("class/uio"))
	}
	if !isVFIO(name) && !isUIO(name) {
		o.create(path.Join(module, "version"), driverVersion)
	}
	for _, p := range parameters {
		key, value, _ := strings.Cut(p, "=")
		switch value {
		case "", "1", "y":
			value = "Y"
		case "0", "n":
			value = "N"
		}
		o.create(path.Join(module, "parameters", key), value)
	}
	o.emit("add", "/module/"+moduleOf(name), "module")
	// The directory appears complete, for programs that write to bind as soon as it exists.
	dir := h.sys("bus/pci/drivers", name)
	temp := path.Join(h.scratch(), name)
	o.mkdir(temp)
	o.fifo(path.Join(temp, "bind"))
	o.fifo(path.Join(temp, "unbind"))
	if h.server != nil {
		o.try(func() error { return h.server.openDriver(name, temp) })
	}
	o.markVisible()
	o.try(func() error { return os.Rename(temp, dir) })
	o.link(module, path.Join(dir, "module"))
	o.emit("add", "/bus/pci/drivers/"+name, "drivers")
	if !o.failed() {
		h.drivers[name] = true
	}
}

// driverVersion is the version of the modules with the QAT drivers
// (drivers/crypto/intel/qat/qat_common/adf_common_drv.h, ADF_DRV_VERSION).
const driverVersion = "0.6.0"

// SetParameter writes a parameter of a module, such as enable_unsafe_noiommu_mode of vfio.
func (h *Host) SetParameter(module, name, value string) error {
	return h.do("set parameter of", module, func(o *op) {
		o.Value = name + "=" + value
		o.markVisible()
		o.replace(h.sys("module", module, "parameters", name), value)
	})
}

// UnloadDriver unbinds the driver's devices and removes its module.
func (h *Host) UnloadDriver(name string) error {
	return h.do("unload driver", name, func(o *op) {
		if !h.drivers[name] {
			o.fail(syscall.ENOENT)
			return
		}
		for _, address := range h.boundTo(name) {
			if d := h.devices[address]; d != nil && d.driver == name { // not a VF that its PF took along
				o.markVisible()
				o.unbind(d)
			}
		}
		o.removeAll(h.sys("bus/pci/drivers", name))
		o.emit("remove", "/bus/pci/drivers/"+name, "drivers")
		o.removeAll(h.sys("module", moduleOf(name)))
		o.emit("remove", "/module/"+moduleOf(name), "module")
		if h.server != nil {
			h.server.closeDriver(name)
		}
		delete(h.drivers, name)
	})
}

// Bound returns the addresses of the functions that are bound to the driver, in order.
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
	return h.doFunction("bind", address, func(o *op, d *function) {
		o.Value = driver
		o.bind(d, driver)
	})
}

// Unbind unbinds a function from its driver.
func (h *Host) Unbind(address string) error {
	return h.doFunction("unbind", address, func(o *op, d *function) {
		if d.driver == "" {
			o.fail(syscall.ENODEV)
			return
		}
		o.Value = d.driver
		o.markVisible()
		o.unbind(d)
	})
}

// FailBind makes every bind of the function fail with err, until FailBind is called with nil.
func (h *Host) FailBind(address string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failBinds[address] = err
}

// bind is really_probe: the links exist before the driver's probe runs, and disappear when the
// probe fails.
func (o *op) bind(d *function, driver string) {
	h := o.h
	switch {
	case o.failed():
		return
	case !h.drivers[driver]:
		o.fail(fmt.Errorf("driver %s is not loaded: %w", driver, syscall.ENODEV))
		return
	case d.driver != "":
		o.fail(fmt.Errorf("bound to %s already: %w", d.driver, syscall.EBUSY))
		return
	}
	inDriver, inDevice := h.sys("bus/pci/drivers", driver, d.address), path.Join(d.dir(h), "driver")
	o.link(d.dir(h), inDriver)
	o.markVisible()
	o.link(h.sys("bus/pci/drivers", driver), inDevice)
	if err := o.probeError(d, driver); err != nil {
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
	o.emitPCI("bind", d)
}

// probeError returns the error of the driver's probe.
func (o *op) probeError(d *function, driver string) error {
	if err := o.h.failBinds[d.address]; err != nil {
		return err
	}
	if f, _ := familyOf(d.id); driver == "vfio-pci" && f.denylist &&
		read(o.h.sys("module/vfio_pci/parameters/disable_denylist")) != "Y" {
		return fmt.Errorf("%s is on vfio-pci's denylist; load it with disable_denylist=1: %w", d.id, syscall.EINVAL)
	}
	if isVFIO(driver) && !d.inGroup && read(o.h.sys("module/vfio/parameters/enable_unsafe_noiommu_mode")) != "Y" {
		return fmt.Errorf("no IOMMU group: %w", syscall.EINVAL) // vfio_group_find_or_alloc
	}
	return nil
}

// unbind is __device_release_driver: first the links disappear, then the driver lets the device go.
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
	o.emitPCI("unbind", d)
}

// autoprobe is device_initial_probe: it binds a new function to the driver that matches, if
// drivers_autoprobe allows that. A failed probe leaves the function unbound and is no error.
func (o *op) autoprobe(d *function) {
	if o.failed() || read(o.h.sys("bus/pci/drivers_autoprobe")) == "0" {
		return
	}
	if driver := o.match(d); driver != "" {
		o.bind(d, driver)
		o.Err = nil
	}
}

// match is pci_bus_match and pci_device_can_probe. It returns the loaded driver for the function,
// or "". A driver_override excludes every other driver.
func (o *op) match(d *function) string {
	driver := read(path.Join(d.dir(o.h), "driver_override"))
	if driver == "" || driver == "(null)" {
		if d.pf != nil && read(path.Join(d.pf.dir(o.h), "sriov_drivers_autoprobe")) == "0" {
			return ""
		}
		if d.spec != nil {
			driver = d.spec.Driver
		} else if f, ok := familyOf(d.id); ok {
			driver = f.driver + "vf"
		}
	}
	if !o.h.drivers[driver] {
		return ""
	}
	return driver
}

func isVFIO(driver string) bool { return driver == "vfio-pci" || driver == "qat_vfio_pci" }

func isUIO(driver string) bool { return driver == "igb_uio" || driver == "uio_pci_generic" }

func moduleOf(driver string) string { return strings.ReplaceAll(driver, "-", "_") }
