// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"context"
	"fmt"
	"maps"
	"sync"
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
)

// closeTimeout is how long Close waits for reads and writes in progress. The kernel can block a
// reader or writer for as long as a workload holds a device, and nothing can call it back.
const closeTimeout = time.Second

// Config configures the mode.
type Config struct {
	Sysfs, Dev     string // roots, without symbolic links
	Driver         string // the DPDK driver: one of [device.Drivers]
	Reader         *device.Reader
	Writer         bind.Writer   // does all writes to sysfs
	Serves         []string      // kernel VF drivers whose families are served
	Limit          int           // number of VFs listed at most; 0: no limit
	NoBind         bool          // bind no VFs
	Steal          bool          // also those that a driver other than their kernel driver holds
	HealthInterval time.Duration // time between heartbeats; not positive: never
	Policy         policy.Policy
	Preference     *policy.Preference // kept up to date with the lists
}

// controller lists and binds the VFs of one host.
type controller struct {
	classifier classifier
	reader     *device.Reader
	watches    *hostwatch.Watches
	health     *health.Monitor
	binder     *bind.Binder
	preference *policy.Preference
	rules      rules

	// Of the loop's goroutine:
	functions  *functions
	assignment *assignment
	suspects   map[pci.Address]time.Time // functions that differed in an audit → when to compare again
	drift      hostwatch.Drift
	readErr    error // why the list of functions could not be read the last time
}

// New returns the mode for one call of [hostwatch.Run]. It starts no more reads
// and writes in the background once ctx ends.
func New(ctx context.Context, cfg Config, host hostwatch.Host[Key]) hostwatch.Mode[Key] {
	wake := func(a pci.Address) { host.Mark(Key{address: a}, time.Now()) }
	monitor := health.NewMonitor(health.Config{Interval: cfg.HealthInterval, Wake: wake, Now: time.Now})
	return &controller{
		classifier: classifier{sysfs: cfg.Sysfs, dev: cfg.Dev, driver: cfg.Driver},
		reader:     cfg.Reader,
		watches:    host.Watches,
		health:     monitor,
		binder:     bind.New(ctx, bind.Config{Sysfs: cfg.Sysfs, Driver: cfg.Driver, Writer: cfg.Writer, Wake: wake}),
		preference: cfg.Preference,
		rules:      rules{driver: cfg.Driver, serves: cfg.Serves, bind: !cfg.NoBind, steal: cfg.Steal},
		functions: &functions{
			reader:     cfg.Reader,
			health:     monitor,
			watches:    host.Watches,
			known:      map[pci.Address]*function{},
			unreadable: map[pci.Address]string{},
			owner:      map[pci.Address]pci.Address{},
		},
		assignment: &assignment{
			limit:   cfg.Limit,
			policy:  cfg.Policy,
			listed:  map[pci.Address]string{},
			waiting: map[pci.Address]decision{},
			skipped: map[string]string{},
			tree:    &devtree.Tree{},
		},
		suspects: map[pci.Address]time.Time{},
	}
}

// Classify returns the key that an event concerns. PCI errors, which only the event itself shows,
// go to the health monitor at once.
func (c *controller) Classify(e *events.Event) (Key, hostwatch.Verdict) {
	key, verdict := c.classifier.classify(e)
	if verdict == hostwatch.Relevant && key.kind == keyFunction {
		c.health.Observe(key.address, e)
	}
	return key, verdict
}

// Reconcile reads what the batch names and what is due, and returns the Tree that follows.
func (c *controller) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	addresses := c.addresses(b.Keys, now)
	for _, a := range addresses {
		delete(c.suspects, a) // an event reported it: no drift
	}
	if b.All {
		clear(c.suspects)
		addresses = append(addresses, c.all()...)
	}
	due, _ := c.binder.Due(now)
	if addresses = append(addresses, due...); len(addresses) > 0 {
		c.update(addresses, now)
	}
	c.health.Poll(now)
	c.runAudit(b, now)
	return hostwatch.State{
		Tree:     c.assignment.tree,
		Skipped:  c.assignment.skipped,
		Next:     c.next(now),
		Complete: c.readErr == nil,
	}
}

