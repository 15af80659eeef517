package kernelmode

import "time"

const (
	defaultAuditInterval = 10 * time.Minute
	// deafAuditInterval is how often everything is read while a source is broken or a directory could not be watched.
	deafAuditInterval = 30 * time.Second
	// auditSettle is how long the event of a difference that an audit found may still be under way. Only what no event told of by then is
	// drift.
	auditSettle = time.Second

	retryFirst = 100 * time.Millisecond // and each time four times as long
	retryMax   = 10 * time.Minute
	maxDoubts  = 3 // retries because of a contradiction that may be a lasting one
)

// A cause says why adf_ctl is asked.
type cause uint8

const (
	causeEvent   cause = iota // something was heard of
	causeAudit                // an audit: what it finds is believed only when no event tells of it soon
	causeSuspect              // an audit found something, and nothing was heard of it since: this time it counts
)

// schedule is when adf_ctl is asked though nothing was heard of. The zero time is never.
type schedule struct {
	interval time.Duration // between audits; negative: never
	deaf     bool
	audit    time.Time
	suspect  time.Time // when a difference that an audit found is looked at again
	retry    time.Time
	retries  int // since something was heard of, or all was well
}

// heard takes note of an event: adf_ctl is asked because of it, so what waited need not.
func (s *schedule) heard() {
	s.retry, s.retries, s.suspect = time.Time{}, 0, time.Time{}
}

// answered plans whether to ask again. A failure is tried again for good, a contradiction some times.
func (s *schedule) answered(now time.Time, failed, doubt bool) {
	wait := retryMax
	if s.retries < 8 {
		wait = min(retryFirst<<(2*s.retries), retryMax)
	}
	switch {
	case failed, doubt && s.retries < maxDoubts:
		s.retry = now.Add(wait)
		s.retries++
	case doubt:
		s.retry = time.Time{}
	default:
		s.retry, s.retries = time.Time{}, 0
	}
}

// plan plans the next audit; while events may be missed, it is deafAuditInterval away at most.
func (s *schedule) plan(now time.Time, deaf bool) {
	interval := s.interval
	if deaf && (interval < 0 || interval > deafAuditInterval) {
		interval = deafAuditInterval
	}
	switch {
	case interval < 0:
		s.audit = time.Time{}
	case s.audit.IsZero() || s.deaf != deaf:
		s.audit = now.Add(interval)
	}
	s.deaf = deaf
}

// next is when due has something to say; zero: never.
func (s *schedule) next() time.Time {
	return earlier(s.audit, earlier(s.suspect, s.retry))
}

// due takes what is due by now.
func (s *schedule) due(now time.Time) (c cause, ok bool) {
	is := func(t *time.Time) bool {
		if t.IsZero() || now.Before(*t) {
			return false
		}
		*t = time.Time{}
		return true
	}
	retry, suspect, audit := is(&s.retry), is(&s.suspect), is(&s.audit)
	switch {
	case retry:
		return causeEvent, true
	case suspect:
		return causeSuspect, true
	}
	return causeAudit, audit
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
