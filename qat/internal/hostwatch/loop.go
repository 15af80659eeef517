// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/status"
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
	// directories. They are opened before the first read of the host, and again, with back-off,
	// when they fail. If OpenWatcher is nil no directories are watched, and what user space writes
	// to attributes counts as drift when an audit finds it.
	Sources     []func() (events.Source, error)
	OpenWatcher func() (Watcher, error)

	// Leader is another loop of the process, or nil. If it is set, this loop asks the kernel for no
	// uevent: what the Leader finds out about uevents counts for both. The Leader must run for as
	// long as this loop.
	Leader *Loop

	Name    string // of the loop, for the log; "": the only one, or the Leader
	Skipped string // message that logs State.Skipped; "": "Not listed"

	// Journal records what the turns of the loop did, soon after each turn; nil: nothing does.
	Journal *status.Journal

	// Publishing is called in the goroutine of the loop right before a Tree is published, with the
	// one before it, which may be nil, and the time at which the first cause of the change was
	// noticed. It must be fast. nil: nothing is called.
	Publishing func(old, new *devtree.Tree, since time.Time)
}

// A Loop watches a host. Its checks may be called from any goroutine, before and during [Run].
type Loop struct {
	config   Config
	probe    *probe
	sources  sources
	counters counters
	pings    chan struct{} // received by the running loop
	hostRead atomic.Bool   // the whole host was read once
	views    inspections
}

// New returns a Loop that does nothing before [Run].
func New(config Config) *Loop { return newLoop(config, process{}) }

func newLoop(config Config, env environment) *Loop {
	l := &Loop{
		config:  config,
		sources: sources{logName: logName(config.Name), running: map[ueventSource]bool{}},
		pings:   make(chan struct{}),
		views:   inspections{requests: make(chan chan<- *view)},
	}
	if config.Leader != nil {
		l.probe = config.Leader.probe
	} else {
		l.probe = newProbe(config.Sysfs, config.Writer, env)
	}
	return l
}

// name returns the name of the loop in a [status.Snapshot].
func (l *Loop) name() string { return cmp.Or(l.config.Name, "devices") }

// logName returns the key and value that name a loop in the log, or nothing for the loop without a
// name.
func logName(name string) []any {
	if name == "" {
		return nil
	}
	return []any{"loop", name}
}

// CheckEventLoop returns nil as soon as the loop is idle and takes a message, and an error if that
// does not happen before ctx ends.
func (l *Loop) CheckEventLoop(ctx context.Context) error {
	select {
	case l.pings <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errNotIdle
	}
}

// CheckFirstLook returns an error until the whole host has been read once.
func (l *Loop) CheckFirstLook(context.Context) error {
	if !l.hostRead.Load() {
		return errors.New("the host has not been read yet; the log says what is missing")
	}
	return nil
}

// CheckKernelHeard returns an error while events are known to be missed, or before that is known.
func (l *Loop) CheckKernelHeard(context.Context) error {
	if l.sources.closed.Load() > 0 {
		return errors.New("an event source cannot be opened; the log says why")
	}
	return l.probe.check()
}

// A mark is an element of the mailbox: the key of a mode, the answer to the probe, or one that only
// wakes the loop.
type mark[K comparable] struct {
	key          K
	answer, wake bool
}

// session is one call of Run.
type session[K comparable] struct {
	loop    *Loop
	mode    Mode[K]
	watches *Watches
	publish func(*devtree.Tree)
	mailbox *events.Mailbox[mark[K]]
	ignored ignoredLog
	noted   bool // the mailbox keeps a record of each relevant event

	// Of the loop's goroutine:
	marks     events.Batch[mark[K]]
	batch     Batch[K]
	state     State
	published *devtree.Tree
	changes   *changeLog
	audits    auditClock
	skips     skipLog
}

