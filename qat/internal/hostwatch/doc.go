// SPDX-License-Identifier: Apache-2.0

// Package hostwatch is the event loop that both modes of the plugin share.
//
// [Run] opens the event sources, reads the host once, and from then on calls the [Mode] only for
// what an event names. The loop takes no state from an event. A lost, repeated or reordered event
// can cost a read, but never leads to a wrong result.
//
//	sources ─► Event ─► Mode.Classify ─► mailbox ─► Mode.Reconcile ─► publish
//
// Readers of the sources only classify an event and mark its key. Everything else happens in one
// goroutine, which sleeps until a key is marked or something is due. A loss that a source
// reports becomes one full read. A slow audit compares the host with what is known; a change
// that it finds and no event reported is drift.
//
// At the start, and after each loss, the loop asks the kernel for a uevent and
// waits for it. While uevents do not arrive, a source is not open, a directory
// cannot be watched or the host cannot be read, audits run every 30 seconds.
//
// Any goroutine can see what a loop knows. [Loop.AddStatus] has the loop copy its state while it is
// idle, [Loop.AddCounters] reads counters, and the Journal of the [Config] gets what each turn did.
// The loop waits for none of these readers.
package hostwatch
