// SPDX-License-Identifier: Apache-2.0

package health

import (
	"time"

	"qatplugin/events"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// faultTimeout is how long a PCI error lasts before the Monitor checks whether the function
// responds again, and the time between two such checks. It is longer than the minute for which the
// kernel waits for a device after a reset (drivers/pci/pci.h, PCIE_RESET_READY_POLL_MS).
const faultTimeout = 2 * time.Minute

// A fault is a PCI error of a function that has not ended.
type fault struct {
	reason string
	since  time.Time
	check  time.Time // when to check whether the function responds
}

// faultChange is the change that a uevent makes to the fault of a function.
type faultChange struct {
	address   pci.Address
	reason    string // why the function must not be used; "" ends the fault
	recovered bool   // the fault ends because the function recovered, and not because it is a new one
}

// parseFault returns the change that a uevent makes to a fault (drivers/pci/pci-driver.c,
// pci_uevent_ers). ok is false if the event makes none. A synthetic event, such as one of udevadm
// trigger, makes none, because user space requested it (Documentation/ABI/testing/sysfs-uevent).
func parseFault(e *events.Event) (c faultChange, ok bool) {
	a, ok := pci.Parse(sysfs.Base(e.Path))
	if e.Origin != events.Uevent || !ok || e.Get("SYNTH_UUID") != nil {
		return faultChange{}, false
	}
	c.address = a
	kind, online := string(e.Get("ERROR_EVENT")), string(e.Get("DEVICE_ONLINE"))
	switch {
	case e.Action == events.Add, e.Action == events.Remove, e.Action == events.Bind:
		return c, true // the function is new, or is bound again
	case kind == "SUCCESSFUL_RECOVERY" || kind == "" && online == "1":
		c.recovered = true
		return c, true
	case kind == "FAILED_RECOVERY":
		c.reason = "had a PCI error and could not be recovered"
		return c, true
	case kind == "BEGIN_RECOVERY" || online == "0":
		c.reason = "had a PCI error and is being recovered"
		return c, true
	}
	return faultChange{}, false
}
