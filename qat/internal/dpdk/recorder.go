// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// defaultRecorderLimit is the default of the limit of a Recorder. A decision takes about 1 KB.
const defaultRecorderLimit = 2048

// A Recorder keeps the newest steps of the mode: the facts that it read, and what it decided on
// them. What follows from a step is a function of its facts and of the state before it, so a
// recording can be replayed; see [Replay].
//
// A Recorder holds pointers to values that do not change, and encodes them when a reader asks for
// the recording. Steps are kept in two segments. Each begins with a checkpoint, which is the state
// before its first step. When the second segment is full, the first one is dropped. So a Recorder
// holds at most limit decisions, or those of two steps if these are more. What else a step holds
// counts as decisions, too; see [step.size].
//
// Write may be called from any goroutine. Everything else belongs to the goroutine of the loop.
type Recorder struct {
	limit   int
	journal *status.Journal // its events are part of a recording; nil: it has none
	started time.Time       // origin of all recorded times, which a change of the clock does not affect

	// Of the loop's goroutine:
	cause cause
	links map[pci.Address]link // VF → PF, as apply last asked for it

	mu       sync.Mutex // guards all following fields
	settings settings
	segments []*segment // one or two, the newest last; none: the mode has not run
	tree     *devtree.Tree
	drift    *recording // what led to the first drift; nil: there was none
}

// settings are the parts of the configuration on which decisions depend.
type settings struct {
	rules  rules
	policy policy.Policy
	limit  int
}

// A recording is a copy of what a Recorder holds.
type recording struct {
	settings settings
	at       time.Time
	segments []segment
	tree     *devtree.Tree  // after the last step
	events   []status.Event // in the order in which they were appended to the Journal
	reason   string         // "drift", or "" for a recording that somebody asked for
}

// A segment is a number of steps, and the state before the first one.
type segment struct {
	checkpoint checkpoint
	steps      []*step
	size       int // of all steps
}

// A checkpoint is the state of an assignment.
type checkpoint struct {
	listed  map[pci.Address]*place
	waiting map[pci.Address]decision
	inUse   map[pci.Address]bool
	links   map[pci.Address]link
}

// A link is the PF of a VF.
type link struct {
	pf    pci.Address
	hasPF bool
}

// A cause is why a step was taken.
type cause struct {
	all, audit bool
	keys       []Key
}

// A step is one call of controller.update. It is not changed after Recorder.end.
type step struct {
	at        time.Time
	cause     cause
	facts     []facts
	decisions []decision // of the facts

	// What apply asked for besides the decisions:
	pending []pci.Address        // the VFs that were being bound
	failed  []pci.Address        // VFs whose last bind had failed
	blocked []pci.Address        // PFs of which no VF could be bound
	links   map[pci.Address]link // PFs of VFs, where they differ from those of the step before

	binds   []bindStep // the VFs that apply returned
	changes []entry    // entries in the lists that apply changed; a VF can be here more than once
}

// A bindStep is a VF that is to be bound, and why it is not bound yet.
type bindStep struct {
	vf     pci.Address
	reason string
}

// An entry is a VF with its place in the lists; nil: it is not listed.
type entry struct {
	vf    pci.Address
	place *place
}

// NewRecorder returns a Recorder for about limit decisions; 0 stands for 2048. For a negative limit
// it returns nil, which records nothing. The events of a Journal, which may be nil, are part of the
// recordings.
func NewRecorder(limit int, journal *status.Journal) *Recorder {
	if limit < 0 {
		return nil
	}
	return &Recorder{
		limit:   cmp.Or(limit, defaultRecorderLimit),
		journal: journal,
		started: time.Now(),
		links:   map[pci.Address]link{},
	}
}

// follow begins to record a mode with these settings.
func (r *Recorder) follow(s settings) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settings = s
}

// because records why the next steps are taken.
func (r *Recorder) because(b *hostwatch.Batch[Key]) {
	if r != nil {
		r.cause = cause{all: b.All, audit: b.Audit, keys: slices.Clone(b.Keys)}
	}
}

// begin returns a step with these facts and decisions, to which the assignment is about to be
// applied. It returns nil if nothing is recorded.
func (r *Recorder) begin(vfs []facts, decisions []decision, a *assignment, now time.Time) *step {
	if r == nil {
		return nil
	}
	s := &step{at: now, cause: r.cause}
	s.facts, s.decisions = withoutOthers(vfs, decisions, a)
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.segments)
	if n == 0 || len(r.segments[n-1].steps) > 0 && r.segments[n-1].size+s.size() > r.limit/2 {
		if n == 2 {
			r.segments = slices.Delete(r.segments, 0, 1)
		}
		r.segments = append(r.segments, &segment{checkpoint: checkpoint{
			listed:  maps.Clone(a.listed),
			waiting: maps.Clone(a.waiting),
			inUse:   maps.Clone(a.inUse),
			links:   maps.Clone(r.links),
		}})
	}
	return s
}

