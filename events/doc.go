// SPDX-License-Identifier: Apache-2.0

// Package events reports where the host changed, so that a caller knows which device or
// file to read again.
//
// It has two sources. A [UeventListener] receives the kernel's uevents (netlink, group 1):
// devices that appear, disappear or change. A [Watcher] uses inotify: directory entries that are
// created, written or removed. Each is a [Source] and calls a [Sink], which usually marks a key
// in a [Mailbox]. One goroutine takes the keys from the Mailbox and reads what they name.
//
// # Guarantees
//
//   - The kernel queues events from the moment that [ListenUevents] or [Watcher.Watch] returns,
//     even before Run is called. A caller that lists devices after this point misses no change.
//   - Loss is reported: an overflow of the socket or of the inotify queue, a malformed
//     message, a failed read and a directory that can no longer be watched cause a
//     [Sink.Resync], and the source continues.
//   - A uevent reaches the sink only if the kernel itself sent it: from port 0 to group 1, with
//     the credentials of process 0 and user 0. Only [ListenSocket] omits this check.
//   - Uevents and changes of entries arrive in the order in which the kernel queued
//     them. A Watcher finds out by looking whether a watched directory exists, and may
//     report that earlier. Events of two sources have no order. An event may arrive twice.
//   - A slow consumer does not block a source, and a Mailbox grows with the number of keys, not
//     of events. Reading and parsing a uevent, and marking a known key, allocate nothing.
//   - No timer runs. Without events, nothing wakes up.
//
// # Lifecycle
//
// A source runs once, in the goroutine that calls Run. Close may be called from any
// goroutine, also from the sink, and more than once. It ends Run, but does not wait for
// it. A source that is never run must be closed.
//
// # Limits
//
// The package knows nothing about PCI or any device, keeps no device state and does not
// log. Counters and errors report what was lost or rejected, and an [IgnoredSink] receives each
// rejected message. An event reports that something happened, and not the current state: always
// read the device.
package events
