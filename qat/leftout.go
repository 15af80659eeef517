package qat

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

// leftOutSettle is how long a reason not to list a VF lasts before the log tells of it: on their way to the driver all VFs have one.
const leftOutSettle = time.Second

// leftOut finds out which VFs are there and not listed, and why, for the log. That they are listed later is told with the list.
type leftOut struct {
	said map[Address]string // VF → why, as the log was told
	at   time.Time          // when to look whether that is still so; zero: it is
}

// turn is told of all VFs that are not listed now, each with its reason. It returns what the log is to be told: reason → VFs for which that is
// new.
func (l *leftOut) turn(left map[Address]string, now time.Time) (news map[string][]Address) {
	if l.at.IsZero() {
		if !maps.Equal(l.said, left) {
			l.at = now.Add(leftOutSettle)
		}
		return nil
	}
	if now.Before(l.at) {
		return nil
	}
	news = map[string][]Address{}
	for a, why := range left {
		if l.said[a] != why {
			news[why] = append(news[why], a)
		}
	}
	l.at, l.said = time.Time{}, maps.Clone(left)
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
