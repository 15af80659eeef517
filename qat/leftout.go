package qat

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

const (
	// leftOutSettle is how long a reason not to list a VF lasts before the log tells of it. On their way to the driver all VFs have one, and
	// with each further try to bind it is another one for a while: that must be over by then (askAgain, then bindPatience).
	leftOutSettle = 2 * bindPatience
	// leftOutGather is how much longer it waits, so that the VFs of a PF are told of at once.
	leftOutGather = time.Second
)

// leftOut finds out which VFs are there and not listed, and why, for the log. That they are listed later is told with the list.
type leftOut struct {
	vfs map[Address]omission
	at  time.Time // when to tell; zero: nothing is to be told
}

type omission struct {
	why   string
	since time.Time
	said  string // what the log was told
}

// turn is told of all VFs that are not listed now, each with its reason. It returns what the log is to be told: reason → VFs for which that is
// new.
func (l *leftOut) turn(left map[Address]string, now time.Time) (news map[string][]Address) {
	tell := !l.at.IsZero() && !now.Before(l.at)
	if tell {
		news = map[string][]Address{}
	}
	l.at = time.Time{}
	for a, why := range left {
		o := l.vfs[a]
		if o.why != why {
			o.why, o.since = why, now
			l.vfs[a] = o
		}
		switch settled := o.since.Add(leftOutSettle); {
		case o.said == why:
		case tell && !now.Before(settled):
			news[why] = append(news[why], a)
			o.said = why
			l.vfs[a] = o
		default:
			l.at = earlier(l.at, settled.Add(leftOutGather))
		}
	}
	if len(l.vfs) > len(left) { // some are listed now, or gone
		maps.DeleteFunc(l.vfs, func(a Address, _ omission) bool { return left[a] == "" })
	}
	return news
}

func logLeftOut(news map[string][]Address) {
	for _, why := range slices.Sorted(maps.Keys(news)) {
		slices.SortFunc(news[why], Address.Compare)
		names := make([]string, len(news[why])) // klog writes the elements of a slice as JSON, field by field
		for i, a := range news[why] {
			names[i] = a.String()
		}
		klog.InfoS("Not listed", "reason", why, "devices", names)
	}
}