// Run makes a mode, listens to the sources, and calls the mode's Reconcile when there is
// something to do, until ctx ends. It calls publish from its own goroutine, with the first Tree and
// with each changed one. Run may be called once. When it returns, all goroutines have ended, except
// for those that Mode.Close left behind.
func Run[K comparable](
	ctx context.Context, l *Loop, newMode func(context.Context, Host[K]) Mode[K], publish func(*devtree.Tree),
) {
	ctx, cancel := context.WithCancel(ctx)
	s := &session[K]{
		loop:    l,
		watches: NewWatches(nil),
		publish: publish,
		mailbox: events.NewMailbox[mark[K]](mailboxLimit),
		changes: newChangeLog(journalWriter{journal: l.config.Journal, loop: l.name()}),
		audits:  auditClock{interval: l.config.AuditInterval},
		skips:   skipLog{message: cmp.Or(l.config.Skipped, "Not listed"), entries: map[string]skip{}},
	}
	if l.config.Leader != nil {
		l.probe.follow(func() { s.mailbox.Mark(mark[K]{wake: true}, time.Now()) })
	}
	switch {
	case klog.V(4).Enabled():
		s.noted = true
		s.mailbox.SetTrace(traceLimit)
	case l.config.Journal != nil:
		s.noted = true
		s.mailbox.SetTrace(journalLimit)
	}
	s.mode = newMode(ctx, Host[K]{Mark: s.mark, Watches: s.watches})
	defer s.mode.Close()
	defer l.sources.readers.Wait()
	defer cancel()
	// Subscribe, then look: what changes from here on is queued.
	for _, open := range l.config.Sources {
		l.sources.start(ctx, open, s)
	}
	if l.config.OpenWatcher != nil {
		l.sources.start(ctx, s.watches.opener(l.config.OpenWatcher), s)
	}
	s.run(ctx)
}

// mark marks a key on behalf of the mode.
func (s *session[K]) mark(key K, since time.Time) { s.mailbox.Mark(mark[K]{key: key}, since) }

// Event marks the key that the event concerns. It is called from the
// goroutines of the sources and does not block.
func (s *session[K]) Event(e *events.Event) {
	s.loop.counters.received(e)
	m, verdict := mark[K]{answer: s.loop.config.Leader == nil && s.loop.probe.isAnswer(e)}, Relevant
	if !m.answer {
		m.key, verdict = s.mode.Classify(e)
	}
	switch {
	case verdict == RelevantToAll:
		m.wake = true // there is no key
		s.mailbox.Resync("the list of PCI functions appeared", e.Time)
	case verdict == Relevant && s.noted:
		s.mailbox.MarkNoted(newRecord(e, m, true))
		return
	case verdict == Relevant:
		s.mailbox.Mark(m, e.Time)
	}
	if klog.V(4).Enabled() { // after the Resync, so that what is logged has been handled
		s.mailbox.Note(newRecord(e, m, verdict == RelevantToAll))
	}
}

func newRecord[K comparable](e *events.Event, m mark[K], relevant bool) events.Record[mark[K]] {
	return events.Record[mark[K]]{
		Origin: e.Origin, Action: e.Action, Path: string(e.Path), Time: e.Time, Key: m, Relevant: relevant,
	}
}

// Resync asks for a full read, because events were lost.
func (s *session[K]) Resync(reason string) { s.mailbox.Resync(reason, time.Now()) }

// Ignored records a message that is not an event of the kernel. The goroutines of the sources call
// it. It does not block.
func (s *session[K]) Ignored(m events.Ignored) {
	s.loop.counters.ignored(m)
	if s.ignored.note(m) {
		s.mailbox.Mark(mark[K]{wake: true}, time.Now())
	}
}

// run sleeps until something is marked or due.
func (s *session[K]) run(ctx context.Context) {
	defer s.changes.close()
	s.turn(time.Now(), true)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if next := s.next(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.loop.pings:
			continue
		case answer := <-s.loop.views.requests:
			answer <- s.view()
			continue
		case <-s.changes.timer.C:
			s.changes.log()
			continue
		case <-s.mailbox.Wake():
		case <-timer.C:
		}
		s.turn(time.Now(), false)
	}
}

