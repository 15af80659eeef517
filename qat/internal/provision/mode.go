// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
	"qatplugin/qat/internal/readpool"
)

// A Withdrawer keeps VFs from containers. Package dpdk implements it.
type Withdrawer interface {
	// Withdraw withdraws the VFs of a PF: from its return on, no container gets one of them, for
	// this reason. An empty reason offers them again.
	Withdraw(pf pci.Address, reason string)

	// LastAllocated returns when a VF was last allocated by this process; zero: never.
	LastAllocated(vf pci.Address) time.Time
}

// Config configures the mode.
type Config struct {
	Dir        string // directory of the configuration files, without symbolic links
	Node       string // name of this node; "" if unknown
	Driver     string // the DPDK driver
	Sysfs      string // root, without symbolic links
	Reader     *device.Reader
	Writer     Writer // does all writes to sysfs
	Withdrawer Withdrawer
	NoBind     bool // the plugin binds no VFs
	Force      bool // remove VFs that containers hold

	// Holders returns which VFs pods hold: VF → "namespace/pod". It returns within seconds, and at
	// once when the context ends.
	Holders func(context.Context) (map[pci.Address]string, error)

	// FirstLook is called once, when all PFs have been read and those that are to change are
	// withdrawn, but for PFs whose reads the kernel blocks.
	FirstLook func()
}

// mode provisions the PFs of one host.
type mode struct {
	cfg        Config
	ctx        context.Context
	classifier classifier
	rules      rules
	host       host
	load       func() (*config.Config, error)
	watches    *hostwatch.Watches
	mark       func(key Key, since time.Time)
	pool       *readpool.Pool[pci.Address, readResult, device.Progress]
	jobs       jobs

	// Of the loop's goroutine:
	config     *config.Config // in force; nil: none was ever good
	configErr  string         // why the current files cannot be used; "" if they can
	pfs        map[pci.Address]*pf
	owner      map[pci.Address]pci.Address // VF → PF
	unreadable map[pci.Address]*backoff    // functions, PFs or not, whose last read failed
	skipped    map[string]string
	listErr    error
	wake       time.Time // when Reconcile must run; zero: never
	firstLook  sync.Once
}

// A pf is what is known of a PF, and what is done about it.
type pf struct {
	facts   *facts
	watched []string
	readErr string    // why it could not be read; "" if it could
	readAt  time.Time // when to read it again; zero: not without an event

	transition time.Time // since when the facts are incomplete; zero: they are complete

	rule    string
	desired *config.Desired // of the rule; nil: none matches
	refused map[write]string
	restore bool // see input.restore

	job       *job   // nil: nothing is done about it now
	reason    string // why it was not as its rule wants before the job; "" if it was, or if there was none
	attempts  attempts
	waiting   string  // what the removal of its VFs waits for; "": nothing
	ask       backoff // for the next question to the kubelet
	withdrawn string  // the reason with which it is withdrawn; "": it is not
	logged    string  // the plan that was logged last
	loggedErr string  // the error that was logged last
}

// New returns the mode for one call of [hostwatch.Run].
func New(ctx context.Context, cfg Config, h hostwatch.Host[Key]) hostwatch.Mode[Key] {
	host := &sysfsHost{sysfs: cfg.Sysfs, reader: cfg.Reader, watches: h.Watches}
	load := func() (*config.Config, error) { return config.Load(cfg.Dir, cfg.Node, cfg.Driver) }
	return newMode(ctx, cfg, h, host, load)
}

func newMode(
	ctx context.Context, cfg Config, h hostwatch.Host[Key], host host, load func() (*config.Config, error),
) *mode {
	done := func() { h.Mark(Key{kind: keyDone}, time.Now()) }
	return &mode{
		cfg:        cfg,
		ctx:        ctx,
		classifier: classifier{sysfs: cfg.Sysfs, dir: cfg.Dir},
		rules:      rules{isBound: cfg.Reader.IsBound, noBind: cfg.NoBind},
		host:       host,
		load:       load,
		watches:    h.Watches,
		mark:       h.Mark,
		pool:       readpool.New(host.read, done),
		jobs:       jobs{done: done},
		pfs:        map[pci.Address]*pf{},
		owner:      map[pci.Address]pci.Address{},
		unreadable: map[pci.Address]*backoff{},
		skipped:    map[string]string{},
	}
}

// Classify returns the key that an event concerns.
func (m *mode) Classify(e *events.Event) (Key, hostwatch.Verdict) { return m.classifier.classify(e) }

