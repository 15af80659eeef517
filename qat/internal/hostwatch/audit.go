// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"time"

	"k8s.io/klog/v2"
)

const (
	// limitedAuditInterval is the interval between audits while changes may go unreported.
	limitedAuditInterval = 30 * time.Second

	// AuditGrace is how long the event of a change that an audit found may still be under way.
	// Only a change that no event reported by then is drift.
	AuditGrace = time.Second
)

// auditClock says when the next audit is due.
type auditClock struct {
	interval time.Duration // negative: never
	next     time.Time     // zero: not scheduled
	limited  bool          // the interval is limitedAuditInterval at most
}

// schedule plans the next audit. While changes may go unreported it is at most
// limitedAuditInterval away.
func (c *auditClock) schedule(now time.Time, limited bool) {
	interval := c.interval
	if limited && (interval < 0 || interval > limitedAuditInterval) {
		interval = limitedAuditInterval
	}
	switch {
	case interval < 0:
		c.next = time.Time{}
	case c.next.IsZero() || c.limited != limited:
		c.next = now.Add(interval)
	}
	c.limited = limited
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
type Drift struct{ total uint64 }

// Report counts and logs a change, described by key/value pairs. While changes
// may go unreported (limited) it is expected and logged as a detail.
func (d *Drift) Report(limited bool, keysAndValues ...any) {
	d.total++
	if limited {
		klog.V(2).InfoS("The audit found a change", keysAndValues...)
		return
	}
	klog.ErrorS(nil, "Drift: something changed and no event reported it", append(keysAndValues, "total", d.total)...)
}

// Total is the number of changes reported so far.
func (d *Drift) Total() uint64 { return d.total }

// Earlier returns the earlier of two times. The zero time means never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
