// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"strings"
)

// Uevents makes the host call f with each uevent message from now on, in the kernel's order.
// f may keep the bytes.
func (h *Host) Uevents(f func(message []byte)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uevents = f
}

// Change sends a `change` uevent of a function with extra variables, as PCI error recovery does
// ("ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"). Nothing in sysfs changes.
func (h *Host) Change(address string, variables ...string) error {
	return h.doFunction("send change of", address, func(o *op, d *function) {
		o.emitPCI("change", d, variables...)
	})
}

// emit sends the message of kobject_uevent_env (lib/kobject_uevent.c): a header, ACTION,
// DEVPATH, SUBSYSTEM, the variables of the event and of the device, and SEQNUM. Each ends
// with NUL.
func (o *op) emit(action, devpath, subsystem string, variables ...string) {
	h := o.h
	if o.failed() {
		return
	}
	h.seqnum++
	if h.uevents == nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s\x00ACTION=%[1]s\x00DEVPATH=%[2]s\x00SUBSYSTEM=%s\x00", action, devpath, subsystem)
	for _, v := range variables {
		b.WriteString(v)
		b.WriteByte(0)
	}
	fmt.Fprintf(&b, "SEQNUM=%d\x00", h.seqnum)
	h.uevents([]byte(b.String()))
}

// emitPCI sends a uevent of a PCI function, with the variables of dev_uevent
// (drivers/base/core.c) and pci_uevent (drivers/pci/pci-driver.c).
func (o *op) emitPCI(action string, d *function, variables ...string) {
	if d.driver != "" {
		variables = append(variables, "DRIVER="+d.driver)
	}
	variables = append(variables, d.variables()...)
	if action == "unbind" { // zap_modalias_env: an unbind must not make udev load a module
		variables = variables[:len(variables)-1]
	}
	o.emit(action, d.devpath, "pci", variables...)
}

// variables returns those that pci_uevent adds, MODALIAS last. The function's uevent file has
// the same lines.
func (d *function) variables() []string {
	return []string{
		"PCI_CLASS=" + strings.ToUpper(strings.TrimLeft(d.class, "0")),
		"PCI_ID=8086:" + strings.ToUpper(d.id),
		"PCI_SUBSYS_ID=8086:0000",
		"PCI_SLOT_NAME=" + d.address,
		"MODALIAS=" + d.modalias(),
	}
}

func (d *function) modalias() string {
	id, c := strings.ToUpper(d.id), strings.ToUpper(d.class)
	return fmt.Sprintf("pci:v00008086d0000%ssv00008086sd00000000bc%ssc%si%s", id, c[0:2], c[2:4], c[4:6])
}
