// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat/internal/bind"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/health"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
	"qatplugin/qat/internal/readpool"
)

// Config configures the mode.
type Config struct {
	Sysfs, Dev     string // roots, without symbolic links
	Driver         string // the DPDK driver: one of [device.Drivers]
	Reader         *device.Reader
	Allocator      *Allocator    // kept up to date with the VFs
	Writer         bind.Writer   // does all writes to sysfs
	ServedDrivers  []string      // kernel VF drivers whose families are served
	Limit          int           // number of VFs listed at most; 0: no limit
	InUse          []pci.Address // VFs that containers have when the mode starts; they get the first places
	NoBind         bool          // bind no VFs
	Steal          bool          // also bind VFs that another driver holds, or that driver_override reserves
	Attributes     bool          // devices have attributes; the Reader must read what they need
	HealthInterval time.Duration // time between heartbeats; not positive: never
	Policy         policy.Policy
	Preference     *policy.Preference // kept up to date with the lists
	Recorder       *Recorder          // records the decisions; nil: nothing does

	// PFRead is called whenever a PF was read, with its driver's directory in debugfs. It must not
	// block. nil: nothing is called.
	PFRead func(pf pci.Address, debugfs string)
}

// controller lists and binds the VFs of one host.
type controller struct {
	classifier classifier
	reader     *device.Reader
	allocator  *Allocator
	watches    *hostwatch.Watches
	health     *health.Monitor
	binder     *bind.Binder
	preference *policy.Preference
	recorder   *Recorder // may be nil
	rules      rules
	totals     totalVFs

	// Of the loop's goroutine:
	functions  *functions
	groups     *groups
	assignment *assignment
	suspects   map[pci.Address]time.Time // functions that differed in an audit → when to compare again
	releasing  map[pci.Address]time.Time // VFs that have no driver but a node → when that was first read
	lastRun    time.Time                 // when Reconcile was called last
	drift      hostwatch.Drift
	listErr    error // of the last attempt to list the host's functions
	listRetry  retry // when to list and read all of them again
}

// New returns the mode for one call of [hostwatch.Run]. It starts no more reads
// and writes in the background once ctx ends.
func New(ctx context.Context, cfg Config, host hostwatch.Host[Key]) hostwatch.Mode[Key] {
	w := &watchedReader{watches: host.Watches}
	read := func(a pci.Address, p *device.Progress) readResult { return w.read(cfg.Reader.Tracked(p), a) }
	return newController(ctx, cfg, host, read, cfg.Reader.Reread)
}

func newController(
	ctx context.Context, cfg Config, host hostwatch.Host[Key],
	read func(pci.Address, *device.Progress) readResult, reread func(*device.Function) *device.Function,
) *controller {
	wake := func(a pci.Address) { host.Mark(Key{address: a}, time.Now()) }
	monitor := health.NewMonitor(health.Config{Sysfs: cfg.Sysfs, Interval: cfg.HealthInterval, Wake: wake})
	groups := newGroups(cfg.Reader)
	inUse := map[pci.Address]bool{}
	for _, a := range cfg.InUse {
		inUse[a] = true
	}
	cfg.Allocator.follow(func(pf pci.Address) { host.Mark(Key{kind: keyWithdrawal, address: pf}, time.Now()) })
	rules := rules{
		driver:     cfg.Driver,
		served:     cfg.ServedDrivers,
		bind:       !cfg.NoBind,
		steal:      cfg.Steal,
		attributes: cfg.Attributes,
	}
	cfg.Recorder.follow(settings{rules: rules, policy: cfg.Policy, limit: cfg.Limit})
	return &controller{
		classifier: classifier{sysfs: cfg.Sysfs, dev: cfg.Dev, driver: cfg.Driver, isShared: groups.isShared},
		groups:     groups,
		reader:     cfg.Reader,
		allocator:  cfg.Allocator,
		watches:    host.Watches,
		health:     monitor,
		binder: bind.New(ctx, bind.Config{
			Sysfs:  cfg.Sysfs,
			Driver: cfg.Driver,
			Steal:  cfg.Steal,
			Writer: cfg.Writer,
			Wake:   wake,
		}),
		preference: cfg.Preference,
		totals:     totalVFs{pfs: map[pci.Address]totalOfPF{}},
		recorder:   cfg.Recorder,
		rules:      rules,
		functions: &functions{
			reader:     cfg.Reader,
			reread:     reread,
			allocator:  cfg.Allocator,
			health:     monitor,
			watches:    host.Watches,
			pfRead:     cfg.PFRead,
			attributes: cfg.Attributes,
			pool:       readpool.New(read, func() { host.Mark(Key{kind: keyLateRead}, time.Now()) }),
			known:      map[pci.Address]*function{},
			unreadable: map[pci.Address]string{},
			owner:      map[pci.Address]pci.Address{},
			watched:    map[pci.Address][]string{},
			retries:    map[pci.Address]retry{},
			expired:    map[pci.Address]bool{},
		},
		assignment: &assignment{
			limit:   cfg.Limit,
			policy:  cfg.Policy,
			inUse:   inUse,
			listed:  map[pci.Address]*place{},
			waiting: map[pci.Address]decision{},
			skipped: map[string]string{},
			classes: map[pci.Address]string{},
			tree:    &devtree.Tree{},
		},
		suspects:  map[pci.Address]time.Time{},
		releasing: map[pci.Address]time.Time{},
	}
}

