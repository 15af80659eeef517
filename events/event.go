// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"time"
)

// Origin names the kernel interface that an event comes from.
type Origin string

const (
	Uevent  Origin = "uevent"
	Inotify Origin = "inotify"
)

// Action is what happened.
type Action uint8

// Uevents have the first eight actions (lib/kobject_uevent.c), inotify events the last three.
const (
	Add Action = iota + 1
	Remove
	Change
	Move
	Online
	Offline
	Bind
	Unbind

	Create // an entry was created, or renamed into the directory
	Write  // an entry was written; sysfs reports each write twice, also a failed one
	Delete // an entry was removed, or renamed out of the directory
)

var actionNames = [...]string{
	"unknown",
	Add: "add", Remove: "remove", Change: "change", Move: "move",
	Online: "online", Offline: "offline", Bind: "bind", Unbind: "unbind",
	Create: "create", Write: "write", Delete: "delete",
}

// String returns the action in lower case; a uevent's action is spelled as in the kernel.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return actionNames[0]
}

// Event says that something happened at a path.
type Event struct {
	Origin Origin
	Action Action
	// Path is a uevent's DEVPATH, which is relative to the root of sysfs
	// ("/devices/pci0000:6b/0000:6b:00.1"), or the absolute path that an inotify event is about.
	Path []byte
	Time time.Time // when the event was read

	env []byte // the variables of a uevent: KEY=VALUE, each followed by a NUL
}

// Source delivers the events of one kernel interface.
type Source interface {
	// Run calls sink from this goroutine for each event. It can be called once, and
	// leaves the source closed. It returns nil when ctx ends. After Close, its error
	// wraps [os.ErrClosed]; otherwise it is why reading failed several times in a row.
	Run(ctx context.Context, sink Sink) error
}

// Sink receives events; the caller of Run implements it. Its methods must not block.
// Each source calls them from its own goroutine, so a Sink of several sources must be
// safe for concurrent use.
type Sink interface {
	// Event receives one event. e and its bytes are valid only during the call.
	Event(e *Event)
	// Resync reports that events were lost, and why. Everything must be read again.
	Resync(reason string)
}

// IgnoredSink is a [Sink] that also receives the messages that a [UeventListener] does not pass to
// Event.
type IgnoredSink interface {
	Sink
	// Ignored receives each message that is not passed to Event. It must not block.
	Ignored(m Ignored)
}

// Ignored describes a message of a uevent socket that is not passed to [Sink.Event].
type Ignored struct {
	Malformed bool // the kernel sent it, but it is not a uevent; otherwise the kernel did not send it

	// The sender, as the kernel reports it. The IDs are those in the namespaces of this process.
	Port uint32 // nl_pid of the sender's socket
	PID  int32  // 0 if the process is not in the PID namespace of this process
	UID  uint32
}
