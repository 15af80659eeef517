// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"fmt"
	"io/fs"
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
	t.taken, t.givenBack = false, false
	if err := b.override(t); err != nil {
		return err
	}
	if t.vf.Driver != "" {
		err := b.cfg.Writer.Write(path.Join("bus/pci/drivers", t.vf.Driver, "unbind"), t.vf.Address.String())
		switch {
		case err == nil && !b.cfg.Writer.DryRun():
			t.taken = true
			klog.InfoS("Took a VF from its driver", "device", t.vf.Address, "from", t.vf.Driver, "to", b.cfg.Driver)
		case err != nil && !sysfs.IsAbsent(err): // absent: the driver no longer has it
			b.undo(t, "") // it still has the VF
			return err
		}
	}
	return b.probe(t)
}

// A reservedError says that driver_override of a VF names another driver than the DPDK driver:
// something else has reserved the VF.
type reservedError struct {
	vf       pci.Address
	override string
	isMember bool // the VF is another one of the same IOMMU group
}

func (e *reservedError) Error() string {
	if e.isMember {
		return fmt.Sprintf("%s shares its IOMMU group and is reserved: its driver_override is %s", e.vf, e.override)
	}
	return fmt.Sprintf("its driver_override is %s: it is reserved, and left alone without -steal", e.override)
}

// override sets driver_override to the DPDK driver, unless it reserves the VF. It is read here, by
// a worker, because the kernel takes the device lock for that, too (drivers/pci/pci-sysfs.c,
// driver_override_show): the read waits for as long as a workload delays the removal of the VF.
func (b *Binder) override(t *attempt) error {
	current, err := b.driverOverride(t.vf)
	switch {
	case err != nil:
		return err
	case current != "" && current != b.cfg.Driver && !b.cfg.Steal:
		return &reservedError{vf: t.vf.Address, override: current}
	}
	for _, a := range t.vf.Group {
		other, err := b.driverOverride(VF{Address: a})
		if err == nil && other != "" && other != b.cfg.Driver && !b.cfg.Steal {
			return &reservedError{vf: a, override: other, isMember: true}
		}
	}
	if current == b.cfg.Driver {
		return nil // nothing to do, and nothing to undo that the Binder has not done
	}
	if err := b.setDriverOverride(t.vf.Address, b.cfg.Driver); err != nil {
		return err
	}
	t.formerOverride, t.overridden = current, true
	return nil
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
	return fmt.Errorf("the kernel accepted the request but %s did not bind to the device; see the kernel log",
		b.cfg.Driver)
}

// undo restores driver_override and gives the VF to a driver, unless that is "". It does
// nothing if the VF was forgotten or recreated in the meantime, or if driver_override names
// another driver by now: then something else has decided about the VF.
func (b *Binder) undo(t *attempt, driver string) {
	b.mu.Lock()
	current := b.attempts[t.vf.Address] == t
	b.mu.Unlock()
	if !current {
		return
	}
	override, err := b.driverOverride(t.vf)
	if err == nil && (override == "" || override == b.cfg.Driver) {
		err = b.giveBack(t, override, driver)
	}
	if err != nil && !sysfs.IsAbsent(err) {
		klog.ErrorS(err, "Cannot give a VF back after it failed to bind", "device", t.vf.Address, "driver", driver)
	}
}

// giveBack restores a driver_override that is override now, and gives the VF to a driver. A driver
// binds only if driver_override does not name another.
func (b *Binder) giveBack(t *attempt, override, driver string) error {
	restored := override
	if t.overridden {
		restored, t.overridden = t.formerOverride, false
	}
	matching := restored
	if driver != "" && restored != driver {
		matching = ""
	}
	for _, value := range []string{matching, restored} {
		if value != override {
			if err := b.setDriverOverride(t.vf.Address, value); err != nil {
				return err
			}
			override = value
		}
		if driver != "" {
			err := b.cfg.Writer.Write(path.Join("bus/pci/drivers", driver, "bind"), t.vf.Address.String())
			if err != nil {
				return err
			}
			t.givenBack = true
			driver = ""
		}
	}
	return nil
}

func (b *Binder) setDriverOverride(a pci.Address, driver string) error {
	return b.cfg.Writer.Write(path.Join("bus/pci/devices", a.String(), "driver_override"), driver)
}

// driverOverride returns the driver_override of a VF, or "" if it is not set, which the kernel
// shows as (null). The error says that the VF is absent if it was removed or recreated. Without an
// incarnation any is meant.
func (b *Binder) driverOverride(vf VF) (string, error) {
	dir, err := sysfs.OpenDir(filepath.Join(b.cfg.Sysfs, "bus/pci/devices", vf.Address.String()))
	if err != nil {
		return "", err
	}
	defer dir.Close()
	inode, err := dir.Inode(".")
	if err != nil {
		return "", err
	}
	if vf.Incarnation != 0 && inode != vf.Incarnation {
		return "", fmt.Errorf("%s was removed and added: %w", vf.Address, fs.ErrNotExist)
	}
	driver, err := dir.Read("driver_override")
	if driver == "(null)" {
		driver = ""
	}
	return driver, err
}