// Reconcile reads the PFs that the batch names or that are due, and starts what follows for each
// PF. An audit reads all of them.
func (m *mode) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	m.wake = time.Time{}
	addresses := m.named(b.Keys, now)
	if (b.All || b.Audit || slices.Contains(b.Keys, Key{kind: keyConfig})) && m.loadConfig() {
		addresses = slices.AppendSeq(addresses, maps.Keys(m.pfs)) // inotify does not report drivers of VFs
	}
	addresses = append(addresses, m.endJobs(now)...)
	if b.All || b.Audit {
		addresses = append(addresses, m.all()...)
	}
	m.read(append(addresses, m.due(now)...), now)
	clear(m.skipped)
	for a, pf := range m.pfs {
		if reason := m.reconcile(a, pf, now); reason != "" {
			m.skipped[a.String()] = reason
		}
		m.wakeAt(pf.readAt)
	}
	for _, retry := range m.unreadable {
		m.wakeAt(retry.at)
	}
	m.wakeAt(m.pool.NextOverdue())
	m.firstLook.Do(m.cfg.FirstLook)
	return hostwatch.State{Skipped: m.skipped, Next: m.wake, Complete: m.listErr == nil}
}

func (m *mode) wakeAt(at time.Time) { m.wake = hostwatch.Earlier(m.wake, at) }

// loadConfig reads the configuration, and reports whether it changed. If it is wrong, the last good
// one stays in force.
func (m *mode) loadConfig() (changed bool) {
	m.watches.Want(m.cfg.Dir, 0)
	loaded, err := m.load()
	if err != nil {
		if text := err.Error(); text != m.configErr {
			m.configErr = text
			klog.ErrorS(err, "Cannot use the provisioning configuration, the last good one stays in force",
				"directory", m.cfg.Dir, "inForce", m.config != nil)
		}
		return false
	}
	if m.config != nil && m.configErr == "" && reflect.DeepEqual(loaded, m.config) {
		return false
	}
	m.config, m.configErr = loaded, ""
	if loaded.File() == "" {
		klog.InfoS("There is no provisioning configuration for this node, nothing is provisioned",
			"directory", m.cfg.Dir, "node", m.cfg.Node)
		return true
	}
	klog.InfoS("Provisioning configuration loaded", "file", loaded.File())
	return true
}

// named lists the functions that keys name. The PF of a VF is read a moment later; see settleTime.
func (m *mode) named(keys []Key, now time.Time) (list []pci.Address) {
	for _, key := range keys {
		if key.kind != keyFunction {
			continue
		}
		if owner, ok := m.owner[key.address]; ok {
			pf := m.pfs[owner]
			pf.readAt = hostwatch.Earlier(pf.readAt, now.Add(settleTime))
			continue
		}
		list = append(list, key.address)
	}
	return list
}

// all lists every function that exists or is known.
func (m *mode) all() []pci.Address {
	m.watches.Want(m.cfg.Sysfs+"/bus/pci/devices", 0)
	addresses, err := m.host.addresses()
	if m.listErr = err; err != nil {
		return nil
	}
	addresses = slices.AppendSeq(addresses, maps.Keys(m.pfs))
	return slices.AppendSeq(addresses, maps.Keys(m.unreadable))
}

// due lists the functions that are to be read again at this time.
func (m *mode) due(now time.Time) (list []pci.Address) {
	for a, pf := range m.pfs {
		if !pf.readAt.IsZero() && !now.Before(pf.readAt) {
			pf.readAt = time.Time{}
			list = append(list, a)
		}
	}
	for a, retry := range m.unreadable {
		if !retry.at.IsZero() && !now.Before(retry.at) {
			retry.at = time.Time{}
			list = append(list, a)
		}
	}
	return list
}

// read reads functions, and takes the results of earlier reads that have returned. A PF with a job
// is read when the job has ended.
func (m *mode) read(addresses []pci.Address, now time.Time) {
	slices.SortFunc(addresses, pci.Address.Compare)
	addresses = slices.DeleteFunc(slices.Compact(addresses), m.isBusy)
	late := m.pool.Take()
	inOrder, concurrent := m.pool.Read(addresses)
	for _, result := range slices.Concat(late, inOrder, concurrent) {
		m.update(result.Key, result.Value, now)
		if result.Stale {
			m.mark(Key{address: result.Key}, now)
		}
	}
	for _, a := range m.pool.Overdue(now) {
		klog.ErrorS(nil, "A read does not return, the PF is not provisioned until it does",
			"device", a, "file", m.pool.Progress(a).File())
		if pf := m.pfs[a]; pf != nil {
			pf.readErr = "the read of " + m.pool.Progress(a).File() + " does not return"
		}
	}
}

