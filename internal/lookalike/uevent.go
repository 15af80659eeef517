package lookalike

import (
	"fmt"
	"strings"
)

// Uevents has f called with each uevent message from now on, in the kernel's order. The bytes are f's to keep.
func (h *Host) Uevents(f func(message []byte)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uevents = f
}

// Change sends a `change` uevent of a function with extra variables, as PCI error recovery does ("ERROR_EVENT=BEGIN_RECOVERY",
// "DEVICE_ONLINE=0"). Nothing in sysfs changes.
func (h *Host) Change(address string, variables ...string) error {
	return h.do("send change of", address, false, func(o *op) {
		if d := o.find(address); d != nil {
			o.emitFunction("change", d, variables...)
		}
	})
}

// emit sends the message of kobject_uevent_env (lib/kobject_uevent.c): a header, ACTION, DEVPATH, SUBSYSTEM, the event's own variables,
// those of the device, and at last SEQNUM; each ends in NUL.
func (o *op) emit(action, devpath, subsystem string, variables ...string) {
	if o.failed() {
		return
	}
	h := o.h
	h.seqnum++
	if h.uevents == nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s\x00ACTION=%s\x00DEVPATH=%s\x00SUBSYSTEM=%s\x00", action, devpath, action, devpath, subsystem)
	for _, v := range variables {
		b.WriteString(v)
		b.WriteByte(0)
	}
	fmt.Fprintf(&b, "SEQNUM=%d\x00", h.seqnum)
	h.uevents([]byte(b.String()))
}

// emitFunction sends an event of a PCI function with the variables of dev_uevent and pci_uevent (drivers/pci/pci-driver.c).
func (o *op) emitFunction(action string, d *function, variables ...string) {
	if d.driver != "" {
		variables = append(variables, "DRIVER="+d.driver)
	}
	variables = append(variables, d.variables()...)
	if action == "unbind" { // zap_modalias_env: nobody shall load a module because of an unbind
		variables = variables[:len(variables)-1]
	}
	o.emit(action, d.devpath, "pci", variables...)
}

// emitNode sends an event of a device that has a node in /dev.
func (o *op) emitNode(action, devpath, subsystem, node string, major, minor int) {
	o.emit(action, devpath, subsystem, fmt.Sprintf("MAJOR=%d", major), fmt.Sprintf("MINOR=%d", minor), "DEVNAME="+node)
}

// variables are what pci_uevent adds; the same lines are in the function's uevent file. MODALIAS is last.
func (d *function) variables() []string {
	id := strings.ToUpper(d.id)
	return []string{
		"PCI_CLASS=" + strings.ToUpper(strings.TrimLeft(d.class, "0")),
		"PCI_ID=8086:" + id,
		"PCI_SUBSYS_ID=8086:0000",
		"PCI_SLOT_NAME=" + d.address,
		"MODALIAS=" + d.modalias(),
	}
}

func (d *function) modalias() string {
	c := strings.ToUpper(d.class)
	return fmt.Sprintf("pci:v00008086d0000%ssv00008086sd00000000bc%ssc%si%s", strings.ToUpper(d.id), c[0:2], c[2:4], c[4:6])
}
