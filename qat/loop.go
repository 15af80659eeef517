package qat

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat/internal/follow"
)

const (
	// mailboxLimit is how many subjects can wait; more become one look at everything. Hosts have some hundreds of functions.
	mailboxLimit = 1 << 14
	// traceLimit is how many events can wait to be logged, with -v=4.
	traceLimit = 1 << 12
)

// A loop is one run of Watch: it takes what the sources marked, has the fold look at that, and publishes. Its goroutine sleeps
// until something is marked, a bind is due, or the audit is.
type loop struct {
	classifier classifier
	mailbox    *events.Mailbox[subject]
	listeners  sync.WaitGroup
	vitals     *follow.Vitals

	fold    *fold
	blind   bool // the last look at everything failed
	publish func(*devtree.Tree)
	audit   audit
	left    leftOut
	batch   events.Batch[subject]
	seen    *devtree.Tree // the Tree that was published last
}

func newLoop(p *Plugin, publish func(*devtree.Tree)) *loop {
	l := &loop{
		classifier: classifier{sysfs: p.cfg.SysfsRoot, dev: p.cfg.DevRoot, driver: p.cfg.DPDKDriver},
		mailbox:    events.NewMailbox[subject](mailboxLimit),
		vitals:     &p.Vitals,
		publish:    publish,
		audit:      audit{interval: p.cfg.AuditInterval, suspects: map[Address]time.Time{}},
		left:       leftOut{vfs: map[Address]omission{}},
	}
	if klog.V(4).Enabled() {
		l.mailbox.SetTrace(traceLimit)
	}
	return l
}

// Event files an event under its subject. It is called by the readers of sockets and does not make them wait.
func (l *loop) Event(e *events.Event) {
	s, resync, relevant := l.classifier.subject(e)
	switch {
	case l.vitals.Hearing.Hear(e):
		s, relevant = subject{kind: subjectHearing}, false
	case resync:
		l.mailbox.Resync("the list of PCI functions came into being", e.Time)
	case relevant:
		if e.Origin == events.Uevent && s.kind == subjectFunction {
			l.hearFault(s.address, e)
		}
		l.mailbox.Mark(s, e.Time)
	}
	if klog.V(4).Enabled() { // after the mark, so that whoever logs it has looked
		l.mailbox.Note(events.Record[subject]{Origin: e.Origin, Action: e.Action, Path: string(e.Path), Time: e.Time, Key: s, Relevant: relevant})
	}
}

func (l *loop) hearFault(a Address, e *events.Event) {
	if owner, ok := ParseAddress(lastComponent(e.Path)); ok && owner == a && l.fold.faults.hear(a, e) {
		l.fold.health.recover(a)
	}
}

// Resync asks for a look at everything, as events were lost.
func (l *loop) Resync(reason string) {
	l.mailbox.Resync(reason, time.Now())
}

func (l *loop) run(ctx context.Context) {
	now := time.Now()
	l.lookAtAll(now)
	l.tell(now)
	logLeftOut(l.left.turn(l.fold.left, now))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if next := l.next(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-l.mailbox.Wake():
		case <-l.vitals.Hearing.Wake():
		case <-l.vitals.Pings():
			continue
		case <-timer.C:
		}
		l.turn(time.Now())
	}
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// next is when the loop must turn though nothing is marked; zero: never.
func (l *loop) next() time.Time {
	l.audit.schedule(time.Now(), l.blind || l.vitals.Hearing.Limited() || l.fold.directories.Limited())
	_, bind := l.fold.binder.due(time.Now())
	return earlier(earlier(l.audit.due(), bind), earlier(earlier(l.fold.health.next(time.Now()), l.vitals.Hearing.Due()), l.left.at))
}

// mark asks for a look at a function. It is called from any goroutine.
func (l *loop) mark(a Address) { l.mailbox.Mark(subject{address: a}, time.Now()) }

// turn does everything that is due.
func (l *loop) turn(now time.Time) {
	l.mailbox.Take(&l.batch)
	since := now
	marked := l.marked(now)
	if len(l.batch.Resync) > 0 {
		klog.InfoS("Looking at everything again", "reasons", l.batch.Resync)
		since = l.batch.ResyncSince
		l.lookAtAll(now)
	} else if len(marked) > 0 {
		since = l.batch.Dirty[0].Since
		l.fold.lookAt(marked, now)
	}
	if due, _ := l.fold.binder.due(now); len(due) > 0 {
		l.fold.lookAt(due, now)
		for _, a := range due {
			if l.fold.functions[a] == nil {
				l.fold.binder.forget(a) // nothing is left to bind, nor to wake up for
			}
		}
	}
	l.fold.health.turn(now)
	l.vitals.Hearing.Turn(now)
	if l.blind && l.audit.isDue(now) {
		l.lookAtAll(now) // what was in the way may have gone without an event, as when a file system was mounted
	}
	l.audit.turn(l.fold, now)
	l.tell(since)
	logLeftOut(l.left.turn(l.fold.left, now))
	l.trace()
}

func (l *loop) lookAtAll(now time.Time) {
	l.fold.directories.Adopt()
	clear(l.audit.suspects)
	l.vitals.Hearing.Ask(now)
	err := l.fold.lookAtAll(now)
	if err == nil {
		l.vitals.Looked()
	} else if !l.blind {
		klog.ErrorS(err, "Cannot look at the host; it will be looked at when this directory is there", "sysfs", l.classifier.sysfs)
	}
	l.blind = err != nil
}

// marked are the functions that the marked subjects stand for.
func (l *loop) marked(now time.Time) []Address {
	var list []Address
	for _, d := range l.batch.Dirty {
		switch d.Key.kind {
		case subjectFunction:
			list = append(list, d.Key.address)
		case subjectGroup:
			list = append(list, l.fold.inGroup(d.Key.group)...)
		case subjectDriver:
			l.fold.binder.retry(now)
			list = append(list, l.fold.unbound()...)
		case subjectNodes:
			list = append(list, l.fold.unbound()...)
		}
	}
	l.audit.heard(list)
	return list
}

// tell publishes the Tree if it is another than before, and logs what differs. since is when the first of its causes was heard of.
func (l *loop) tell(since time.Time) {
	old, tree := l.seen, l.fold.tree
	if old == tree {
		return
	}
	l.publish(tree)
	took := time.Since(since)
	l.seen = tree
	follow.LogChanges(old, tree, took)
}

func (l *loop) trace() {
	for _, r := range l.batch.Trace {
		led := "not of QAT"
		switch {
		case r.Relevant && r.Key.kind == subjectFunction:
			led = l.fold.outcome(r.Key.address)
		case r.Relevant:
			led = "looked at " + r.Key.String()
		case r.Key.kind == subjectHearing:
			led = "proof that the kernel is heard"
		}
		klog.V(4).InfoS("Event", "source", r.Origin, "action", r.Action, "device", r.Key, "path", r.Path, "ledTo", led)
	}
	if l.batch.TraceLost > 0 {
		klog.V(4).InfoS("More events came than could be logged", "events", l.batch.TraceLost)
	}
}
