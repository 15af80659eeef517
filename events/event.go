package events

import (
	"bytes"
	"errors"
	"time"
)

// Origin says which part of the kernel an event comes from.
type Origin string

const (
	Uevent  Origin = "uevent"
	Inotify Origin = "inotify"
)

// Action says what happened.
type Action uint8

// The first eight are those of uevents (lib/kobject_uevent.c in the kernel), the last three those of inotify.
const (
	Add Action = iota + 1
	Remove
	Change
	Move
	Online
	Offline
	Bind
	Unbind

	Create // an entry was made, or renamed into the directory
	Write  // an entry was written; sysfs says so twice for one write, and also when the write failed
	Delete // an entry was removed, or renamed out of the directory
)

// String is the kernel's word for the action.
func (a Action) String() string {
	switch a {
	case Add:
		return "add"
	case Remove:
		return "remove"
	case Change:
		return "change"
	case Move:
		return "move"
	case Online:
		return "online"
	case Offline:
		return "offline"
	case Bind:
		return "bind"
	case Unbind:
		return "unbind"
	case Create:
		return "create"
	case Write:
		return "write"
	case Delete:
		return "delete"
	}
	return "unknown"
}

// Event says that something happened at one place of the host.
type Event struct {
	Origin Origin
	Action Action
	Path   []byte    // uevent: DEVPATH, below the root of sysfs ("/devices/pci0000:6b/0000:6b:00.1"); inotify: absolute path of the entry
	Time   time.Time // when it was received

	env []byte // uevent: the variables, each KEY=VALUE and a NUL
}

// Get returns a variable of a uevent ("SUBSYSTEM", "DRIVER", "DEVNAME", "PCI_ID", "SEQNUM" ...), nil when the event does not carry
// it. Of two variables with one name the last counts, as for udev. The bytes are the event's own.
func (e *Event) Get(key string) []byte {
	for rest := e.env; len(rest) > 0; {
		rest = rest[:len(rest)-1] // the NUL
		start := bytes.LastIndexByte(rest, 0) + 1
		if v := rest[start:]; len(v) > len(key) && v[len(key)] == '=' && string(v[:len(key)]) == key {
			return v[len(key)+1:]
		}
		rest = rest[:start]
	}
	return nil
}

var (
	errNoNUL         = errors.New("parse uevent: message does not end in NUL")
	errNoHeader      = errors.New("parse uevent: message does not begin with action@/path")
	errUnknownAction = errors.New("parse uevent: unknown action")
)

// ParseUevent fills e from one message of the kernel: "add@/devices/...", then the variables as KEY=VALUE, each ended by a NUL. It sets
// all but e.Time, keeps references into message, and allocates nothing. What it refuses leaves e as it was.
//
// A path may hold '@' and a value '='. What stands among the variables without a '=' is passed over: the path counts, and one odd driver must
// not make each of its events a loss.
func ParseUevent(e *Event, message []byte) error {
	if len(message) == 0 || message[len(message)-1] != 0 {
		return errNoNUL
	}
	header := message[:bytes.IndexByte(message, 0)]
	at := bytes.IndexByte(header, '@')
	if at < 0 || at+1 == len(header) || header[at+1] != '/' {
		return errNoHeader // also udevd's own format, which begins with "libudev" and a NUL
	}
	action := ueventAction(header[:at])
	if action == 0 {
		return errUnknownAction
	}
	e.Origin, e.Action, e.Path, e.env = Uevent, action, header[at+1:], message[len(header)+1:]
	return nil
}

func ueventAction(word []byte) Action {
	switch string(word) { // compiled to comparisons, without a copy
	case "add":
		return Add
	case "remove":
		return Remove
	case "change":
		return Change
	case "move":
		return Move
	case "online":
		return Online
	case "offline":
		return Offline
	case "bind":
		return Bind
	case "unbind":
		return Unbind
	}
	return 0
}