// Classify returns the key that an event concerns. PCI errors, which only the event itself shows,
// go to the health monitor at once.
func (c *controller) Classify(e *events.Event) (Key, hostwatch.Verdict) {
	key, verdict := c.classifier.classify(e)
	if verdict == hostwatch.Relevant {
		c.health.Observe(e)
	}
	return key, verdict
}

// Reconcile reads the functions that the batch names, or that are due to be read again, and returns
// the Tree that follows.
func (c *controller) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	c.recorder.because(b)
	addresses := c.addresses(b.Keys, now)
	for _, a := range addresses {
		delete(c.suspects, a) // an event has reported the difference, so it is not drift
	}
	if b.All || c.listRetry.isDue(now) {
		addresses = append(addresses, c.all(now)...)
	}
	addresses = append(addresses, c.functions.dueRetries(now)...)
	addresses = append(addresses, c.binder.Due(now)...)
	addresses = append(addresses, c.newlyHeld(now)...)
	withdrawn := c.withdrawnVFs(b.Keys)
	c.lastRun = now
	next := hostwatch.Earlier(c.assignment.next, c.groups.retry)
	if len(addresses) > 0 || len(withdrawn) > 0 || len(c.functions.pool.Outstanding()) > 0 ||
		!next.IsZero() && !now.Before(next) {
		c.update(addresses, withdrawn, now)
	}
	c.runAudit(b, now)
	if b.Audit {
		c.auditGroups(now)
	}
	return hostwatch.State{
		Tree:     c.assignment.tree,
		Skipped:  c.assignment.skipped,
		Next:     c.next(),
		Complete: c.listErr == nil,
		Drift:    c.drift.Take(),
	}
}

// addresses lists the functions to read because of these keys.
func (c *controller) addresses(keys []Key, now time.Time) []pci.Address {
	var list []pci.Address
	for _, key := range keys {
		switch key.kind {
		case keyFunction:
			list = append(list, key.address)
		case keyOverride:
			c.binder.RetryReserved(key.address, now)
			list = append(list, key.address)
		case keyNUMANode:
			c.functions.expire(key.address)
			list = append(list, key.address)
		case keyGroup:
			list = append(list, c.functions.vfs(func(vf *function) bool {
				return vf.Group != nil && *vf.Group == key.group
			})...)
		case keyDriver:
			c.watchHost() // the directories of a module that was loaded again are new
			c.binder.RetryFailed(now)
			list = append(list, c.unusable()...)
		case keyNodes:
			list = append(list, c.unusable()...)
		case keyWithdrawal:
			if c.allocator.withdrawn(key.address) == "" {
				list = append(list, key.address) // it was probably changed, and its events may be queued
			}
		}
	}
	return list
}

// withdrawnVFs lists the VFs of the PFs that were withdrawn or are offered again, and those whose
// PF is not known. They need not be read again, unless their PF has changed.
func (c *controller) withdrawnVFs(keys []Key) (list []pci.Address) {
	for _, key := range keys {
		if key.kind == keyWithdrawal {
			list = append(list, c.functions.vfs(func(vf *function) bool {
				pf, ok := c.functions.pfOf(vf.Address)
				return !ok || pf == key.address
			})...)
		}
	}
	return list
}

// unusable lists the VFs that are not listed, and those whose node is missing.
func (c *controller) unusable() []pci.Address {
	return c.functions.vfs(func(vf *function) bool {
		_, listed := c.assignment.listed[vf.Address]
		return !listed || vf.Node.Missing != ""
	})
}

