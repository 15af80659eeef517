package qat

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

// auditSettle is how long the event of a difference that an audit found may still be under way. Only what no event told of by then is
// drift.
const auditSettle = time.Second

// An audit reads everything once in a long while and holds it against what events made known. They are the same unless an event
// was lost without a word, or the host changed something that no event tells of.
type audit struct {
	interval time.Duration // negative: never
	at       time.Time     // of the next one; zero: not scheduled
	deaf     bool
	suspects map[Address]time.Time // functions that differed → when they are looked at again
	drift    uint64                // functions that changed without an event, ever
}

// schedule plans the next audit; while events may be missed, it is deafAuditInterval away at most.
func (t *audit) schedule(now time.Time, deaf bool) {
	interval := t.interval
	if deaf && (interval < 0 || interval > deafAuditInterval) {
		interval = deafAuditInterval
	}
	switch {
	case interval < 0:
		t.at = time.Time{}
	case t.at.IsZero() || t.deaf != deaf:
		t.at = now.Add(interval)
	}
	t.deaf = deaf
}

// due is when turn has something to do; zero: never.
func (t *audit) due() time.Time {
	due := t.at
	for _, at := range t.suspects {
		due = earlier(due, at)
	}
	return due
}

// isDue tells whether it is time for the next audit.
func (t *audit) isDue(now time.Time) bool { return !t.at.IsZero() && !now.Before(t.at) }

// heard says that events told of these functions: a difference there is no drift.
func (t *audit) heard(list []Address) {
	for _, a := range list {
		delete(t.suspects, a)
	}
}

// turn does what is due by now.
func (t *audit) turn(f *fold, now time.Time) {
	for a, at := range t.suspects {
		if now.Before(at) {
			continue
		}
		delete(t.suspects, a)
		if !f.differs(a) {
			continue
		}
		before := f.outcome(a)
		f.lookAt([]Address{a}, now)
		t.drift++
		if t.deaf {
			klog.V(2).InfoS("The audit found a change", "device", a, "before", before, "now", f.outcome(a))
		} else {
			klog.ErrorS(nil, "Drift: a device changed and no event told of it", "device", a, "before", before, "now", f.outcome(a), "total", t.drift)
		}
	}
	if !t.isDue(now) {
		return
	}
	t.at = time.Time{} // schedule plans the next
	f.directories.Retry()
	addresses, err := f.host.addresses()
	if err != nil {
		klog.ErrorS(err, "Cannot audit the host")
		return
	}
	addresses = append(addresses, slices.Collect(maps.Keys(f.functions))...)
	slices.SortFunc(addresses, Address.Compare)
	for _, a := range slices.Compact(addresses) {
		if _, known := t.suspects[a]; !known && f.differs(a) {
			t.suspects[a] = now.Add(auditSettle)
		}
	}
	klog.V(2).InfoS("Audited the host", "functions", len(f.functions), "differing", len(t.suspects), "driftTotal", t.drift)
}

// differs tells whether the host shows a function otherwise than it was read last.
func (f *fold) differs(a Address) bool {
	now, _ := f.look(a)
	return !f.functions[a].equal(now)
}
