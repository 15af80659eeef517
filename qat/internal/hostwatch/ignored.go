// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

// ignoredInterval is the time between two log lines about ignored uevents of one kind.
const ignoredInterval = time.Minute

// ignoredLog logs ignored messages of a uevent socket: the first one at once, and then the number
// of further ones once in ignoredInterval. Any goroutine may call note.
type ignoredLog struct {
	mu                  sync.Mutex // guards all following fields
	rejected, malformed ignoredCount
}

// ignoredCount counts messages of one kind.
type ignoredCount struct {
	total, logged uint64
	last          events.Ignored
	next          time.Time // no line is logged before this time
}

// note counts a message. It reports whether the loop must wake up, because the result of next
// changed.
func (l *ignoredLog) note(m events.Ignored) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.rejected
	if m.Malformed {
		c = &l.malformed
	}
	c.total++
	c.last = m
	return c.total == c.logged+1
}

// next returns when log has something to write. The zero time means never, or as soon as note has
// returned true.
func (l *ignoredLog) next() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Earlier(l.rejected.due(), l.malformed.due())
}

func (c *ignoredCount) due() time.Time {
	if c.total == c.logged {
		return time.Time{}
	}
	return c.next
}

// log writes the lines that are due.
func (l *ignoredLog) log(now time.Time) {
	l.mu.Lock()
	rejected, malformed := l.rejected.take(now), l.malformed.take(now)
	l.mu.Unlock() // note must not wait for a write of the log
	rejected.log("Ignored a uevent that the kernel did not send", "Ignored uevents that the kernel did not send")
	malformed.log("Ignored a malformed uevent", "Ignored malformed uevents")
}

// take returns the counts to log, or the zero value if nothing is due.
func (c *ignoredCount) take(now time.Time) ignoredCount {
	if c.total == c.logged || now.Before(c.next) {
		return ignoredCount{}
	}
	due := *c
	c.logged, c.next = c.total, now.Add(ignoredInterval)
	return due
}

func (c *ignoredCount) log(one, several string) {
	sender := []any{"port", c.last.Port, "pid", c.last.PID, "uid", c.last.UID, "total", c.total}
	switch count := c.total - c.logged; count {
	case 0:
	case 1:
		klog.InfoS(one, sender...)
	default:
		klog.InfoS(several, append([]any{"count", count}, sender...)...)
	}
}
