// SPDX-License-Identifier: Apache-2.0

// Package retry decides when to try again and when to log an error again. Its types belong to one
// goroutine.
package retry

import (
	"math/rand/v2"
	"time"

	"k8s.io/klog/v2"
)

// A BackOff computes the pauses between retries: First, then twice the previous pause, at most
// Limit. Each pause is shortened by a random amount of up to one half or, with FullJitter, by any
// random part, so that many clients of one server come at different times.
type BackOff struct {
	First, Limit time.Duration
	FullJitter   bool
	Last         time.Duration // the last pause before it was shortened; zero if there was none
}

// Next returns the next pause.
func (b *BackOff) Next() time.Duration {
	b.Last = min(max(b.First, 2*b.Last), b.Limit)
	if b.FullJitter {
		return rand.N(b.Last + 1)
	}
	return b.Last - rand.N(b.Last/2+1)
}

// Reset makes the next pause the first one again.
func (b *BackOff) Reset() { b.Last = 0 }

// An ErrorLog logs an error that persists when it first occurs, when its text changes, and then
// once per Interval.
type ErrorLog struct {
	Log      klog.Logger
	Interval time.Duration

	text     string // of the error that was logged last; empty if there is no error
	loggedAt time.Time
}

// Report logs the error unless it was logged before.
func (l *ErrorLog) Report(err error, message string, keysAndValues ...any) {
	now := time.Now()
	if err.Error() == l.text && now.Sub(l.loggedAt) < l.Interval {
		return
	}
	l.text, l.loggedAt = err.Error(), now
	l.Log.Error(err, message, keysAndValues...)
}

// Clear forgets the error and reports whether there was one.
func (l *ErrorLog) Clear() bool {
	existed := l.text != ""
	l.text = ""
	return existed
}
