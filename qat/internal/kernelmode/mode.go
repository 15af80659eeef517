// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"context"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/hostwatch"
)

const (
	// A run of adf_ctl is repeated after retryFirst, then after four times as
	// long each time up to retryMax.
	retryFirst = 100 * time.Millisecond
	retryMax   = 10 * time.Minute

	// maxInconsistent limits the repetitions because of a contradiction, which may be permanent.
	// A failed run is repeated without limit.
	maxInconsistent = 3

	// failureLogInterval is the minimum time between two logged failures of adf_ctl. It matters for
	// a program that fails repeatedly, or for a different reason each time.
	failureLogInterval = time.Minute

	// maxWatchRounds limits how often the watched directories are computed in a row, in case the
	// result changes each time.
	maxWatchRounds = 4
)

// Config describes the host. All fields are required.
type Config struct {
	// Sysfs, Dev and Etc are the roots of the host's sysfs and /dev, and the directory of the
	// files <type>_dev<N>.conf. They are absolute and have no symbolic links.
	Sysfs, Dev, Etc string

	ADFCtl        string        // the program adf_ctl, by path or by name in $PATH
	ADFCtlTimeout time.Duration // after which the program is killed
}

// mode is the state of mode kernel. It belongs to the goroutine of the loop, except for reader,
// which does not change.
type mode struct {
	reader  reader
	configs configs
	watches *hostwatch.Watches
	watched map[string]uint64 // the directories that watches was set to; nil: set it again

	adfctl  runner
	retry   retry
	recheck time.Time // when to check again a change that an audit found; zero: never
	removed bool      // a device is being removed: run adf_ctl twice, whatever the answer is

	// The last answer of adf_ctl.
	answered  bool // adf_ctl has answered, perhaps with an error
	succeeded bool // adf_ctl has answered without an error
	failure   string
	entries   []entry
	badLines  skips

	failureLogged time.Time // when a failure was logged last
	failureOpen   bool      // a failure was logged, and adf_ctl has not succeeded since

	// The last read of the host.
	readErr      error
	tree         *devtree.Tree
	skipped      skips
	inconsistent string // where sysfs contradicts adf_ctl; "" if it does not

	drift     hostwatch.Drift
	unrelated []Key // keys of the last batch that do not concern a QAT device
}

// New returns the mode for one call of [hostwatch.Run]. When ctx ends, a
// running adf_ctl is killed.
func New(ctx context.Context, cfg Config, host hostwatch.Host[Key]) hostwatch.Mode[Key] {
	return newMode(ctx, cfg, host, adfctl{program: cfg.ADFCtl, timeout: cfg.ADFCtlTimeout}.status)
}

// newMode is New with the function that runs adf_ctl.
func newMode(ctx context.Context, cfg Config, host hostwatch.Host[Key], status statusFunc) *mode {
	return &mode{
		reader:  reader{sysfs: cfg.Sysfs, dev: cfg.Dev, etc: cfg.Etc},
		configs: configs{dir: cfg.Etc, files: map[string]*configFile{}},
		watches: host.Watches,
		adfctl: runner{
			ctx:     ctx,
			status:  status,
			done:    func(since time.Time) { host.Mark(Key{kind: keyAnswer}, since) },
			answers: make(chan answer, 1),
		},
		tree: &devtree.Tree{},
	}
}

// Close waits for adf_ctl, which is killed when the context ends. It does not wait longer than
// hostwatch.CloseTimeout, because adf_ctl cannot be killed while the kernel blocks it.
func (m *mode) Close() {
	if !hostwatch.AwaitClosed(m.adfctl.ended.Wait) {
		klog.InfoS("Ending although the kernel blocks adf_ctl")
	}
}