// all lists every function that exists or is known. It first watches the directories in which new
// functions appear. If the functions cannot be listed, it schedules another full read and returns
// none.
func (c *controller) all(now time.Time) []pci.Address {
	c.watchHost()
	addresses, err := c.functions.all()
	if err != nil {
		if c.listErr == nil {
			klog.ErrorS(err, "Cannot list the host's PCI functions, retrying", "sysfs", c.classifier.sysfs)
		}
		c.listErr, c.listRetry = err, c.listRetry.after(err, now)
		return nil
	}
	c.listErr, c.listRetry = nil, retry{}
	c.functions.expire(addresses...)
	c.groups.clear()
	clear(c.suspects)
	return addresses
}

// watchHost watches the directories that do not belong to a function.
func (c *controller) watchHost() {
	for _, w := range c.reader.HostWatches() {
		c.watches.Want(w.Dir, w.Incarnation)
	}
}

// update reads these functions again, decides about the VFs that this affects and about the unread
// VFs, and acts on the decisions. It also gives places that have become free to VFs that wait for
// one.
func (c *controller) update(addresses, unread []pci.Address, now time.Time) {
	var named []pci.Address
	if c.groups.shared.Load() != nil {
		named = slices.Concat(addresses, unread) // refresh changes the array of addresses
	}
	affected := c.functions.refresh(addresses, now)
	if len(unread) > 0 {
		affected = append(affected, unread...)
		slices.SortFunc(affected, pci.Address.Compare)
		affected = slices.Compact(affected)
	}
	affected = c.withSiblings(named, affected, now)
	vfs := c.collect(affected, now)
	for a, retry := range c.functions.retries {
		c.binder.Postpone(a, retry.at)
	}
	for _, a := range c.functions.pool.Outstanding() {
		c.binder.Postpone(a, now.Add(maxRetry))
	}
	decisions := decideAll(vfs, &c.rules)
	c.updateBinder(vfs, decisions, now)
	before := c.assignment.tree
	step := c.recorder.begin(vfs, decisions, c.assignment, now)
	bindings, pfOf := c.recorder.observe(step, c.binder, c.functions.pfOf)
	chosen := c.assignment.apply(decisions, bindings, pfOf, now)
	c.bind(chosen, now)
	c.recorder.end(step, chosen, c.assignment)
	if c.assignment.tree != before {
		c.preference.Update(maps.Keys(c.assignment.listed), c.functions.pfOf)
	}
}

// collect returns the facts from which decide decides about these VFs. It reads the state of the
// DPDK driver only if one of them may be bound to it.
func (c *controller) collect(addresses []pci.Address, now time.Time) []facts {
	vfs := make([]facts, len(addresses))
	unbound := false
	for i, a := range addresses {
		vfs[i] = c.facts(a)
		vfs[i].held = c.isHeld(a, vfs[i].vf, now)
		unbound = unbound || vfs[i].vf != nil && !vfs[i].driverBound && !vfs[i].vf.Node.Releasing
	}
	if unbound {
		driver := c.reader.DriverState()
		for i := range vfs {
			vfs[i].driver = driver
		}
	}
	c.addMembers(vfs, now)
	return vfs
}

// holdTime is how long the node of a VF must remain without its VFIO device until the VF counts as
// held open by a workload. If no process holds it open, the kernel removes the node within
// microseconds (drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
const holdTime = time.Second

// isHeld reports whether a workload delays the removal or unbinding of a VF. The host does not show
// which process has the VF open, only that the kernel waits for it. Until holdTime is over, isHeld
// reports false, and newlyHeld returns the VF afterwards.
func (c *controller) isHeld(a pci.Address, vf *function, now time.Time) bool {
	if vf == nil || !vf.Node.Releasing || vf.Driver != "" {
		delete(c.releasing, a)
		return false
	}
	since, known := c.releasing[a]
	if !known {
		since = now
		c.releasing[a] = now
	}
	return now.Sub(since) >= holdTime
}

// newlyHeld lists the VFs whose holdTime has ended since Reconcile was called last.
func (c *controller) newlyHeld(now time.Time) (list []pci.Address) {
	for a, since := range c.releasing {
		if at := since.Add(holdTime); at.After(c.lastRun) && !now.Before(at) {
			list = append(list, a)
		}
	}
	return list
}

