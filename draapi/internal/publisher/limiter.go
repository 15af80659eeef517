// SPDX-License-Identifier: Apache-2.0

package publisher

import "time"

const (
	maxWrites   = 10                     // of the node, in any writeWindow
	writeWindow = time.Second            // the time in which at most maxWrites are sent
	slicePause  = 100 * time.Millisecond // between two writes of one slice
)

// A limiter allows maxWrites in any writeWindow.
type limiter struct {
	writes [maxWrites]time.Time // the last ones, as a ring
	oldest int
}

// next returns the time from which on the next write is allowed.
func (l *limiter) next() time.Time {
	if l.writes[l.oldest].IsZero() {
		return time.Time{}
	}
	return l.writes[l.oldest].Add(writeWindow)
}

// record counts a write.
func (l *limiter) record(now time.Time) {
	l.writes[l.oldest] = now
	l.oldest = (l.oldest + 1) % maxWrites
}
