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
	address pci.Address // of keyFunction
	group   int         // of keyGroup
}

type keyKind uint8

const (
	keyFunction keyKind = iota // one PCI function
	keyGroup                   // the VFs of an IOMMU group: events of a VFIO group name no function
	keyNodes                   // VFs that are not usable: a device node appeared or vanished that names no function
	keyDriver                  // VFs that are not usable: the DPDK driver was loaded or unloaded, so failed binds may succeed
)

// String describes the key in the log.
func (k Key) String() string {
	switch k.kind {
	case keyGroup:
		return fmt.Sprintf("IOMMU group %d", k.group)
	case keyDriver, keyNodes:
		return "unbound VFs"
	}
	return k.address.String()
}

// A classifier finds the key of an event. It runs in the goroutines of the
// event sources: it does not allocate, read files or block.
type classifier struct {
	sysfs, dev string // roots, for the paths that inotify reports
	driver     string // the DPDK driver
}

func (c *classifier) classify(e *events.Event) (Key, hostwatch.Verdict) {
	if e.Origin == events.Uevent {
		return c.classifyUevent(e)
	}
	return c.classifyPath(e.Path)
}

// classifyUevent knows the events with which a QAT function appears, changes or
// vanishes: those of the function itself and of its vfio-dev or uio child, which
// have its address in their DEVPATH; those of VFIO groups (DEVPATH
// /devices/virtual/vfio/<group>); and those of the DPDK driver.
func (c *classifier) classifyUevent(e *events.Event) (Key, hostwatch.Verdict) {
	switch string(e.Get("SUBSYSTEM")) {
	case "pci":
		if id := e.Get("PCI_ID"); id != nil && !device.IsQATID(id) {
			return Key{}, hostwatch.Irrelevant
		}
		return functionKey(e.Path)
	case "vfio-dev", "uio":
		return functionKey(e.Path)
	case "vfio":
		return groupKey(sysfs.Base(e.Path))
	case "drivers":
		if string(sysfs.Base(e.Path)) == c.driver {
			return Key{kind: keyDriver}, hostwatch.Relevant
		}
	}
	return Key{}, hostwatch.Irrelevant
}

// classifyPath knows the directories that are watched.
func (c *classifier) classifyPath(path []byte) (Key, hostwatch.Verdict) {
	if rest, ok := sysfs.Below(path, c.sysfs); ok {
		return c.classifySysfs(rest)
	}
	if rest, ok := sysfs.Below(path, c.dev); ok {
		return classifyDev(rest)
	}
	return Key{}, hostwatch.Irrelevant
}

func (c *classifier) classifySysfs(rest []byte) (Key, hostwatch.Verdict) {
	if string(rest) == "bus/pci/devices" {
		return Key{}, hostwatch.RelevantToAll
	}
	if name, ok := bytes.CutPrefix(rest, []byte("bus/pci/drivers")); ok {
		if len(name) == 0 || string(name[1:]) == c.driver {
			return Key{kind: keyDriver}, hostwatch.Relevant
		}
		return Key{}, hostwatch.Irrelevant
	}
	if bytes.HasPrefix(rest, []byte("kernel/debug")) {
		return debugfsKey(rest)
	}
	return functionKey(rest)
}

func classifyDev(rest []byte) (Key, hostwatch.Verdict) {
	if name, ok := bytes.CutPrefix(rest, []byte("vfio/")); ok {
		if key, verdict := groupKey(name); verdict == hostwatch.Relevant {
			return key, verdict
		}
	}
	for _, prefix := range [...]string{"vfio/devices", "uio"} {
		if len(rest) >= len(prefix) && string(rest[:len(prefix)]) == prefix {
			return Key{kind: keyNodes}, hostwatch.Relevant
		}
	}
	if string(rest) == "vfio" {
		return Key{kind: keyNodes}, hostwatch.Relevant
	}
	return Key{}, hostwatch.Irrelevant
}

// functionKey finds the function that a path belongs to.
func functionKey(path []byte) (Key, hostwatch.Verdict) {
	if a, ok := pci.LastInPath(path); ok {
		return Key{address: a}, hostwatch.Relevant
	}
	return Key{}, hostwatch.Irrelevant
}

// debugfsKey finds the PF in kernel/debug/qat_<driver>_<address>/….
func debugfsKey(path []byte) (Key, hostwatch.Verdict) {
	_, name, ok := bytes.Cut(path, []byte("/qat_"))
	if !ok {
		return Key{}, hostwatch.Irrelevant
	}
	name, _, _ = bytes.Cut(name, []byte("/"))
	if a, ok := pci.Parse(name[bytes.LastIndexByte(name, '_')+1:]); ok {
		return Key{address: a}, hostwatch.Relevant
	}
	return Key{}, hostwatch.Irrelevant
}

// groupKey reads the name of a VFIO group: "12" or "noiommu-12"
// (drivers/vfio/group.c, vfio_group_alloc).
func groupKey(name []byte) (Key, hostwatch.Verdict) {
	const maxGroup = 1 << 24 // far more than there can be
	digits := bytes.TrimPrefix(name, []byte("noiommu-"))
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' || n > maxGroup {
			return Key{}, hostwatch.Irrelevant
		}
		n = n*10 + int(c-'0')
	}
	if len(digits) == 0 {
		return Key{}, hostwatch.Irrelevant
	}
	return Key{kind: keyGroup, group: n}, hostwatch.Relevant
}
