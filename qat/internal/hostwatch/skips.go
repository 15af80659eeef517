// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

const (
	// skipDelay is how long a reason must last before it is logged. While a VF
	// is being bound there is a different reason every few milliseconds.
	skipDelay = 2 * time.Second

	// skipGather is added to it, so that all VFs of a PF are one log line.
	skipGather = time.Second
)

// skipLog decides when to log what is skipped: each reason once, after it has lasted for a while.
type skipLog struct {
	message string
	entries map[string]skip
	next    time.Time // when there is something to log; zero: never
}

type skip struct {
	reason string
	since  time.Time
	logged string // the reason that was logged last
}

// update takes everything that is skipped now and returns what is due to be
// logged: reason → names.
func (s *skipLog) update(skipped map[string]string, now time.Time) map[string][]string {
	due := !now.Before(s.next)
	s.next = time.Time{}
	var news map[string][]string
	for name, reason := range skipped {
		e := s.entries[name]
		if e.reason != reason {
			e.reason, e.since = reason, now
			s.entries[name] = e
		}
		lasting := e.since.Add(skipDelay)
		switch {
		case e.logged == reason:
		case due && !now.Before(lasting):
			if news == nil {
				news = map[string][]string{}
			}
			news[reason] = append(news[reason], name)
			e.logged = reason
			s.entries[name] = e
		default:
			s.next = Earlier(s.next, lasting.Add(skipGather))
		}
	}
	if len(s.entries) > len(skipped) {
		maps.DeleteFunc(s.entries, func(name string, _ skip) bool {
			_, still := skipped[name]
			return !still
		})
	}
	return news
}

// log updates the log of what is skipped.
func (s *skipLog) log(skipped map[string]string, now time.Time) {
	news := s.update(skipped, now)
	for _, reason := range slices.Sorted(maps.Keys(news)) {
		klog.InfoS(s.message, "reason", reason, "devices", slices.Sorted(slices.Values(news[reason])))
	}
}