// Reconcile implements [hostwatch.Mode]. It reads the host if the batch requires it, and starts
// adf_ctl if the devices may have changed. The answer of adf_ctl leads to a later call.
func (m *mode) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	if b.All {
		m.watched = nil // the loop may use another Watcher
	}
	read, run := m.plan(now, b)
	if run {
		m.adfctl.request(b.Since) // before the read, so that both run at the same time
	}
	if read {
		m.readAfterEvent(now, b.Since, run)
	}
	m.runDue(now, b.Audit)
	// An answer is taken only with its key, so that b.Since is the time of the event that caused
	// the run.
	if b.All || slices.Contains(b.Keys, Key{kind: keyAnswer}) {
		if a, ok := m.adfctl.take(); ok {
			m.handle(a, now, b.MayMissEvents)
		}
	}
	return m.state()
}

// plan decides whether to read the host and whether to run adf_ctl.
func (m *mode) plan(now time.Time, b *hostwatch.Batch[Key]) (read, run bool) {
	m.unrelated = m.unrelated[:0]
	cancel := b.All && !b.Audit // a full read by an audit does not end the back-off
	read, run = b.All || m.configs.due(now), b.All
	for _, k := range b.Keys {
		switch {
		case k.kind == keyAnswer:
			continue
		case k.kind == keyFunction && !m.mayBeQAT(k):
			m.unrelated = append(m.unrelated, k)
			continue
		case k.kind != keyFiles:
			run, cancel = true, true
		}
		m.removed = m.removed || k.removed
		read = true
	}
	if cancel {
		m.cancelPlannedRuns()
	}
	return read, run
}

// mayBeQAT reports whether a function is or could be a QAT device. The function may be one that
// adf_ctl has not listed yet. While adf_ctl runs, any function may be one that it will list.
func (m *mode) mayBeQAT(k Key) bool {
	listed := func(e entry) bool { return e.Address == k.address }
	return m.adfctl.running || slices.ContainsFunc(m.entries, listed) || m.reader.isCoprocessor(k.address)
}

// cancelPlannedRuns cancels planned runs, because adf_ctl runs now for an event.
func (m *mode) cancelPlannedRuns() { m.retry, m.recheck = retry{}, time.Time{} }

// readAfterEvent reads the host. It starts adf_ctl if the host contradicts the last answer in a
// new way. It reads nothing before the first answer.
func (m *mode) readAfterEvent(now, since time.Time, requested bool) {
	m.watch()
	if !m.answered {
		return
	}
	before := m.inconsistent
	m.read(now)
	if m.inconsistent != "" && m.inconsistent != before && !requested {
		klog.V(3).InfoS("Running adf_ctl, because sysfs contradicts its last answer", "reason", m.inconsistent)
		m.cancelPlannedRuns()
		m.adfctl.request(since)
	}
}

// runDue starts adf_ctl if a planned run or an audit is due and no run is in progress.
func (m *mode) runDue(now time.Time, audit bool) {
	due := func(t *time.Time) bool {
		if t.IsZero() || now.Before(*t) {
			return false
		}
		*t = time.Time{}
		return true
	}
	rechecking := !m.recheck.IsZero() // an audit would find the same change
	retry, recheck := due(&m.retry.next), due(&m.recheck)
	switch {
	case m.adfctl.running:
	case retry:
		m.adfctl.start(causeEvent, now)
	case recheck:
		m.adfctl.start(causeRecheck, now)
	case audit && !rechecking:
		m.adfctl.start(causeAudit, now)
	}
}

// handle handles an answer of adf_ctl.
func (m *mode) handle(a answer, now time.Time, mayMissEvents bool) {
	again := !m.adfctl.again.IsZero()
	if a.cause == causeAudit && a.err == nil && !again && m.wouldChangeTree(a, now) {
		m.recheck = now.Add(hostwatch.AuditGrace)
		return
	}
	m.accept(a, now)
	before := m.tree
	m.watch()
	m.read(now)
	if a.cause == causeRecheck && !again && m.tree != before {
		m.drift.Report(mayMissEvents, "resources", changedResources(before, m.tree))
	}
	if again && a.err == nil {
		m.adfctl.start(causeEvent, now)
		return
	}
	m.retry.schedule(now, a.err != nil, m.inconsistent != "" || m.removed)
	// Without another request, this run began after the remove event, and the planned one is the
	// second. With one, this run failed and may have begun before the event.
	m.removed = m.removed && again
}

