package qat

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// bind takes the VF from the driver that has it, if one has, and asks the kernel to give it to the DPDK driver. driver_override is exact:
// no other driver can take the VF, and the DPDK driver no other device (Documentation/ABI/testing/sysfs-bus-pci).
func (b *binder) bind(t *attempt) error {
	t.override = b.readOverride(t.device.Address)
	if err := b.writeOverride(t, b.host.dpdkDriver); err != nil {
		return err
	}
	if t.device.Driver != "" {
		err := b.write.Write(path.Join("bus/pci/drivers", t.device.Driver, "unbind"), t.device.Address.String())
		if err != nil && !absent(err) { // absent: the driver let go by itself
			if err := b.writeOverride(t, t.override); err != nil {
				klog.V(2).InfoS("Cannot take driver_override back", "device", t.device.Address, "err", err)
			}
			return err
		}
	}
	if err := b.probe(t); err != nil {
		b.undo(t)
		return err
	}
	return nil
}

// probe asks the kernel to find the VF's driver. That it took the request does not say that a driver took the VF.
func (b *binder) probe(t *attempt) error {
	return b.write.Write("bus/pci/drivers_probe", t.device.Address.String())
}

// giveUp undoes a bind that the kernel took and that came to nothing.
func (b *binder) giveUp(t *attempt) error {
	b.undo(t)
	if hint := b.denylisted(&t.device); hint != "" {
		return errors.New(hint)
	}
	return fmt.Errorf("the kernel took the request but %s did not take the device; the kernel's log says why", b.host.dpdkDriver)
}

// undo gives the VF back to the driver that had it, or to none.
func (b *binder) undo(t *attempt) {
	if !b.current(t) {
		return // the VF under this address is another one now
	}
	err := b.writeOverride(t, t.override)
	if err == nil && t.from != "" {
		err = b.write.Write(path.Join("bus/pci/drivers", t.from, "bind"), t.device.Address.String())
	}
	if err != nil && !absent(err) {
		klog.ErrorS(err, "Cannot give a device back after a bind that failed", "device", t.device.Address, "driver", t.from)
	}
}

func (b *binder) writeOverride(t *attempt, driver string) error {
	return b.write.Write(path.Join("bus/pci/devices", t.device.Address.String(), "driver_override"), driver)
}

// readOverride is the driver_override of a function; "" when there is none, which the kernel shows as (null).
func (b *binder) readOverride(a Address) string {
	d, err := openDirectory(filepath.Join(b.host.sysfs, "bus/pci/devices", a.String()))
	if err != nil {
		return ""
	}
	defer d.close()
	value, err := d.read("driver_override")
	if err != nil || value == "(null)" || value == b.host.dpdkDriver {
		return ""
	}
	return value
}

// denylisted says what to do for a VF of those that vfio-pci refuses by default, for errata of theirs
// (drivers/vfio/pci/vfio_pci.c, vfio_pci_dev_in_denylist); "" for others.
func (b *binder) denylisted(f *Function) string {
	if !f.Family.Denylisted || b.host.dpdkDriver != driverVFIO {
		return ""
	}
	value, err := os.ReadFile(filepath.Join(b.host.sysfs, "module/vfio_pci/parameters/disable_denylist"))
	if err != nil && !errors.Is(err, unix.ENOENT) || strings.TrimSpace(string(value)) == "Y" {
		return ""
	}
	return fmt.Sprintf("vfio-pci refuses %s devices unless it is loaded with disable_denylist=1 (modprobe vfio-pci disable_denylist=1)", f.Family.Name)
}
