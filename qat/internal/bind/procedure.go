// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"fmt"
	"path"
	"path/filepath"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// configure takes the VF from its driver and asks the kernel to bind it to the DPDK driver.
// Writing driver_override ties the two together: no other driver can bind to the VF, and the
// DPDK driver binds to no other device (Documentation/ABI/testing/sysfs-bus-pci).
func (b *Binder) configure(t *attempt) error {
	t.formerOverride = b.driverOverride(t.vf.Address)
	if err := b.setDriverOverride(t.vf.Address, b.cfg.Driver); err != nil {
		return err
	}
	if t.vf.Driver != "" {
		err := b.cfg.Writer.Write(path.Join("bus/pci/drivers", t.vf.Driver, "unbind"), t.vf.Address.String())
		if err != nil && !sysfs.IsAbsent(err) { // absent: the driver no longer has it
			b.undo(t, "") // it still has the VF
			return err
		}
	}
	return b.probe(t)
}

// probe asks the kernel to find a driver for the VF. The kernel also accepts the request if no
// driver binds to the VF.
func (b *Binder) probe(t *attempt) error {
	err := b.cfg.Writer.Write("bus/pci/drivers_probe", t.vf.Address.String())
	if err != nil {
		b.undo(t, t.formerDriver)
	}
	return err
}

// giveUp ends a try in which the driver has not appeared. It always returns an error.
func (b *Binder) giveUp(t *attempt) error {
	b.undo(t, t.formerDriver)
	if t.vf.Denylisted && b.cfg.Driver == "vfio-pci" && b.denylistEnabled() {
		return fmt.Errorf("vfio-pci refuses %s devices unless it is loaded with disable_denylist=1 "+
			"(modprobe vfio-pci disable_denylist=1)", t.vf.Family)
	}
	return fmt.Errorf("the kernel accepted the request but %s did not bind to the device; see the kernel log",
		b.cfg.Driver)
}

// undo restores driver_override and gives the VF to a driver, unless that is "". It does
// nothing if the VF was forgotten or recreated in the meantime.
func (b *Binder) undo(t *attempt, driver string) {
	b.mu.Lock()
	current := b.attempts[t.vf.Address] == t
	b.mu.Unlock()
	if !current {
		return
	}
	err := b.setDriverOverride(t.vf.Address, t.formerOverride)
	if err == nil && driver != "" {
		err = b.cfg.Writer.Write(path.Join("bus/pci/drivers", driver, "bind"), t.vf.Address.String())
	}
	if err != nil && !sysfs.IsAbsent(err) {
		klog.ErrorS(err, "Cannot give a VF back after it failed to bind", "device", t.vf.Address, "driver", driver)
	}
}

func (b *Binder) setDriverOverride(a pci.Address, driver string) error {
	return b.cfg.Writer.Write(path.Join("bus/pci/devices", a.String(), "driver_override"), driver)
}

// driverOverride returns the driver_override of a function, or "" if it is not set, which the
// kernel shows as (null). The DPDK driver counts as not set: an earlier try left it.
func (b *Binder) driverOverride(a pci.Address) string {
	file := filepath.Join(b.cfg.Sysfs, "bus/pci/devices", a.String(), "driver_override")
	driver, err := sysfs.ReadFile(file)
	if err != nil || driver == "(null)" || driver == b.cfg.Driver {
		return ""
	}
	return driver
}

// denylistEnabled reports whether vfio-pci refuses devices with known errata
// (drivers/vfio/pci/vfio_pci.c, vfio_pci_dev_in_denylist).
func (b *Binder) denylistEnabled() bool {
	disabled, err := sysfs.ReadFile(filepath.Join(b.cfg.Sysfs, "module/vfio_pci/parameters/disable_denylist"))
	return sysfs.IsAbsent(err) || err == nil && disabled != "Y"
}
