package kernelmode

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat"
	"qatplugin/qat/internal/follow"
)

const (
	// mailboxLimit is how many subjects can wait; more become one look at everything. Hosts have some hundreds of functions.
	mailboxLimit = 1 << 14
	// traceLimit is how many events can wait to be logged, with -v=4.
	traceLimit = 1 << 12
)

// A loop is one run of Watch: it takes what the sources marked, looks, asks adf_ctl, and publishes. Its goroutine sleeps until something
// is marked, adf_ctl answered, or a look is due.
type loop struct {
	host       *host
	classifier classifier
	mailbox    *events.Mailbox[subject]
	batch      events.Batch[subject]
	listeners  sync.WaitGroup
	vitals     *follow.Vitals
	watches    *watches

	run      func() ([]byte, error) // adf_ctl status
	runs     sync.WaitGroup
	answers  chan answer
	running  bool
	again    bool // something was heard of since adf_ctl was started
	why      cause
	asked    time.Time // when the first event came that adf_ctl is, or will be, asked for; zero: none did
	confirm  bool      // a device is going: whatever adf_ctl says, ask once more
	schedule schedule

	known   known
	drift   uint64                      // changes that no event told of, ever
	seen    *devtree.Tree               // the Tree that was published last
	said    []Omission                  // those that were logged
	left    *atomic.Pointer[[]Omission] // for whoever asks
	publish func(tree *devtree.Tree)    // as given to Watch
}

// known is what the loop goes by.
type known struct {
	instances []instance // as adf_ctl said when it answered last
	unread    []Omission // lines of that answer that make no sense
	failure   string     // why it did not answer the last time
	doubt     string
	tree      *devtree.Tree
	left      []Omission
}

// An answer is what one run of adf_ctl brought.
type answer struct {
	text []byte
	err  error
}

func newLoop(p *Plugin, run func() ([]byte, error), publish func(*devtree.Tree)) *loop {
	l := &loop{
		classifier: classifier{sysfs: p.cfg.SysfsRoot, dev: p.cfg.DevRoot, etc: p.cfg.EtcRoot},
		mailbox:    events.NewMailbox[subject](mailboxLimit),
		watches:    newWatches(),
		run:        run,
		answers:    make(chan answer, 1),
		schedule:   schedule{interval: p.cfg.AuditInterval},
		known:      known{tree: &devtree.Tree{}},
		left:       &p.left,
		vitals:     &p.Vitals,
		publish:    publish,
	}
	l.host = &host{sysfs: p.cfg.SysfsRoot, dev: p.cfg.DevRoot, etc: p.cfg.EtcRoot, watch: l.watches.want}
	if klog.V(4).Enabled() {
		l.mailbox.SetTrace(traceLimit)
	}
	return l
}

// Event files an event under its subject. It is called by the readers of sockets and does not make them wait.
func (l *loop) Event(e *events.Event) {
	s, relevant := l.classifier.subject(e)
	if l.vitals.Hearing.Hear(e) {
		s, relevant = subject{kind: subjectHearing}, false
	}
	if relevant {
		l.mailbox.Mark(s, e.Time)
	}
	if klog.V(4).Enabled() { // after the mark, so that whoever logs it has looked
		l.mailbox.Note(events.Record[subject]{Origin: e.Origin, Action: e.Action, Path: string(e.Path), Time: e.Time, Key: s, Relevant: relevant})
	}
}

// Resync asks for a look at everything, as events were lost.
func (l *loop) Resync(reason string) { l.mailbox.Resync(reason, time.Now()) }

// loop works until ctx ends.
func (l *loop) loop(ctx context.Context) {
	l.begin()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.schedule.plan(time.Now(), l.vitals.Hearing.Limited() || l.watches.Limited())
		timer.Stop()
		if next := earlier(l.schedule.next(), l.vitals.Hearing.Due()); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-l.vitals.Pings():
		case <-l.mailbox.Wake():
			l.turn(time.Now())
		case <-l.vitals.Hearing.Wake():
			l.turn(time.Now())
		case <-timer.C:
			l.turn(time.Now())
		case a := <-l.answers:
			if ctx.Err() != nil {
				return
			}
			l.turn(time.Now()) // what was heard of until now is one more question
			l.answered(a, time.Now())
		}
	}
}

// begin follows the standing directories, then asks. Nothing is published before the first answer.
func (l *loop) begin() {
	l.watches.Adopt()
	l.host.standing()
	l.vitals.Hearing.Ask(time.Now())
	l.ask(causeEvent)
}

// turn does everything that is due.
func (l *loop) turn(now time.Time) {
	l.mailbox.Take(&l.batch)
	look, ask, since := l.heard()
	if ask {
		l.schedule.heard()
		l.ask(causeEvent) // before the look: both run at once
	}
	if look && l.seen != nil {
		doubt := l.known.doubt
		if l.look(since); l.known.doubt != "" && l.known.doubt != doubt && !ask {
			l.schedule.heard()
			l.ask(causeEvent)
		}
	}
	if c, due := l.schedule.due(now); due && !l.running {
		l.ask(c)
	}
	l.vitals.Hearing.Turn(now)
	l.report()
	l.trace()
}

