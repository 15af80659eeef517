// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"bytes"
	"fmt"

	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// A Key names what to read again. Events with the same key lead to one read.
type Key struct {
	kind    keyKind
	address pci.Address // of keyFunction, keyOverride and keyWithdrawal
	group   int         // of keyGroup
}

type keyKind uint8

const (
	keyFunction   keyKind = iota // one PCI function
	keyGroup                     // the VFs of an IOMMU group: events of a VFIO group name no function
	keyNodes                     // unusable VFs: a device node that names no function appeared or disappeared
	keyOverride                  // one PCI function, whose driver_override was written
	keyNUMANode                  // one PCI function, whose numa_node was written
	keyDriver                    // unusable VFs: the DPDK driver or a module changed, so a bind may succeed now
	keyLateRead                  // no function: an outstanding read has returned
	keyWithdrawal                // the VFs of a PF that was withdrawn or is offered again
)

// String describes the key in the log.
func (k Key) String() string {
	switch k.kind {
	case keyGroup:
		return fmt.Sprintf("IOMMU group %d", k.group)
	case keyDriver:
		return "unusable VFs, after the DPDK driver changed"
	case keyNodes:
		return "unusable VFs, after a device node changed"
	case keyLateRead:
		return "the result of a late read"
	case keyWithdrawal:
		return "the withdrawal of " + k.address.String()
	}
	return k.address.String()
}

// A classifier finds the key of an event. It runs in the goroutines of the event sources: it does
// not allocate, read files or block.
type classifier struct {
	sysfs, dev string // roots, for the paths that inotify reports
	driver     string // the DPDK driver

	// isShared reports whether a function, of whatever device, shares an IOMMU group with a VF.
	isShared func(pci.Address) bool
}

func (c *classifier) classify(e *events.Event) (Key, hostwatch.Verdict) {
	var key Key
	var ok bool
	if e.Origin == events.Uevent {
		key, ok = c.ueventKey(e)
	} else if path, below := sysfs.Below(e.Path, c.sysfs); below {
		if string(path) == "bus/pci/devices" {
			return Key{}, hostwatch.RelevantToAll
		}
		key, ok = c.sysfsKey(path)
	} else if path, below := sysfs.Below(e.Path, c.dev); below {
		key, ok = devKey(path)
	}
	if !ok {
		return Key{}, hostwatch.Irrelevant
	}
	return key, hostwatch.Relevant
}

// ueventKey returns the key of a uevent. These uevents can concern QAT functions:
//
//   - those of a function and of its vfio-dev or uio child, whose DEVPATH has its address
//   - those of VFIO groups (DEVPATH /devices/virtual/vfio/<group>)
//   - that of /dev/iommu, which VFIO character devices need
//   - those of the DPDK driver and its modules
func (c *classifier) ueventKey(e *events.Event) (Key, bool) {
	switch string(e.Get("SUBSYSTEM")) {
	case "pci":
		key, ok := functionKey(e.Path)
		if id := e.Get("PCI_ID"); id != nil && !device.IsQATID(id) && !c.isShared(key.address) {
			return Key{}, false
		}
		return key, ok
	case "vfio-dev", "uio":
		return functionKey(e.Path)
	case "vfio":
		return groupKey(sysfs.Base(e.Path))
	case "misc":
		return Key{kind: keyNodes}, string(sysfs.Base(e.Path)) == "iommu"
	case "drivers":
		return Key{kind: keyDriver}, string(sysfs.Base(e.Path)) == c.driver
	case "module":
		return Key{kind: keyDriver}, c.isModule(sysfs.Base(e.Path))
	}
	return Key{}, false
}

// isModule reports whether a module is the DPDK driver's own or one that it uses.
func (c *classifier) isModule(name []byte) bool {
	switch string(name) {
	case "vfio", "vfio_pci", "vfio_pci_core":
		return c.driver == device.DriverVFIO
	case "igb_uio":
		return c.driver == device.DriverIGBUIO
	}
	return false
}

// sysfsKey returns the key of an inotify event for a path below the root of sysfs.
func (c *classifier) sysfsKey(path []byte) (Key, bool) {
	if driver, ok := bytes.CutPrefix(path, []byte("bus/pci/drivers")); ok {
		return Key{kind: keyDriver}, len(driver) == 0 || string(driver[1:]) == c.driver
	}
	if bytes.HasPrefix(path, []byte("module")) {
		return Key{kind: keyDriver}, true
	}
	if bytes.HasPrefix(path, []byte("kernel/debug")) {
		return debugfsKey(path)
	}
	key, ok := functionKey(path)
	switch string(sysfs.Base(path)) {
	case "driver_override":
		key.kind = keyOverride
	case "numa_node":
		key.kind = keyNUMANode
	}
	return key, ok
}

// devKey returns the key of an inotify event for a path below the root of /dev.
func devKey(path []byte) (Key, bool) {
	if name, ok := bytes.CutPrefix(path, []byte("vfio/")); ok {
		if key, ok := groupKey(name); ok {
			return key, true
		}
	}
	return Key{kind: keyNodes}, string(path) == "vfio" || string(path) == "iommu" ||
		bytes.HasPrefix(path, []byte("vfio/devices")) || bytes.HasPrefix(path, []byte("uio"))
}

// functionKey returns the key of the function that a path belongs to.
func functionKey(path []byte) (Key, bool) {
	a, ok := pci.LastInPath(path)
	return Key{address: a}, ok
}

// debugfsKey returns the key of the PF in kernel/debug/qat_<driver>_<address>/….
func debugfsKey(path []byte) (Key, bool) {
	_, name, _ := bytes.Cut(path, []byte("/qat_"))
	name, _, _ = bytes.Cut(name, []byte("/"))
	a, ok := pci.Parse(name[bytes.LastIndexByte(name, '_')+1:])
	return Key{address: a}, ok
}

// groupKey parses the name of a VFIO group: "12" or "noiommu-12" (drivers/vfio/group.c,
// vfio_group_alloc).
func groupKey(name []byte) (Key, bool) {
	const maxGroup = 1 << 24 // far more groups than a host can have
	digits := bytes.TrimPrefix(name, []byte("noiommu-"))
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' || n > maxGroup {
			return Key{}, false
		}
		n = n*10 + int(c-'0')
	}
	return Key{kind: keyGroup, group: n}, len(digits) > 0
}