// isBusy reports whether a job works on the PF at an address. If the PF is gone, or another one is
// there, it forgets the PF, and the job with it.
func (m *mode) isBusy(a pci.Address) bool {
	pf := m.pfs[a]
	if pf == nil || pf.job == nil {
		return false
	}
	if incarnation, err := m.host.incarnation(a); err == nil && incarnation != pf.facts.incarnation {
		m.forget(a, pf)
		return false
	}
	return true
}

// update records what was read of a function.
func (m *mode) update(a pci.Address, r readResult, now time.Time) {
	known := m.pfs[a]
	if r.err != nil {
		if m.unreadable[a] == nil {
			m.unreadable[a] = &backoff{}
		}
		m.unreadable[a].fail(now, maxRetry)
		if known != nil {
			known.readAt, known.readErr = time.Time{}, r.err.Error()
		}
		return
	}
	delete(m.unreadable, a)
	if known != nil && (r.facts == nil || r.facts.incarnation != known.facts.incarnation) {
		m.forget(a, known)
		known = nil
	}
	if r.facts == nil {
		return
	}
	if known == nil {
		known = &pf{facts: r.facts}
		m.pfs[a] = known
	}
	if known.facts.driver != r.facts.driver { // another driver, or the same one anew, may accept more
		known.refused, known.attempts = nil, attempts{}
	}
	known.facts, known.watched, known.readErr, known.readAt = r.facts, r.watched, "", time.Time{}
	if known.attempts.after == nil {
		known.attempts.after = r.facts
	}
	m.disown(a)
	for _, vf := range r.facts.vfs {
		m.owner[vf.address] = a
	}
	known.checkTransition(now)
}

// refuse records that the kernel refuses a write.
func (p *pf) refuse(w write, reason string) {
	if p.refused == nil {
		p.refused = map[write]string{}
	}
	p.refused[w] = reason
}

// checkTransition has the PF read again if it may have been read while the kernel changed it.
func (p *pf) checkTransition(now time.Time) {
	switch {
	case p.facts.isComplete():
		p.transition = time.Time{}
		return
	case p.transition.IsZero():
		p.transition = now
	}
	if p.inTransition(now) {
		p.readAt = p.transition.Add(minRetry)
	}
}

// inTransition reports whether the kernel may be changing the PF. What stays incomplete is as it
// is: the driver has no qat/state, or somebody has removed single VFs.
func (p *pf) inTransition(now time.Time) bool {
	return !p.transition.IsZero() && now.Sub(p.transition) < minRetry
}

// disown forgets the VFs of a PF.
func (m *mode) disown(a pci.Address) {
	maps.DeleteFunc(m.owner, func(_, owner pci.Address) bool { return owner == a })
}

// forget removes a PF that is gone.
func (m *mode) forget(a pci.Address, pf *pf) {
	for _, dir := range pf.watched {
		m.watches.Drop(dir)
	}
	m.disown(a)
	m.withdraw(a, pf, "")
	delete(m.pfs, a)
}

// withdraw withdraws a PF with a reason, or offers it again.
func (m *mode) withdraw(a pci.Address, pf *pf, reason string) {
	if pf.withdrawn != reason {
		pf.withdrawn = reason
		m.cfg.Withdrawer.Withdraw(a, reason)
	}
}

// leftToKernel is the reason with which a PF is withdrawn whose VFs the plugin does not use.
const leftToKernel = "its provisioning rule leaves it to its kernel driver"

// offer offers a PF again, unless its rule says otherwise.
func (m *mode) offer(a pci.Address, pf *pf) {
	reason := ""
	if pf.desired != nil && pf.desired.Driver == config.DriverKernel && !m.cfg.Writer.DryRun() {
		reason = leftToKernel
	}
	m.withdraw(a, pf, reason)
}

// reconcile starts what must be done about a PF. It returns why the PF is not as its rule wants, or
// "" if it is, or no rule matches.
func (m *mode) reconcile(a pci.Address, pf *pf, now time.Time) string {
	if pf.job != nil {
		return m.blocked(pf, now)
	}
	m.match(a, pf)
	pf.reason = m.act(a, pf, now)
	return pf.reason
}

