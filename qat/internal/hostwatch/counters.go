// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"sync/atomic"

	"qatplugin/events"
	"qatplugin/internal/status"
)

// ueventActions is the number of values of events.Action that a uevent can have, and 0 for an
// unknown action.
const ueventActions = int(events.Unbind) + 1

// subsystems are the classes by which uevents are counted. The last one stands for all others, so
// that the number of counters does not depend on the host.
var subsystems = [...]string{"pci", "vfio", "vfio-dev", "uio", "module", "drivers", "misc", "other"}

// counters count what a loop received and did. Any goroutine may use them.
type counters struct {
	uevents                      [ueventActions][len(subsystems)]atomic.Uint64
	inotify, rejected, malformed atomic.Uint64
	turns, resyncs, audits       atomic.Uint64
	drift                        atomic.Uint64
}

// received counts an event. It does not allocate.
func (c *counters) received(e *events.Event) {
	if e.Origin != events.Uevent {
		c.inotify.Add(1)
		return
	}
	action := int(e.Action)
	if action >= ueventActions {
		action = 0
	}
	c.uevents[action][subsystemClass(e.Get("SUBSYSTEM"))].Add(1)
}

// subsystemClass returns the index of the class of a subsystem.
func subsystemClass(name []byte) int {
	const other = len(subsystems) - 1
	for i := range other {
		if string(name) == subsystems[i] {
			return i
		}
	}
	return other
}

// ignored counts a message that is not an event of the kernel.
func (c *counters) ignored(m events.Ignored) {
	if m.Malformed {
		c.malformed.Add(1)
	} else {
		c.rejected.Add(1)
	}
}

// AddCounters adds what the loop and its sources have counted to s. Each loop receives all uevents
// with a socket of its own, so the uevents of a loop with a Leader are not added.
func (l *Loop) AddCounters(s *status.Counters) {
	c := &l.counters
	lost := l.sources.stats()
	s.Inotify += c.inotify.Load()
	s.Overflows += lost.Overflows
	s.Dropped += lost.Drops
	if s.Loops == nil {
		s.Loops = map[string]status.LoopCounters{}
	}
	s.Loops[l.name()] = status.LoopCounters{
		Turns:   c.turns.Load(),
		Resyncs: c.resyncs.Load(),
		Audits:  c.audits.Load(),
		Drift:   c.drift.Load(),
	}
	if l.config.Leader != nil {
		return
	}
	s.Rejected += c.rejected.Load()
	s.Malformed += c.malformed.Load()
	if s.Uevents == nil {
		s.Uevents = map[string]map[string]uint64{}
	}
	for action := range c.uevents {
		for class := range c.uevents[action] {
			if n := c.uevents[action][class].Load(); n > 0 {
				name := events.Action(action).String()
				if s.Uevents[name] == nil {
					s.Uevents[name] = map[string]uint64{}
				}
				s.Uevents[name][subsystems[class]] = n
			}
		}
	}
}
