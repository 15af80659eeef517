package qat

import (
	"sync"

	"qatplugin/events"
)

// faults are the functions of which a PCI error was told and no recovery since. It is the one thing that only events tell: sysfs does not
// show whether a function is being recovered (drivers/pci/pci-driver.c, pci_uevent_ers). Its methods may be called from any goroutine.
type faults struct {
	mu     sync.Mutex
	reason map[Address]string
}

// hear takes an event of the function, and tells whether it told of a recovery.
func (f *faults) hear(a Address, e *events.Event) (recovered bool) {
	switch e.Action {
	case events.Add, events.Remove, events.Bind:
		f.clear(a) // another function, or the same one begun anew
		return false
	case events.Change:
	default:
		return false
	}
	kind, online := string(e.Get("ERROR_EVENT")), string(e.Get("DEVICE_ONLINE"))
	switch {
	case kind == "SUCCESSFUL_RECOVERY" || kind == "" && online == "1":
		f.clear(a)
		return true
	case kind == "FAILED_RECOVERY":
		f.set(a, "had a PCI error and could not be recovered")
	case kind == "BEGIN_RECOVERY" || online == "0":
		f.set(a, "had a PCI error and is being recovered")
	}
	return false
}

func (f *faults) set(a Address, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reason[a] = reason
}

// clear forgets the fault of a function, and tells whether there was one.
func (f *faults) clear(a Address) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, there := f.reason[a]
	delete(f.reason, a)
	return there
}

func (f *faults) of(a Address) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reason[a]
}
