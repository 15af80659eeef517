// SPDX-License-Identifier: Apache-2.0

// Package dpdk is the plugin's mode dpdk: it lists the QAT virtual functions (VFs) of a host
// that user space can drive through VFIO or UIO, and binds VFs to the driver that this takes.
//
// The mode works in three steps, each in a file of its own:
//
//   - read (functions.go): read the PCI functions that events name, and keep what sysfs showed
//   - decide (decide.go): for each VF that may be affected, decide from these
//     facts alone whether to list it, bind it or skip it
//   - act (assign.go): start and stop bindings, give the VFs their places in
//     the lists, and build the next Tree
//
// The Tree follows from the facts, not from the order of events: any history of events ends in
// the same Tree as reading the whole host anew. The one exception are PCI errors (AER), which
// sysfs does not show. They are collected by package health and end with the next good heartbeat
// of the PF, at the latest when the function is bound again.
package dpdk