// addresses lists the functions that the keys stand for.
func (c *controller) addresses(keys []Key, now time.Time) []pci.Address {
	var list []pci.Address
	for _, key := range keys {
		switch key.kind {
		case keyFunction:
			list = append(list, key.address)
		case keyGroup:
			list = append(list, c.functions.vfs(func(vf *function) bool {
				return vf.Group != nil && *vf.Group == key.group
			})...)
		case keyDriver:
			c.binder.RetryFailed(now)
			list = append(list, c.unusable()...)
		case keyNodes:
			list = append(list, c.unusable()...)
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

// all lists every function that exists or is known, after the directories that
// show new ones are watched.
func (c *controller) all() []pci.Address {
	for _, dir := range c.reader.HostWatches() {
		c.watches.Want(dir, 0)
	}
	addresses, err := c.functions.all()
	if err != nil && c.readErr == nil {
		klog.ErrorS(err, "Cannot list the host's PCI functions, retrying", "sysfs", c.classifier.sysfs)
	}
	c.readErr = err
	return addresses
}

// update reads these functions again, decides about the VFs that this affects,
// and acts on the decisions.
func (c *controller) update(addresses []pci.Address, now time.Time) {
	affected := c.functions.refresh(addresses)
	driverLoaded := c.reader.DriverLoaded(c.rules.driver)
	decisions := make(map[pci.Address]decision, len(affected))
	for a := range affected {
		f := c.facts(a, driverLoaded)
		d := decide(&f, &c.rules)
		switch d.action {
		case actionBind:
			d.reason = c.binder.Bind(bind.VF{
				Address:     a,
				Incarnation: f.vf.Incarnation,
				Driver:      f.vf.Driver,
				Family:      f.vf.Family.Name,
				Denylisted:  f.vf.Family.Denylisted,
			}, now)
		case actionAwaitNode:
			c.binder.AwaitNode(a, now)
		default:
			c.binder.Forget(a)
		}
		decisions[a] = d
	}
	before := c.assignment.tree
	c.assignment.apply(decisions, c.binder.Pending(), c.functions.pfOf)
	if c.assignment.tree != before {
		c.preference.Update(maps.Keys(c.assignment.listed), c.functions.pfOf)
	}
}

// facts collects what decide goes by.
func (c *controller) facts(a pci.Address, driverLoaded bool) facts {
	vf := c.functions.known[a]
	if vf == nil || !vf.IsVF {
		return facts{unreadable: c.functions.unreadable[a]}
	}
	f := facts{vf: vf, driverBound: c.reader.IsBound(vf.Driver), driverLoaded: driverLoaded}
	_, f.listed = c.assignment.listed[a]
	if pf, ok := c.functions.pfOf(a); ok {
		f.pfAddress = &pf
		f.pf, f.pfReadErr = c.functions.known[pf], c.functions.unreadable[pf]
		if f.pf != nil {
			f.pfReadErr = f.pf.readErr
		}
		f.pfExists = f.pf != nil || c.reader.Exists(pf)
	}
	return f
}

// next is when Reconcile has something to do though nothing is marked.
func (c *controller) next(now time.Time) time.Time {
	_, next := c.binder.Due(now)
	next = hostwatch.Earlier(next, c.health.Next(now))
	for _, at := range c.suspects {
		next = hostwatch.Earlier(next, at)
	}
	return next
}

// Outcome says what became of the functions that a key stands for.
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
	resource := c.assignment.listed[key.address]
	d := c.assignment.tree.Resource(resource).Device(id)
	switch {
	case d == nil:
		return "not listed"
	case d.Health == devtree.Unhealthy:
		return fmt.Sprintf("in %s, unhealthy: %s", resource, d.Reason)
	}
	return "in " + resource
}

// Close waits for reads and writes in progress, but not for long: what the
// kernel blocks ends with the process.
func (c *controller) Close() {
	var waiting sync.WaitGroup
	waiting.Go(c.binder.Wait)
	waiting.Go(c.health.Wait)
	done := make(chan struct{})
	go func() { waiting.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		klog.InfoS("Ending while the kernel blocks a read or write of sysfs")
	}
}