// facts returns what is known of one VF and its PF. collect adds the remaining facts.
func (c *controller) facts(a pci.Address) facts {
	vf := c.functions.known[a]
	if vf == nil || !vf.IsVF {
		return facts{address: a, unreadable: c.functions.unreadable[a]}
	}
	f := facts{address: a, vf: vf, driverBound: c.reader.IsBound(vf.Driver)}
	_, f.listed = c.assignment.listed[a]
	f.inUse = c.assignment.inUse[a]
	if pf, ok := c.functions.pfOf(a); ok {
		f.pfAddress, f.withdrawn = &pf, c.allocator.withdrawn(pf)
		f.pf, f.pfReadErr = c.functions.known[pf], c.functions.unreadable[pf]
		if f.pf != nil {
			f.pfReadErr = f.pf.readErr
		}
		if f.pf == nil {
			exists, err := c.reader.Exists(pf)
			if f.pfExists = exists; err != nil && f.pfReadErr == "" {
				f.pfReadErr = err.Error()
			}
		}
	} else if !f.driverBound && c.allocator.withdrawsAny() {
		f.withdrawn = mayBeWithdrawn
	}
	return f
}

// mayBeWithdrawn is why a VF whose PF is not known is not bound while a PF is withdrawn. At the add
// event of a VF, physfn can be missing still; its change event follows.
const mayBeWithdrawn = "it has no PF, and may be a new VF of a PF that is withdrawn"

// updateBinder tells the binder which VFs are bound, are gone, or must not be bound.
func (c *controller) updateBinder(vfs []facts, decisions []decision, now time.Time) {
	for i := range decisions {
		switch d, f := &decisions[i], &vfs[i]; {
		case d.action == actionBind:
		case d.action == actionAwaitNode:
			c.binder.AwaitNode(d.vf, now)
		case f.driverBound:
			c.binder.Bound(d.vf, now)
		case f.vf == nil:
			c.binder.Forget(d.vf)
		default: // it is skipped, or listed while a workload holds it without a driver
			if f.withdrawn != "" {
				c.binder.Release(d.vf)
			}
			c.binder.Stop(d.vf)
		}
	}
}

// bind starts the next step of binding for each of these VFs, and records why they are not bound
// yet. It stops binding VFs for which the limit leaves no place.
func (c *controller) bind(vfs []decision, now time.Time) {
	chosen := map[pci.Address]bool{}
	for _, d := range vfs {
		chosen[d.vf] = true
		c.assignment.skip(d.vf, c.binder.Bind(bind.VF{
			Address:     d.vf,
			Incarnation: d.function.Incarnation,
			Driver:      d.function.Driver,
			PF:          policy.PFOrBus(d.vf, c.functions.pfOf),
			Group:       d.taken,
		}, now))
	}
	for a, d := range c.assignment.waiting {
		if d.action == actionBind && !chosen[a] {
			c.binder.Stop(a)
		}
	}
}

// next is when Reconcile must be called even if no event arrives; zero: never.
func (c *controller) next() time.Time {
	next := hostwatch.Earlier(c.binder.Next(), hostwatch.Earlier(c.assignment.next, c.groups.retry))
	next = hostwatch.Earlier(next, hostwatch.Earlier(c.listRetry.at, c.functions.nextRetry()))
	next = hostwatch.Earlier(next, c.functions.pool.NextOverdue())
	for _, since := range c.releasing {
		if at := since.Add(holdTime); at.After(c.lastRun) {
			next = hostwatch.Earlier(next, at)
		}
	}
	for _, at := range c.suspects {
		next = hostwatch.Earlier(next, at)
	}
	return next
}

// Outcome describes what was read for a key: where the function is listed, or why it is not.
func (c *controller) Outcome(key Key) string {
	f, id := c.functions.known[key.address], key.address.String()
	switch reason := c.assignment.skipped[id]; {
	case key.kind != keyFunction:
		return "read " + key.String()
	case reason != "":
		return "not listed: " + reason
	case f == nil:
		return "no QAT function there"
	case !f.IsVF && f.readErr != "":
		return "PF that cannot be read: " + f.readErr
	case !f.IsVF:
		return fmt.Sprintf("PF with %d VFs, resource %s", len(f.VFs), f.Resource)
	}
	p := c.assignment.listed[key.address]
	switch {
	case p == nil:
		return "not listed"
	case p.decision.device.Health == devtree.Unhealthy:
		return fmt.Sprintf("in %s, unhealthy: %s", p.decision.resource, p.decision.device.Reason)
	}
	return "in " + p.decision.resource
}

// Close waits for reads and writes in progress, for a limited time. The kernel can block them for
// as long as a workload holds a device open. Such a read or write ends with the process.
func (c *controller) Close() {
	c.allocator.follow(nil)
	if !hostwatch.AwaitClosed(c.binder.Wait, c.health.Close, c.functions.pool.Close) {
		klog.InfoS("Ending while the kernel blocks a read or write of sysfs")
	}
}
