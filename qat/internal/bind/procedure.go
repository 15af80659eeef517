// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// configure takes the VF from its driver and requests the binding to the DPDK driver from the
// kernel. Once driver_override is written, no other driver can bind to the VF, and the DPDK driver
// binds to no other device (Documentation/ABI/testing/sysfs-bus-pci).
func (b *Binder) configure(t *attempt) error {
	t.givenBack = false
	if err := b.override(t); err != nil {
		return err
	}
	if t.vf.Driver != "" {
		err := b.cfg.Writer.Write(path.Join("bus/pci/drivers", t.vf.Driver, "unbind"), t.vf.Address.String())
		switch {
		case err == nil && !b.cfg.Writer.DryRun():
			klog.InfoS("Took a VF from its driver", "device", t.vf.Address, "from", t.vf.Driver, "to", b.cfg.Driver)
		case err != nil && !sysfs.IsAbsent(err): // absent: the VF is already unbound
			b.undo(t, "") // the VF is still bound to its driver
			return err
		}
	}
	return b.probe(t)
}

// A reservedError reports that driver_override of a VF names another driver than the DPDK driver:
// another program or an administrator has reserved the VF.
type reservedError struct {
	vf       pci.Address
	override string
	isMember bool // vf is another VF of the IOMMU group
}

func (e *reservedError) Error() string {
	if e.isMember {
		return fmt.Sprintf("%s shares its IOMMU group and is reserved: its driver_override is %s", e.vf, e.override)
	}
	return fmt.Sprintf("its driver_override is %s: it is reserved, and left alone without -steal", e.override)
}

// override sets driver_override to the DPDK driver, unless its value reserves the VF. It reads the
// value in a worker, because the kernel takes the device lock for a read as well
// (drivers/pci/pci-sysfs.c, driver_override_show). The read waits for as long as a workload delays
// the removal of the VF.
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
		return nil // undo must not clear a value that the Binder did not write
	}
	if err := b.setDriverOverride(t.vf.Address, b.cfg.Driver); err != nil {
		return err
	}
	t.formerOverride, t.overridden = current, true
	return nil
}

// probe requests that the kernel finds a driver for the VF. The kernel accepts the request
// even if no driver binds to the VF.
func (b *Binder) probe(t *attempt) error {
	err := b.cfg.Writer.Write("bus/pci/drivers_probe", t.vf.Address.String())
	if err != nil {
		b.undo(t, t.formerDriver)
	}
	return err
}

// giveUp ends a try in which the driver did not bind. It always returns an error.
func (b *Binder) giveUp(t *attempt) error {
	b.undo(t, t.formerDriver)
	return fmt.Errorf("the kernel accepted the request but %s did not bind to the device; see the kernel log",
		b.cfg.Driver)
}

// undo restores driver_override and binds the VF to a driver, unless driver is "". After a
// transient error it tries again for a while, because no later try restores a VF that must not be
// bound.
func (b *Binder) undo(t *attempt, driver string) {
	err := b.tryUndo(t, driver)
	for wait := minUndoWait; sysfs.IsTransient(err) && wait <= maxUndoWait; wait *= 2 {
		select {
		case <-b.ctx.Done():
		case <-time.After(wait):
		}
		err = b.tryUndo(t, driver)
	}
	if err != nil && !sysfs.IsAbsent(err) {
		klog.ErrorS(err, "Cannot give a VF back after it failed to bind", "device", t.vf.Address, "driver", driver)
	}
}

// The wait between two tries of undo, which doubles.
const (
	minUndoWait = 10 * time.Millisecond
	maxUndoWait = time.Second
)

// tryUndo is one try of undo. It does nothing if the VF was forgotten or recreated in the meantime,
// or if driver_override now names another driver: another program then manages the VF.
func (b *Binder) tryUndo(t *attempt, driver string) error {
	b.mu.Lock()
	current := b.attempts[t.vf.Address] == t
	b.mu.Unlock()
	if !current {
		return nil
	}
	override, err := b.driverOverride(t.vf)
	if err != nil || override != "" && override != b.cfg.Driver {
		return err
	}
	return b.giveBack(t, override, driver)
}

// giveBack restores driver_override, whose value is now override, and binds the VF to a driver
// unless driver is "". A driver binds only if driver_override is empty or names it. If the value to
// restore names another driver, giveBack clears driver_override for the time of the binding.
func (b *Binder) giveBack(t *attempt, override, driver string) error {
	restored := override
	if t.overridden {
		restored = t.formerOverride
	}
	matching := restored
	if driver != "" && restored != driver {
		matching = ""
	}
	var bindErr error
	for _, value := range []string{matching, restored} {
		if value != override {
			if err := b.setDriverOverride(t.vf.Address, value); err != nil {
				return errors.Join(bindErr, err)
			}
			override = value
		}
		if driver != "" {
			bindErr = b.cfg.Writer.Write(path.Join("bus/pci/drivers", driver, "bind"), t.vf.Address.String())
			t.givenBack = bindErr == nil
			driver = ""
		}
	}
	t.overridden = false
	return bindErr
}

func (b *Binder) setDriverOverride(a pci.Address, driver string) error {
	return b.cfg.Writer.Write(path.Join("bus/pci/devices", a.String(), "driver_override"), driver)
}

// driverOverride returns the driver_override of a VF, or "" if it is not set, which the kernel
// shows as (null). If the VF was removed, or recreated since vf.Incarnation, sysfs.IsAbsent is true
// for the error. If vf.Incarnation is 0, the VF may be any incarnation.
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
