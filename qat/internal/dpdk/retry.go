// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"time"

	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

const (
	// After a transient error, a function is read again after minRetry. The time doubles with each
	// further error up to maxRetry. So a change is read at most maxRetry after reads succeed again.
	minRetry = 10 * time.Millisecond
	maxRetry = time.Second

	// slowRetry follows any other error. Such an error usually persists until someone fixes its
	// cause.
	slowRetry = 30 * time.Second
)

// A retry is the time of the next read after a failed one. The zero retry is never due.
type retry struct {
	at   time.Time
	wait time.Duration // time from the error to at
}

// after returns the retry that follows an error.
func (r retry) after(err error, now time.Time) retry {
	wait := slowRetry
	if sysfs.IsTransient(err) {
		wait = min(max(2*r.wait, minRetry), maxRetry)
	}
	return retry{at: now.Add(wait), wait: wait}
}

// isDue reports whether it is time to read again.
func (r retry) isDue(now time.Time) bool { return !r.at.IsZero() && !now.Before(r.at) }

// hasTransientRetry reports whether any function awaits a retry after a transient error.
func (fs *functions) hasTransientRetry() bool {
	for _, r := range fs.retries {
		if r.wait <= maxRetry {
			return true
		}
	}
	return false
}

// dueRetries returns the functions whose retry is due.
func (fs *functions) dueRetries(now time.Time) (list []pci.Address) {
	for a, r := range fs.retries {
		if r.isDue(now) {
			list = append(list, a)
		}
	}
	return list
}

// nextRetry returns when the next retry is due, or zero if there is none.
func (fs *functions) nextRetry() (next time.Time) {
	for _, r := range fs.retries {
		next = hostwatch.Earlier(next, r.at)
	}
	return next
}
