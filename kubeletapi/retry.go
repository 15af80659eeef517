// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"math/rand/v2"
	"time"

	"k8s.io/klog/v2"
)

// backOff computes the pauses between retries: first, then twice the previous pause, at
// most limit. Each pause is shortened by a random amount of up to one half.
type backOff struct {
	first, limit time.Duration
	last         time.Duration // the last pause before it was shortened; zero if there was none
}

func (b *backOff) next() time.Duration {
	b.last = min(max(b.first, 2*b.last), b.limit)
	return b.last - rand.N(b.last/2+1)
}

func (b *backOff) reset() { b.last = 0 }

// throttledError logs an error that persists when it first occurs, when its text changes,
// and then once per interval.
type throttledError struct {
	log      klog.Logger
	interval time.Duration
	text     string // of the error that was logged last; empty if there is no error
	loggedAt time.Time
}

func (t *throttledError) report(err error, message string, keysAndValues ...any) {
	now := time.Now()
	if err.Error() == t.text && now.Sub(t.loggedAt) < t.interval {
		return
	}
	t.text, t.loggedAt = err.Error(), now
	t.log.Error(err, message, keysAndValues...)
}

// clear forgets the error and reports whether there was one.
func (t *throttledError) clear() bool {
	existed := t.text != ""
	t.text = ""
	return existed
}
