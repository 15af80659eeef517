// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"bytes"

	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// A Key names what to reconcile.
type Key struct {
	kind    keyKind
	address pci.Address // of keyFunction
}

type keyKind uint8

const (
	keyFunction keyKind = iota // the PF at an address, or the PF of the VF at an address
	keyConfig                  // the configuration
	keyDone                    // nothing: a read or a job has ended
)

// String describes the key in the log.
func (k Key) String() string {
	switch k.kind {
	case keyConfig:
		return "provisioning configuration"
	case keyDone:
		return "the result of a read or of writes"
	}
	return k.address.String()
}

// A classifier finds the key of an event. It runs in the goroutines of the event sources: it does
// not allocate, read files or block.
type classifier struct {
	sysfs string // root of sysfs
	dir   string // directory of the configuration
}

func (c *classifier) classify(e *events.Event) (Key, hostwatch.Verdict) {
	var a pci.Address
	var ok bool
	if e.Origin == events.Uevent {
		if id := e.Get("PCI_ID"); string(e.Get("SUBSYSTEM")) == "pci" && (id == nil || device.IsQATID(id)) {
			a, ok = pci.LastInPath(e.Path)
		}
	} else if path, below := sysfs.Below(e.Path, c.sysfs); below {
		switch {
		case string(path) == "bus/pci/devices":
			return Key{}, hostwatch.RelevantToAll
		case bytes.HasPrefix(path, []byte("kernel/debug")):
			a, ok = debugfsPF(path)
		default:
			a, ok = pci.LastInPath(path)
		}
	} else if _, below := sysfs.Below(e.Path, c.dir); below {
		return Key{kind: keyConfig}, hostwatch.Relevant
	}
	if !ok {
		return Key{}, hostwatch.Irrelevant
	}
	return Key{address: a}, hostwatch.Relevant
}

// debugfsPF returns the PF of kernel/debug/qat_<driver>_<address>/….
func debugfsPF(path []byte) (pci.Address, bool) {
	_, name, _ := bytes.Cut(path, []byte("/qat_"))
	name, _, _ = bytes.Cut(name, []byte("/"))
	return pci.Parse(name[bytes.LastIndexByte(name, '_')+1:])
}