// changedResources returns the names of the resources in which two Trees differ.
func changedResources(old, tree *devtree.Tree) []string {
	var names []string
	for _, c := range devtree.Diff(old, tree) {
		names = append(names, c.Resource)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// accept makes an answer the last one. An answer with an error does not replace the devices.
func (m *mode) accept(a answer, now time.Time) {
	m.answered = true
	if a.err != nil {
		// hostwatch also logs the failure as the reason for a skip, after it has lasted for a
		// while.
		if m.failure != a.err.Error() && now.Sub(m.failureLogged) >= failureLogInterval {
			klog.ErrorS(a.err, "Cannot get the state of the devices, keeping the last state and retrying",
				"devices", len(m.entries))
			m.failureLogged, m.failureOpen = now, true
		}
		m.failure = a.err.Error()
		return
	}
	m.entries, m.badLines = a.entries, a.badLines
	if m.failureOpen {
		klog.InfoS("adf_ctl works again", "devices", len(m.entries))
	}
	m.failure, m.failureOpen, m.succeeded = "", false, true
	klog.V(3).InfoS("Got the state of the devices from adf_ctl", "devices", len(m.entries))
}

// wouldChangeTree reports whether an answer would change the Tree.
func (m *mode) wouldChangeTree(a answer, now time.Time) bool {
	s, err := m.reader.snapshot(a.entries, m.configs.audit(now))
	if err != nil {
		return false
	}
	tree, _ := buildTree(m.tree, s)
	return tree != m.tree
}

// watch watches the directories that watchDirs returns. watchDirs reads some of these directories
// itself, so watch calls it again until the result does not change. All of them were then watched
// before they were read, and a later change is reported.
func (m *mode) watch() {
	for range maxWatchRounds {
		dirs := m.reader.watchDirs(m.entries)
		if maps.Equal(dirs, m.watched) {
			return
		}
		m.watches.Set(dirs)
		m.watched = dirs
	}
}

// read reads the host and builds the Tree. If the read fails, the last Tree stays in effect.
func (m *mode) read(now time.Time) {
	s, err := m.reader.snapshot(m.entries, m.configs.update(now))
	if m.readErr = err; err != nil {
		return
	}
	m.tree, m.skipped = buildTree(m.tree, s)
	m.inconsistent = s.inconsistency()
}

func (m *mode) state() hostwatch.State {
	s := hostwatch.State{
		Skipped:  skips{},
		Next:     hostwatch.Earlier(hostwatch.Earlier(m.retry.next, m.recheck), m.configs.next()),
		Complete: m.succeeded && m.readErr == nil,
		Drift:    m.drift.Take(),
	}
	maps.Copy(s.Skipped, m.badLines)
	maps.Copy(s.Skipped, m.skipped)
	if m.failure != "" {
		s.Skipped["adf_ctl"] = m.failure
	}
	if m.readErr != nil {
		s.Skipped["host"] = m.readErr.Error()
	}
	if m.answered {
		s.Tree = m.tree
	}
	return s
}

// Outcome implements [hostwatch.Mode].
func (m *mode) Outcome(key Key) string {
	switch {
	case slices.Contains(m.unrelated, key):
		return "not a QAT device"
	case key.kind == keyFiles:
		return "read the host"
	}
	return "read the host and ran adf_ctl"
}

// retry plans repeated runs of adf_ctl without an event.
type retry struct {
	next  time.Time // zero: never
	count int       // repetitions since the last event, or since the last run without a problem
}

// schedule plans the next run after a run has ended.
func (r *retry) schedule(now time.Time, failed, inconsistent bool) {
	switch {
	case failed, inconsistent && r.count < maxInconsistent:
		doublings := 2 * min(r.count, 8) // more would overflow
		r.next = now.Add(min(retryFirst<<doublings, retryMax))
		r.count++
	case inconsistent:
		r.next = time.Time{}
	default:
		*r = retry{}
	}
}