// next returns when the loop must turn even if nothing is marked. The zero time means never.
func (s *session[K]) next() time.Time {
	s.audits.schedule(time.Now(), s.mayMissEvents())
	next := Earlier(Earlier(s.audits.next, s.state.Next), s.ignored.next())
	if s.loop.config.Leader == nil {
		next = Earlier(next, s.loop.probe.next())
	}
	return Earlier(next, s.skips.next)
}

// mayMissEvents reports whether changes may go unreported.
func (s *session[K]) mayMissEvents() bool {
	return !s.state.Complete || s.loop.sources.closed.Load() > 0 ||
		s.loop.probe.mayMissEvents() || s.watches.mayMissEvents()
}

// turn handles the marks and everything that is due. With all, it reads the whole host.
func (s *session[K]) turn(now time.Time, all bool) {
	s.take(now, all)
	if s.batch.All {
		s.watches.adopt()
		if s.loop.config.Leader == nil {
			s.loop.probe.send(now)
		}
	}
	if s.batch.Audit {
		s.watches.retry()
	}
	s.state = s.mode.Reconcile(now, &s.batch)
	s.loop.counters.drift.Add(uint64(len(s.state.Drift)))
	if s.state.Complete {
		s.loop.hostRead.Store(true)
	}
	if s.loop.config.Leader == nil {
		s.loop.probe.turn(now)
	}
	s.publishTree()
	s.skips.log(s.state.Skipped, now)
	s.ignored.log(now)
	s.trace()
	s.changes.journal.addDrift(now, s.state.Drift)
	s.changes.endTurn()
}

// take fills the batch from the mailbox and the audit clock.
func (s *session[K]) take(now time.Time, all bool) {
	s.mailbox.Take(&s.marks)
	s.loop.counters.turns.Add(1)
	b := &s.batch
	b.Keys = b.Keys[:0]
	b.Since = time.Time{}
	b.Audit = s.audits.take(now)
	b.MayMissEvents = s.audits.frequent
	if b.Audit {
		s.loop.counters.audits.Add(1)
	}
	b.All = all || len(s.marks.Resync) > 0 || b.Audit && !s.state.Complete
	if len(s.marks.Resync) > 0 {
		klog.InfoS("Reading the whole host again", append(logName(s.loop.config.Name), "reasons", s.marks.Resync)...)
		b.Since = s.marks.ResyncSince
		s.loop.counters.resyncs.Add(1)
		s.changes.journal.addResync(now, s.marks.Resync)
	}
	for _, d := range s.marks.Dirty {
		if !d.Key.answer && !d.Key.wake {
			b.Keys = append(b.Keys, d.Key.key)
			b.Since = Earlier(b.Since, d.Since)
		}
	}
	b.Since = Earlier(b.Since, now)
}

// publishTree publishes the Tree if it changed.
func (s *session[K]) publishTree() {
	tree := s.state.Tree
	if tree == nil || tree == s.published {
		return
	}
	if s.loop.config.Publishing != nil {
		s.loop.config.Publishing(s.published, tree, s.batch.Since)
	}
	s.publish(tree)
	runtime.Gosched() // let the streams send their lists first
	s.changes.add(s.published, tree, s.batch.Since)
	s.published = tree
}

// trace logs the events of this turn and what they led to. It passes those that concern a key on to
// the journal.
func (s *session[K]) trace() {
	for i := range s.marks.Trace {
		record := &s.marks.Trace[i]
		subject, outcome := "", "not a QAT device"
		switch {
		case record.Key.answer:
			subject, outcome = "uevent probe", "proof that uevents arrive"
		case record.Key.wake:
			outcome = "read the whole host"
		case record.Relevant:
			subject, outcome = fmt.Sprint(record.Key.key), s.mode.Outcome(record.Key.key)
			addEvent(&s.changes.journal, record, subject, outcome)
		}
		if klog.V(4).Enabled() {
			klog.V(4).InfoS("Event", append(logName(s.loop.config.Name), "source", record.Origin,
				"action", record.Action, "device", subject, "path", record.Path, "ledTo", outcome)...)
		}
	}
	if s.marks.TraceLost > 0 {
		klog.V(4).InfoS("More events arrived than could be logged", "events", s.marks.TraceLost)
	}
}
