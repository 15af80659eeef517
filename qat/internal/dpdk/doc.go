// SPDX-License-Identifier: Apache-2.0

// Package dpdk implements the plugin's mode dpdk. It lists the QAT virtual functions (VFs) of a
// host that user space can drive through VFIO or UIO, and binds VFs to the driver that user space
// needs.
//
// The mode works in three steps:
//
//   - read (functions.go, groups.go): read the PCI functions that events name, cache the result,
//     and update the watches and the health monitor. The reads that the kernel can block run in
//     goroutines of their own (package readpool)
//   - decide (decide.go): decide for each affected VF, from these facts alone, whether to list it,
//     bind it or skip it
//   - act: assign the places in the lists and build the next Tree (assign.go), and start and stop
//     bindings (controller.go)
//
// The Tree follows from the facts, not from the order of events: any history of events ends in the
// same Tree as reading the whole host again, with three exceptions. First, a listed VF keeps its
// place, unless a healthy VF replaces it under a device limit (assign.go). Second, a VF that is
// being removed is recognized by its earlier state. Third, health depends on past heartbeats,
// counters and PCI errors, which sysfs does not show (package health).
//
// What the third step does follows from the facts, and from the state before it. A [Recorder] keeps
// both, and [Replay] repeats the second and third step on them (recorder.go, recording.go,
// replay.go).
//
// [Allocator.Withdraw] takes the VFs of a PF out of use, for a caller that is about to change the
// PF (withdraw.go).
package dpdk
