// SPDX-License-Identifier: Apache-2.0

package provision

import "time"

const (
	// minRetry and maxRetry bound the time from a failure to the next attempt. It doubles with
	// each further failure.
	minRetry, maxRetry = time.Second, 5 * time.Minute

	// damping is how long a PF must stay as it was provisioned. A change within that time counts
	// as a failure, so that two programs that configure the same PF do not take it down again and
	// again.
	damping = time.Minute

	// maxAsk bounds the time between two questions to the kubelet about the VFs of a PF. It doubles
	// from minRetry on.
	maxAsk = 10 * time.Second

	// allocationTime is how long after an allocation the kubelet may not report the pod yet.
	allocationTime = 10 * time.Second

	// blockedAfter is how long a write may take until it counts as blocked.
	blockedAfter = time.Second

	// settleTime is how long after an event of a VF its PF is read, and how long after a change of
	// the configuration's directory its files are read. The kernel sends three events for each VF
	// that it adds, and mode dpdk causes more. Programs write a file in several steps, and the
	// first lines of a configuration can be a configuration.
	settleTime = 100 * time.Millisecond
)

// A backoff says when to try again. The zero backoff permits it at any time.
type backoff struct {
	wait time.Duration // after the last failure; 0: there was none
	at   time.Time     // when the next attempt may begin
}

// fail delays the next attempt after a failure at a time.
func (b *backoff) fail(at time.Time, longest time.Duration) {
	b.wait = min(max(2*b.wait, minRetry), longest)
	b.at = at.Add(b.wait)
}

// A failedRead is a function that could not be read, and when to read it again.
type failedRead struct {
	backoff
	reason string
}

// attempts says when writes to a PF may be made next.
type attempts struct {
	backoff
	ended  time.Time // when the last writes ended; zero: none were made
	failed error     // the error of these; nil: all were made
	judged bool      // backoff reflects the last writes, and the change since then

	// after is the PF as it was read after writes that failed; nil: it has not been read.
	after *facts
}

// end records the end of writes.
func (a *attempts) end(now time.Time, failed error) {
	a.ended, a.failed, a.judged, a.after = now, failed, false, nil
	if failed != nil {
		a.fail(now, maxRetry)
	}
}

// reached records that the PF is as its rule wants.
func (a *attempts) reached() { a.judged = false }

// next returns when the next writes to a PF, which differs from what its rule wants, may be made.
func (a *attempts) next(f *facts, now time.Time) time.Time {
	switch {
	case a.ended.IsZero():
		return time.Time{}
	case a.failed != nil && a.after != nil && !a.after.sameSettings(f):
		return a.ended.Add(minRetry) // what made the writes fail may have ended
	case a.failed == nil && !a.judged:
		a.judged = true
		if now.Sub(a.ended) < max(damping, 2*a.wait) {
			a.fail(a.ended, maxRetry)
		} else {
			a.backoff = backoff{}
		}
	}
	return a.at
}

// reason returns why the next writes must wait.
func (a *attempts) reason() string {
	if a.failed != nil {
		return a.failed.Error()
	}
	return "it changes again and again after it was provisioned: another program may configure it too"
}
