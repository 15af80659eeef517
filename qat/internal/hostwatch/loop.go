// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
)

const (
	// mailboxLimit is the number of keys that can be dirty. Beyond it they
	// become one full read. Hosts have a few hundred functions.
	mailboxLimit = 1 << 14

	// traceLimit is the number of events that can wait to be logged at -v=4.
	traceLimit = 1 << 12
)

// Config describes what a Loop listens to.
type Config struct {
	Sysfs         string        // root of the host's sysfs, without symbolic links
	Writer        Writer        // writes below Sysfs
	AuditInterval time.Duration // time between audits; negative: never

	// Sources open the event sources, and OpenWatcher the source that watches
	// directories (nil: no directories are watched). They are opened before
	// the first read of the host, and again, with back-off, when they fail.
	Sources     []func() (events.Source, error)
	OpenWatcher func() (Watcher, error)
}

// A Loop watches a host. Its checks may be called from any goroutine, before and during [Run].
type Loop struct {
	config  Config
	probe   *probe
	sources sources
	pings   chan struct{} // received by the running loop
	read    atomic.Bool   // the whole host was read once
}

// New returns a Loop that does nothing before [Run].
func New(config Config) *Loop { return newLoop(config, process{}) }

func newLoop(config Config, env environment) *Loop {
	return &Loop{
		config: config,
		probe:  &probe{sysfs: config.Sysfs, writer: config.Writer, environment: env},
		pings:  make(chan struct{}),
	}
}

// CheckEventLoop makes the loop turn once. It returns an error if that does
// not happen before ctx ends.
func (l *Loop) CheckEventLoop(ctx context.Context) error {
	select {
	case l.pings <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errors.New("the event loop does not respond: it waits for the kernel, has not started or has ended")
	}
}

// CheckFirstLook returns an error until the whole host has been read once.
func (l *Loop) CheckFirstLook(context.Context) error {
	if !l.read.Load() {
		return errors.New("the host has not been read yet; the log says what is missing")
	}
	return nil
}

// CheckKernelHeard returns an error while events are known to be missed, or
// before that is known.
func (l *Loop) CheckKernelHeard(context.Context) error {
	if l.sources.closed.Load() > 0 {
		return errors.New("an event source cannot be opened; the log says why")
	}
	return l.probe.check()
}

// A mark is what the mailbox keeps: the key of a mode, or that the probe was answered.
type mark[K comparable] struct {
	key    K
	answer bool
}

// run is one call of Run.
type run[K comparable] struct {
	*Loop
	mode    Mode[K]
	watches *Watches
	publish func(*devtree.Tree)
	mailbox *events.Mailbox[mark[K]]

	// Of the loop's goroutine:
	marks     events.Batch[mark[K]]
	batch     Batch[K]
	state     State
	published *devtree.Tree
	audits    auditClock
	skips     skipLog
}

// Run makes a mode, listens to the sources, and calls the mode's Reconcile when there is
// something to do, until ctx ends. publish is called from this goroutine, with the first Tree
// and each time that it changed. Run is called once. When it returns all goroutines have ended,
// apart from those that Mode.Close left behind.
func Run[K comparable](
	ctx context.Context, l *Loop, newMode func(context.Context, Host[K]) Mode[K], publish func(*devtree.Tree),
) {
	ctx, cancel := context.WithCancel(ctx)
	r := &run[K]{
		Loop:    l,
		watches: NewWatches(nil),
		publish: publish,
		mailbox: events.NewMailbox[mark[K]](mailboxLimit),
		audits:  auditClock{interval: l.config.AuditInterval},
		skips:   skipLog{entries: map[string]skip{}},
	}
	if klog.V(4).Enabled() {
		r.mailbox.SetTrace(traceLimit)
	}
	r.mode = newMode(ctx, Host[K]{Mark: r.mark, Watches: r.watches})
	defer r.mode.Close()
	defer l.sources.readers.Wait()
	defer cancel()
	// Subscribe, then look: what changes from here on is queued.
	for _, open := range l.config.Sources {
		l.sources.start(ctx, open, r)
	}
	if l.config.OpenWatcher != nil {
		l.sources.start(ctx, r.watches.opener(l.config.OpenWatcher), r)
	}
	r.loop(ctx)
}

// mark marks a key on behalf of the mode.
func (r *run[K]) mark(key K, since time.Time) { r.mailbox.Mark(mark[K]{key: key}, since) }

