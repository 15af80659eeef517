package qat

import "time"

const (
	relookFirst = time.Millisecond
	relookLast  = 512 * time.Millisecond
)

// relooks are functions of which a remove event told. The kernel sends it just before the directory goes (drivers/base/core.c, device_del), so
// the look that follows may find all as it was, and no other event comes. Such a function is looked at again, after 1 ms, then after
// twice as long each time up to a good second in all, until it is otherwise.
type relooks map[Address]*relook

type relook struct {
	was  *Function // as the look right after the event found it; nil: that look is to come
	wait time.Duration
	at   time.Time
}

// removed is told of a remove event, before the look.
func (r relooks) removed(a Address) { r[a] = &relook{wait: relookFirst} }

// turn is called after each look, and lists the functions to look at again by now.
func (r relooks) turn(f *fold, now time.Time) (due []Address) {
	for a, l := range r {
		fn := f.functions[a]
		switch {
		case l.was == nil && fn != nil:
			l.was, l.at = fn, now.Add(l.wait)
		case fn == nil, !l.was.equal(fn), l.wait > relookLast:
			delete(r, a)
		case !now.Before(l.at):
			due = append(due, a)
			l.wait *= 2
			l.at = now.Add(l.wait)
		}
	}
	return due
}

// next is when turn has something to do; zero: never.
func (r relooks) next() (next time.Time) {
	for _, l := range r {
		next = earlier(next, l.at)
	}
	return next
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