// withoutOthers leaves out the addresses at which there is no VF and was none. A full read has one
// for each other PCI function of the host.
func withoutOthers(vfs []facts, decisions []decision, a *assignment) ([]facts, []decision) {
	isOther := func(f *facts) bool {
		_, waits := a.waiting[f.address]
		return f.vf == nil && f.unreadable == "" && !waits && a.listed[f.address] == nil
	}
	n := 0
	for i := range vfs {
		if !isOther(&vfs[i]) {
			n++
		}
	}
	if n == len(vfs) {
		return vfs, decisions
	}
	facts, decided := make([]facts, 0, n), make([]decision, 0, n)
	for i := range vfs {
		if !isOther(&vfs[i]) {
			facts, decided = append(facts, vfs[i]), append(decided, decisions[i])
		}
	}
	return facts, decided
}

// addressesPerDecision is the number of addresses, with what belongs to each, that take about as
// much memory as a decision and its facts.
const addressesPerDecision = 32

// size is how much a step counts in the limit of a Recorder: one decision more than it has, and one
// for addressesPerDecision addresses. A step with one decision can have the addresses of all VFs.
func (s *step) size() int {
	n := len(s.cause.keys) + len(s.pending) + len(s.failed) + len(s.blocked) + len(s.links) + len(s.binds) +
		len(s.changes)
	for i := range s.facts {
		n += len(s.facts[i].members)
	}
	return 1 + len(s.decisions) + n/addressesPerDecision
}

// isEmpty reports whether nothing would be different without a step.
func (s *step) isEmpty() bool { return len(s.decisions)+len(s.changes)+len(s.links) == 0 }

// observe returns b and pfOf, and has what they return recorded in a step, which may be nil.
func (r *Recorder) observe(s *step, b bindings, pfOf policy.PFOf) (bindings, policy.PFOf) {
	if s == nil {
		return b, pfOf
	}
	return observedBindings{b, s}, func(vf pci.Address) (pci.Address, bool) {
		pf, ok := pfOf(vf)
		if now := (link{pf, ok}); r.links[vf] != now {
			r.links[vf] = now
			if s.links == nil {
				s.links = map[pci.Address]link{}
			}
			s.links[vf] = now
		}
		return pf, ok
	}
}

// observedBindings records what an assignment asks about bindings.
type observedBindings struct {
	bindings
	step *step
}

func (b observedBindings) Pending() []pci.Address {
	b.step.pending = b.bindings.Pending()
	return b.step.pending
}

func (b observedBindings) HasFailed(vf pci.Address, incarnation uint64) bool {
	failed := b.bindings.HasFailed(vf, incarnation)
	if failed {
		b.step.failed = append(b.step.failed, vf)
	}
	return failed
}

func (b observedBindings) IsBlocked(pf pci.Address) bool {
	blocked := b.bindings.IsBlocked(pf)
	if blocked && !slices.Contains(b.step.blocked, pf) {
		b.step.blocked = append(b.step.blocked, pf)
	}
	return blocked
}

// entries returns the entries that the last call of apply has changed. A VF can be among them more
// than once.
func (s *assignment) entries() []entry {
	list := make([]entry, len(s.changed))
	for i, vf := range s.changed {
		list[i] = entry{vf, s.listed[vf]}
	}
	return list
}

// end records what became of a step, which may be nil. bound are the VFs that apply returned.
func (r *Recorder) end(s *step, bound []decision, a *assignment) {
	if s == nil {
		return
	}
	for _, d := range bound {
		s.binds = append(s.binds, bindStep{d.vf, a.skipped[d.vf.String()]})
	}
	s.changes = a.entries()
	for i := range s.decisions { // keep one copy of a device; see assignment.shareDevices
		if d := &s.decisions[i]; d.device != nil && a.listed[d.vf] != nil {
			d.device = a.listed[d.vf].decision.device
		}
	}
	if s.isEmpty() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	current := r.segments[len(r.segments)-1]
	current.steps = append(current.steps, s)
	current.size += s.size()
	r.tree = a.tree
}

// keepDrift keeps a copy of the recording after the first drift, which later steps do not replace.
func (r *Recorder) keepDrift() {
	if r == nil {
		return
	}
	r.mu.Lock()
	first := r.drift == nil
	if first {
		r.drift = r.copy("drift")
	}
	r.mu.Unlock()
	if first {
		klog.InfoS("Kept a recording of what led to the drift; it is part of each recording from now on")
	}
}

// copy returns a copy of what the Recorder holds. r.mu is held.
func (r *Recorder) copy(reason string) *recording {
	c := &recording{settings: r.settings, at: time.Now(), tree: r.tree, reason: reason}
	for _, s := range r.segments {
		c.segments = append(c.segments, *s) // later steps are appended beyond its length
	}
	if r.journal != nil {
		c.events = r.journal.Since(0)
	}
	return c
}

// recordings returns the recording of the first drift, if there was one, and the current one.
func (r *Recorder) recordings() (list []*recording) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drift != nil {
		list = append(list, r.drift)
	}
	return append(list, r.copy(""))
}