// heard sums the batch up: whether to look, whether to ask adf_ctl, and since when there was cause.
func (l *loop) heard() (look, ask bool, since time.Time) {
	if len(l.batch.Resync) > 0 {
		klog.InfoS("Looking at everything again", "reasons", l.batch.Resync)
		look, ask, since = true, true, l.batch.ResyncSince
		l.vitals.Hearing.Ask(time.Now())
	}
	for _, d := range l.batch.Dirty {
		switch {
		case d.Key.kind == subjectPlace:
		case d.Key.kind == subjectStack || l.concerns(d.Key.address):
			ask = true
		default:
			continue
		}
		l.confirm = l.confirm || d.Key.removed
		look, since = true, earlier(since, d.Since)
	}
	if ask {
		l.asked = earlier(l.asked, since)
	}
	return look, ask, since
}

// concerns tells whether a function is, or could be, a QAT device. A driver of the stack may hold one that adf_ctl has not spoken of, and
// what adf_ctl is about to speak of is not known.
func (l *loop) concerns(a qat.Address) bool {
	return l.running || slices.ContainsFunc(l.known.instances, func(i instance) bool { return i.Address == a }) || l.host.isCoprocessor(a)
}

// ask has adf_ctl run, or run once more when it is running.
func (l *loop) ask(c cause) {
	if l.running {
		l.again = true
		return
	}
	l.running, l.why = true, c
	l.runs.Go(func() {
		text, err := l.run()
		l.answers <- answer{text, err}
	})
}

// answered goes on with what adf_ctl said.
func (l *loop) answered(a answer, now time.Time) {
	l.running = false
	since := earlier(l.asked, now)
	if !l.again {
		l.asked = time.Time{}
	}
	if l.why == causeAudit && !l.again && a.err == nil && l.suspicious(a) {
		l.schedule.suspect = now.Add(auditSettle)
		return
	}
	l.take(a)
	before := l.known.tree
	l.look(since)
	if l.why == causeSuspect && !l.again && before != l.known.tree {
		l.drifted()
	}
	if l.again {
		l.again = false
		l.ask(causeEvent)
		return
	}
	l.schedule.answered(now, a.err != nil, l.known.doubt != "" || l.confirm)
	l.confirm = false
	l.report()
}

// take believes an answer. One that failed changes nothing of what is known.
func (l *loop) take(a answer) {
	if a.err == nil {
		l.known.instances, l.known.unread = parseStatus(a.text)
		if l.known.failure != "" {
			klog.InfoS("adf_ctl answers again", "devices", len(l.known.instances))
		}
		l.known.failure = ""
		klog.V(3).InfoS("Asked adf_ctl", "devices", len(l.known.instances))
		return
	}
	if l.known.failure != a.err.Error() {
		klog.ErrorS(a.err, "Cannot ask which devices are up, going on with what is known; trying again", "devices", len(l.known.instances))
	}
	l.known.failure = a.err.Error()
}

// suspicious tells whether an audit would change the Tree.
func (l *loop) suspicious(a answer) bool {
	instances, _ := parseStatus(a.text)
	s, err := l.host.look(instances)
	l.watches.settle()
	if err != nil {
		return false
	}
	tree, _ := place(l.known.tree, s)
	return tree != l.known.tree
}

func (l *loop) drifted() {
	l.drift++
	if l.schedule.deaf {
		klog.V(2).InfoS("The audit found a change")
		return
	}
	klog.ErrorS(nil, "Drift: the devices or their configuration changed and no event told of it", "total", l.drift)
}

// look reads the host, makes the Tree that follows, and publishes it. since is when the first cause of it was heard of.
func (l *loop) look(since time.Time) {
	l.watches.Adopt()
	s, err := l.host.look(l.known.instances)
	l.watches.settle()
	left := slices.Clone(l.known.unread)
	if err != nil {
		left = append(left, Omission{Subject: "host", Reason: err.Error()})
	} else {
		var more []Omission
		l.known.tree, more = place(l.known.tree, s)
		left, l.known.doubt = append(left, more...), s.doubt
	}
	l.known.left = sortOmissions(left)
	l.tell(since)
}

// tell publishes what is new.
func (l *loop) tell(since time.Time) {
	left := l.known.left
	if l.known.failure != "" { // which is in the log as an error
		left = append([]Omission{{Subject: "adf_ctl", Reason: l.known.failure}}, left...)
	}
	l.left.Store(&left)
	if l.known.failure == "" {
		l.vitals.Looked()
	}
	old, tree := l.seen, l.known.tree
	if old == tree {
		return
	}
	l.publish(tree)
	l.seen = tree
	follow.LogChanges(old, tree, time.Since(since))
}

// report logs what is left out, once adf_ctl has said its part: reasons of the moment in between would tell people nothing.
func (l *loop) report() {
	if !l.running && l.seen != nil {
		logOmissions(l.said, l.known.left)
		l.said = l.known.left
	}
}

func (l *loop) trace() {
	for _, r := range l.batch.Trace {
		led := "not of the QAT driver stack"
		if r.Relevant {
			led = "looked at " + r.Key.String()
		} else if r.Key.kind == subjectHearing {
			led = "proof that the kernel is heard"
		}
		klog.V(4).InfoS("Event", "source", r.Origin, "action", r.Action, "path", r.Path, "ledTo", led)
	}
	if l.batch.TraceLost > 0 {
		klog.V(4).InfoS("More events came than could be logged", "events", l.batch.TraceLost)
	}
}
