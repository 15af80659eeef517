// SPDX-License-Identifier: Apache-2.0

// Package provision makes PFs what the administrator configured: it sets their services and creates
// their VFs, and keeps them so.
//
// It is a mode of package hostwatch with an event loop of its own, beside that of mode dpdk. It
// publishes no devices: mode dpdk sees its VFs come and go like any others.
//
//	event ─► read ─► facts ─► plan ─► writes ─► event
//
// Whatever happened, an event leads to a read of the PF, and a pure function, [newPlan], compares
// the facts with the configuration. The plan is empty, or a sequence of writes, or the reason why
// nothing can be done now. So it does not matter why a PF differs: the plugin was started, the PF
// is new, a reset has lost its VFs, the configuration changed, or the plugin ended between two
// writes.
//
// Reads and writes that the kernel can block run in goroutines of their own. At most one of them
// writes to a PF, so a blocked PF delays no other.
//
// A plan that removes VFs is carried out only while no container uses one of them. Before that, the
// PF is withdrawn, so that no container gets another one. Then the plugin asks the kubelet which of
// them containers hold. It does not withdraw a PF before the kubelet has answered once. Until then
// the VFs may be held, and the plan must wait, while containers can still use the VFs.
package provision