// Event marks the key that the event concerns. It is called from the
// goroutines of the sources and does not block.
func (r *run[K]) Event(e *events.Event) {
	m, verdict := mark[K]{answer: r.probe.isAnswer(e)}, Relevant
	if !m.answer {
		m.key, verdict = r.mode.Classify(e)
	}
	switch verdict {
	case Relevant:
		r.mailbox.Mark(m, e.Time)
	case RelevantToAll:
		r.mailbox.Resync("the list of PCI functions appeared", e.Time)
	}
	if klog.V(4).Enabled() { // after the mark, so that what is logged has been handled
		r.mailbox.Note(events.Record[mark[K]]{
			Origin:   e.Origin,
			Action:   e.Action,
			Path:     string(e.Path),
			Time:     e.Time,
			Key:      m,
			Relevant: verdict != Irrelevant,
		})
	}
}

// Resync asks for a full read, because events were lost.
func (r *run[K]) Resync(reason string) { r.mailbox.Resync(reason, time.Now()) }

// loop sleeps until something is marked or due.
func (r *run[K]) loop(ctx context.Context) {
	r.turn(time.Now(), true)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if next := r.next(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-r.pings:
			continue
		case <-r.mailbox.Wake():
		case <-timer.C:
		}
		r.turn(time.Now(), false)
	}
}

// next is when the loop must turn even if nothing is marked; zero: never.
func (r *run[K]) next() time.Time {
	r.audits.schedule(time.Now(), r.limited())
	next := Earlier(r.audits.next, r.state.Next)
	return Earlier(next, Earlier(r.probe.next(), r.skips.next))
}

// limited reports whether changes may go unreported.
func (r *run[K]) limited() bool {
	return !r.state.Complete || r.sources.closed.Load() > 0 || r.probe.limited() || r.watches.limited()
}

// turn handles what is marked and due. all asks for a full read.
func (r *run[K]) turn(now time.Time, all bool) {
	r.take(now, all)
	if r.batch.All {
		r.watches.adopt()
		r.probe.send(now)
	}
	if r.batch.Audit {
		r.watches.retry()
	}
	r.state = r.mode.Reconcile(now, &r.batch)
	if r.state.Complete {
		r.read.Store(true)
	}
	r.probe.turn(now)
	r.publishTree()
	r.skips.log(r.state.Skipped, now)
	r.trace()
}

// take fills the batch from the mailbox and the audit clock.
func (r *run[K]) take(now time.Time, all bool) {
	r.mailbox.Take(&r.marks)
	b := &r.batch
	b.Keys = b.Keys[:0]
	b.Since = time.Time{}
	b.Audit = r.audits.take(now)
	b.Limited = r.audits.limited
	b.All = all || len(r.marks.Resync) > 0 || b.Audit && !r.state.Complete
	if len(r.marks.Resync) > 0 {
		klog.InfoS("Reading the whole host again", "reasons", r.marks.Resync)
		b.Since = r.marks.ResyncSince
	}
	for _, d := range r.marks.Dirty {
		if !d.Key.answer {
			b.Keys = append(b.Keys, d.Key.key)
			b.Since = Earlier(b.Since, d.Since)
		}
	}
	b.Since = Earlier(b.Since, now)
}

// publishTree publishes the Tree if it changed, and logs the difference.
func (r *run[K]) publishTree() {
	old, tree := r.published, r.state.Tree
	if tree == nil || tree == old {
		return
	}
	r.publish(tree)
	r.published = tree
	logChanges(old, tree, time.Since(r.batch.Since))
}

// trace logs the events of this turn and what they led to.
func (r *run[K]) trace() {
	for _, record := range r.marks.Trace {
		subject, outcome := "", "not a QAT device"
		switch {
		case record.Key.answer:
			subject, outcome = "uevent probe", "proof that uevents arrive"
		case record.Relevant:
			subject, outcome = fmt.Sprint(record.Key.key), r.mode.Outcome(record.Key.key)
		}
		klog.V(4).InfoS("Event", "source", record.Origin, "action", record.Action, "device", subject,
			"path", record.Path, "ledTo", outcome)
	}
	if r.marks.TraceLost > 0 {
		klog.V(4).InfoS("More events arrived than could be logged", "events", r.marks.TraceLost)
	}
}
