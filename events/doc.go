// Package events hears what changes on the host and says where to look.
//
// It has two sources. A [UeventListener] hears the kernel's own uevents (netlink, group 1): devices that come, go and change. A
// [Watcher] hears inotify: entries of directories that are made, removed and written. Both are a [Source] and hand what they hear to a
// [Sink], which usually marks a key in a [Mailbox], from which one goroutine folds the changes into what it knows.
//
// # What it guarantees
//
//   - Subscribe, then look: from the moment that [ListenUevents] or [Watcher.Watch] has returned the kernel queues for it, whether Run
//     was called yet or not. Who looks after that misses nothing.
//   - Loss is an event: an overflow of the socket or of the inotify queue, a message that makes no sense or a failed read becomes
//     one [Sink.Resync]. Afterwards the source hears as before.
//   - A uevent reaches the sink only when the kernel itself sent it: port 0, group 1, and the credentials of process 0, user 0. The check is an
//     argument of [WithSocket] for tests and demonstrations; a listener without that option always checks.
//   - Events of one source come in the order in which the kernel queued them. Between two sources there is no order. Events may be doubled.
//   - The reader never waits: sinks return at once, and a Mailbox is bounded by the number of keys, not of events. Reading, parsing and
//     marking a uevent allocates nothing.
//   - No timer runs: without events nothing wakes up.
//
// # Goroutines and closing
//
// Run works in the goroutine of its caller and returns nil at once when its context ends; then the source is closed, and it
// cannot be run again. Close may be called by anyone at any time, also from a sink, and more than once; it ends a Run with [os.ErrClosed]. A
// source that is never run must be closed.
//
// # What it leaves out
//
// It knows nothing of PCI or of any device, keeps no state of them, and logs nothing: what it lost or refused is in the numbers that
// its methods return. An event carries an address, not a truth: who hears one reads the device again.
package events
