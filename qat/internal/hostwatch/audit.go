// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

const (
	// frequentAuditInterval is the interval between audits while events may be missed.
	frequentAuditInterval = 30 * time.Second

	// AuditGrace is how long the event of a change that an audit found may still be under way.
	// Only a change that no event reported by then is drift.
	AuditGrace = time.Second
)

// auditClock says when the next audit is due.
type auditClock struct {
	interval time.Duration // negative: never
	next     time.Time     // zero: not scheduled
	frequent bool          // the interval is frequentAuditInterval at most
}

// schedule plans the next audit. If frequent, it is at most frequentAuditInterval away.
func (c *auditClock) schedule(now time.Time, frequent bool) {
	interval := c.interval
	if frequent && (interval < 0 || interval > frequentAuditInterval) {
		interval = frequentAuditInterval
	}
	switch {
	case interval < 0:
		c.next = time.Time{}
	case c.next.IsZero() || c.frequent != frequent:
		c.next = now.Add(interval)
	}
	c.frequent = frequent
}

// take reports whether an audit is due. If so, schedule plans the next one.
func (c *auditClock) take(now time.Time) bool {
	if c.next.IsZero() || now.Before(c.next) {
		return false
	}
	c.next = time.Time{}
	return true
}

// Drift counts the changes that an audit found and no event reported. It must
// stay at 0: another value means that events are lost without notice, or that
// the host changes something that no event reports.
type Drift struct {
	total uint64
	found []Finding
}

// A Finding is a change that an audit found and no event reported, although none was known to be
// missed.
type Finding struct {
	Device string // what changed; "" if it is not one device
	Text   string // how
}

// Report counts and logs a change, described by key/value pairs. If events may have been missed it
// is expected, and logged as a detail.
func (d *Drift) Report(mayMissEvents bool, keysAndValues ...any) {
	d.total++
	if mayMissEvents {
		klog.V(2).InfoS("The audit found a change", keysAndValues...)
		return
	}
	d.found = append(d.found, newFinding(keysAndValues))
	klog.ErrorS(nil, "Drift: something changed and no event reported it", append(keysAndValues, "total", d.total)...)
}

// newFinding describes a change by key/value pairs.
func newFinding(keysAndValues []any) (f Finding) {
	var words []string
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		if keysAndValues[i] == "device" {
			f.Device = fmt.Sprint(keysAndValues[i+1])
		} else {
			words = append(words, fmt.Sprintf("%v: %v", keysAndValues[i], keysAndValues[i+1]))
		}
	}
	f.Text = strings.Join(words, "; ")
	return f
}

// Total is the number of changes reported so far.
func (d *Drift) Total() uint64 { return d.total }

// Take returns the findings since the last call, for [State.Drift].
func (d *Drift) Take() []Finding {
	found := d.found
	d.found = nil
	return found
}

// Earlier returns the earlier of two times. The zero time means never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
