// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bytes"
	"errors"
)

var (
	errNoNUL         = errors.New("parse uevent: message does not end with NUL")
	errNoHeader      = errors.New("parse uevent: message does not start with action@/path")
	errUnknownAction = errors.New("parse uevent: unknown action")
)

// ParseUevent parses a kernel uevent message into e: "add@/devices/...", followed by
// variables of the form KEY=VALUE, all terminated by NUL. It sets every field but Time.
// e refers to the bytes of message; nothing is allocated. On error, e is unchanged.
//
// The path may contain '@', and a value may contain '='. ParseUevent accepts variables
// without '=', and Get ignores them: the path is what counts, and one faulty driver
// must not turn each of its events into a loss.
func ParseUevent(e *Event, message []byte) error {
	if len(message) == 0 || message[len(message)-1] != 0 {
		return errNoNUL
	}
	header := message[:bytes.IndexByte(message, 0)]
	word, path, found := bytes.Cut(header, []byte("@"))
	if !found || len(path) == 0 || path[0] != '/' {
		return errNoHeader // includes udevd's own format, "libudev" and a NUL
	}
	for action := Add; action <= Unbind; action++ {
		if string(word) == actionNames[action] {
			e.Origin, e.Action, e.Path, e.env = Uevent, action, path, message[len(header)+1:]
			return nil
		}
	}
	return errUnknownAction
}

// Get returns the value of a uevent variable ("SUBSYSTEM", "DRIVER", "DEVNAME",
// "PCI_ID", "SEQNUM" ...), or nil if the event does not have it. If a variable occurs
// twice, the last one counts, as in udev. The bytes belong to the event.
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
