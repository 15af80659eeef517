// SPDX-License-Identifier: Apache-2.0

package health

import (
	"time"

	"qatplugin/events"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// faultTimeout is how long a PCI error lasts if no event and no heartbeat ends it, and the time
// between two looks at a function that does not answer. It is longer than the kernel waits for a
// device after a reset, which is a minute (drivers/pci/pci.h, PCIE_RESET_READY_POLL_MS).
const faultTimeout = 2 * time.Minute

// A fault is a PCI error of a function that has not ended.
type fault struct {
	reason string
	since  time.Time
	look   time.Time // when to look whether the function answers
}

// faultChange is what a uevent says about the PCI errors of a function.
type faultChange struct {
	address   pci.Address
	reason    string // why the function must not be used; "" ends an error
	recovered bool   // the error ends because the function recovered, not because it is a new one
}

// parseFault returns what a uevent says about PCI errors (drivers/pci/pci-driver.c,
// pci_uevent_ers), and whether it says anything. A synthetic event, such as one of udevadm trigger,
// does not: user space made it (Documentation/ABI/testing/sysfs-uevent).
func parseFault(e *events.Event) (c faultChange, ok bool) {
	a, ok := pci.Parse(sysfs.Base(e.Path))
	if e.Origin != events.Uevent || !ok || e.Get("SYNTH_UUID") != nil {
		return faultChange{}, false
	}
	c.address = a
	kind, online := string(e.Get("ERROR_EVENT")), string(e.Get("DEVICE_ONLINE"))
	switch {
	case e.Action == events.Add, e.Action == events.Remove, e.Action == events.Bind:
		return c, true // another function, or another driver instance
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
