// SPDX-License-Identifier: Apache-2.0

package health

import (
	"qatplugin/events"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// Observe takes note of a PCI error or recovery of a function from one of its uevents. It
// ignores other events, such as those of the devices below the function. It neither blocks
// nor reads files.
//
// PCI errors are the only state that the Monitor takes from events, because sysfs does not
// show whether a function is being recovered (drivers/pci/pci-driver.c, pci_uevent_ers).
func (m *Monitor) Observe(a pci.Address, e *events.Event) {
	if e.Origin != events.Uevent {
		return
	}
	if own, ok := pci.Parse(sysfs.Base(e.Path)); !ok || own != a {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Action {
	case events.Add, events.Remove, events.Bind: // another function, or another driver instance
		delete(m.aerErrors, a)
	case events.Change:
		m.observeChange(a, e.Get("ERROR_EVENT"), e.Get("DEVICE_ONLINE"))
	}
}

func (m *Monitor) observeChange(a pci.Address, errorEvent, online []byte) {
	kind := string(errorEvent)
	switch {
	case kind == "SUCCESSFUL_RECOVERY" || kind == "" && string(online) == "1":
		delete(m.aerErrors, a)
		if p := m.pfs[a]; p != nil {
			p.recover()
		}
	case kind == "FAILED_RECOVERY":
		m.aerErrors[a] = "had a PCI error and could not be recovered"
	case kind == "BEGIN_RECOVERY" || string(online) == "0":
		m.aerErrors[a] = "had a PCI error and is being recovered"
	}
}
