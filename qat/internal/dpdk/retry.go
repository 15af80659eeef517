// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"time"

	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

const (
	// After a transient error a function is read again after minRetry, which doubles with each
	// further error up to maxRetry. So a change that could not be read is read at most maxRetry
	// after reads work again.
	minRetry = 10 * time.Millisecond
	maxRetry = time.Second

	// slowRetry follows any other error, which mostly lasts until somebody does something about it.
	slowRetry = 30 * time.Second
)

// A retry is when to read again what could not be read. The zero retry is due never.
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

// isDue reports whether the time has come.
func (r retry) isDue(now time.Time) bool { return !r.at.IsZero() && !now.Before(r.at) }

// hasTransientRetry reports whether a function is read again because of a transient error.
func (fs *functions) hasTransientRetry() bool {
	for _, r := range fs.retries {
		if r.wait <= maxRetry {
			return true
		}
	}
	return false
}

// dueRetries returns the functions that must be read again by now.
func (fs *functions) dueRetries(now time.Time) (list []pci.Address) {
	for a, r := range fs.retries {
		if r.isDue(now) {
			list = append(list, a)
		}
	}
	return list
}

// nextRetry is when dueRetries returns something; zero: never.
func (fs *functions) nextRetry() (next time.Time) {
	for _, r := range fs.retries {
		next = hostwatch.Earlier(next, r.at)
	}
	return next
}