// act is reconcile for a PF that has no job and whose rule is known.
func (m *mode) act(a pci.Address, pf *pf, now time.Time) string {
	switch {
	case pf.desired == nil:
		m.offer(a, pf)
		return ""
	case pf.readErr != "":
		return pf.readErr
	case m.pool.IsOutstanding(a):
		return ""
	}
	in := &input{facts: pf.facts, desired: *pf.desired, refused: pf.refused, restore: pf.restore}
	p := newPlan(in, &m.rules)
	if p.wait != "" || len(p.writes) == 0 {
		pf.restore = pf.restore && p.wait != ""
		pf.waiting, pf.ask = "", backoff{}
		pf.attempts.reached()
		m.offer(a, pf)
		return cmp.Or(p.wait, p.unmet)
	}
	return m.carryOut(a, pf, &p, now)
}

// match finds the rule of a PF. A PF with another rule than before starts anew.
func (m *mode) match(a pci.Address, pf *pf) {
	var d *config.Desired
	var rule string
	if m.config != nil {
		found, name, ok := m.config.Desired(config.PF{Address: a, NUMANode: pf.facts.numaNode, Family: pf.facts.family})
		if ok && !reflect.DeepEqual(found, config.Desired{}) { // a rule without settings exempts the PF
			d, rule = &found, name
		}
	}
	if !reflect.DeepEqual(d, pf.desired) {
		pf.refused, pf.restore, pf.attempts = nil, false, attempts{}
		pf.waiting, pf.ask, pf.logged, pf.loggedErr, pf.reason = "", backoff{}, "", "", ""
	}
	pf.desired, pf.rule = d, rule
}

// carryOut starts a job for a plan that has writes, unless it must wait. It returns why the PF is
// not as its rule wants.
func (m *mode) carryOut(a pci.Address, pf *pf, p *plan, now time.Time) string {
	f := pf.facts
	if m.cfg.Writer.DryRun() {
		if text := p.String(); text != pf.logged {
			pf.logged = text
			klog.InfoS("Would provision a PF", "pf", a, "rule", pf.rule, "differs", p.differs, "writes", text,
				"removesVFs", p.takedown)
		}
		return ""
	}
	if pf.inTransition(now) {
		return ""
	}
	if at := pf.attempts.next(f, now); now.Before(at) {
		m.offer(a, pf)
		m.wakeAt(at)
		return pf.attempts.reason()
	}
	if p.takedown {
		m.withdraw(a, pf, withdrawReason(pf.waiting))
		if now.Before(pf.ask.at) {
			m.wakeAt(pf.ask.at)
			return pf.waiting
		}
	} else {
		m.offer(a, pf)
	}
	m.start(a, pf, p)
	m.wakeAt(now.Add(blockedAfter))
	return pf.reason // until the job has ended
}

// withdrawReason is the reason with which a PF is withdrawn before its VFs are removed.
func withdrawReason(waiting string) string {
	const reason = "its PF waits for reconfiguration"
	if waiting == "" {
		return reason
	}
	return reason + ": " + waiting
}

// blocked returns why a job takes long. If it does not, it returns the reason from before the job.
func (m *mode) blocked(pf *pf, now time.Time) string {
	w, since := pf.job.progress.get()
	switch {
	case w == write{}:
		m.wakeAt(now.Add(blockedAfter))
		return pf.reason
	case now.Sub(since) < blockedAfter:
		m.wakeAt(since.Add(blockedAfter))
		return pf.reason
	}
	reason := fmt.Sprintf("the write of %s to %s has not returned since %s", w.value, w.attribute,
		since.Format(time.TimeOnly))
	switch {
	case w != removeVFs && w != write{attrState, "down"} && w.attribute != attrUnbind:
	case m.cfg.Force:
		reason += ": a process may hold a VF"
	default:
		reason += ": a process outside Kubernetes may hold a VF"
	}
	return reason
}

// Outcome describes what became of a key.
func (m *mode) Outcome(key Key) string {
	a := key.address
	if owner, ok := m.owner[a]; ok {
		a = owner
	}
	pf := m.pfs[a]
	switch {
	case key.kind != keyFunction:
		return "reconciled " + key.String()
	case pf == nil:
		return "no PF there"
	case pf.desired == nil:
		return "no rule for the PF"
	case m.skipped[a.String()] != "":
		return "not provisioned: " + m.skipped[a.String()]
	case pf.job != nil:
		return "the PF is being provisioned"
	}
	return "provisioned"
}

// Close waits for reads and writes in progress, for a limited time. Writes to a PF that have begun
// go on, so that the PF is not left down.
func (m *mode) Close() {
	if !hostwatch.AwaitClosed(m.jobs.Wait, m.pool.Close) {
		klog.InfoS("Ending while a PF is provisioned, or the kernel blocks a read of one")
	}
}
