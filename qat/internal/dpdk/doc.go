// SPDX-License-Identifier: Apache-2.0

// Package dpdk is the plugin's mode dpdk: it lists the QAT virtual functions (VFs) of a host
// that user space can drive through VFIO or UIO, and binds VFs to the driver that user space
// needs for it.
//
// The mode works in three steps:
//
//   - read (functions.go): read the PCI functions that events name, keep what sysfs showed, and
//     keep the watches and the health monitor in step with it. The reads run in goroutines of their
//     own (looks.go), because the kernel can block them
//   - decide (decide.go): for each VF that may be affected, decide from these
//     facts alone whether to list it, bind it or skip it
//   - act: start and stop bindings (controller.go), give the VFs their places in the lists, and
//     build the next Tree (assign.go)
//
// The Tree follows from the facts, not from the order of events: any history of events ends in
// the same Tree as reading the whole host again, with three exceptions. A listed VF keeps its
// place under a device limit, until it has been unhealthy for long. A VF that is being removed is
// recognized by what it was before. And health follows from past heartbeats, counters and PCI
// errors, which sysfs does not show (package health).
package dpdk
