// SPDX-License-Identifier: Apache-2.0

// Package bind binds VFs to their DPDK driver.
//
// A [Binder] requests a binding from the kernel, but does not read the result. The caller reads the
// VF and drives the procedure: it calls [Binder.Bind] each time it finds the VF not bound, and
// [Binder.Bound] each time it finds the VF bound. If the driver does not bind to the VF, the Binder
// restores driver_override and gives the VF back to the driver that had it.
//
// The Binder retries a VF that had no driver, with back-off. It retries a VF that it took from a
// driver only after [Binder.RetryFailed], because each try takes the VF away from its users. A VF
// that is lost soon after it was bound is treated as a failure, because another program may manage
// it.
package bind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

const (
	// driverTimeout is how long the driver may take to bind after the last request. On sysfs the
	// driver is usually bound when the write returns; a deferred probe takes longer.
	driverTimeout = time.Second

	// A VF that failed to bind is tried again after minBackOff, which doubles with each further
	// failure up to maxBackOff.
	minBackOff = time.Second
	maxBackOff = 5 * time.Minute

	// lossTime is how long a VF must stay bound. If it is lost sooner, the try has failed.
	lossTime = time.Minute
)

// probeDelays are the waits for the driver after each request to the kernel to probe a VF. After
// the last wait, the Binder gives up the try. The kernel may receive the first request before it
// allows drivers to bind to a new VF (drivers/pci/bus.c, pci_bus_add_device). That request then has
// no effect and returns no error.
var probeDelays = [...]time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, driverTimeout}

const maxProbes = len(probeDelays)

// A Writer writes attributes of sysfs. [sysfs.Writer] is one.
type Writer interface {
	// Write writes value to the attribute with this path below the root of sysfs.
	Write(name, value string) error
	// DryRun reports whether Write only logs what it would write.
	DryRun() bool
}

// Config configures a [Binder].
type Config struct {
	Sysfs  string            // root of sysfs
	Driver string            // the DPDK driver
	Steal  bool              // also bind VFs whose driver_override names another driver
	Writer Writer            // does all writes
	Wake   func(pci.Address) // called in a goroutine of the Binder when a VF must be read again
}

// VF is a VF as it was last read.
type VF struct {
	Address     pci.Address
	Incarnation uint64      // inode of its directory; another one after it was recreated
	Driver      string      // the driver that it is bound to, not the DPDK driver; "" if none
	PF          pci.Address // its PF, or its bus if the PF is unknown; see workersPerPF

	// Group lists the other VFs of the IOMMU group that must be taken from their drivers, too.
	// While one of them is reserved, the VF is not taken from its driver.
	Group []pci.Address
}

// Binder binds VFs in the background. All methods may be called from any goroutine.
type Binder struct {
	cfg Config
	ctx context.Context // ends undo

	mu       sync.Mutex // guards the following fields, and each attempt except what its worker uses
	attempts map[pci.Address]*attempt
	queue    queue
	next     time.Time // the earliest due of all attempts; zero: never
	changed  bool      // an attempt may have changed since next was determined
	results  results
}

// results count how attempts ended.
type results struct{ bound, failed, reserved, lost uint64 }

// Results returns how often a VF was bound, could not be bound, was reserved by driver_override,
// and was lost soon after it was bound. The keys are "bound", "failed", "reserved" and "lost".
func (b *Binder) Results() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.results
	return map[string]uint64{"bound": r.bound, "failed": r.failed, "reserved": r.reserved, "lost": r.lost}
}

// lock locks b.mu for a change of an attempt.
func (b *Binder) lock() {
	b.mu.Lock()
	b.changed = true
}

// attempt is the state of binding one VF. The Binder keeps it until the VF is forgotten or
// recreated. In phaseWriting, vf and the fields from givenBack on belong to the worker.
type attempt struct {
	vf       VF // as it was when the last step started
	phase    phase
	next     time.Time // when the next step is due, in phaseProbing and phaseFailed
	probes   int       // requests in this try that the kernel accepted
	probedAt time.Time // last of these requests, in any try
	err      error     // phaseFailed: the cause
	failures int       // failed tries since the VF last stayed bound for lossTime
	stopped  bool      // phaseWriting, phaseFailed: the VF must not be bound now
	returned bool      // phaseFailed: the VF was given back to a driver, and RetryFailed not called since
	driven   bool      // phaseFailed: the VF is bound to another driver
	lost     bool      // phaseFailed: the VF was bound, and lost soon after that

	boundAt time.Time // when the VF was first found bound; zero: not since the last try started
	job     *job      // phaseWriting: the step

	givenBack      bool   // this try has given the VF back to formerDriver
	formerDriver   string // the driver that had the VF, "" if none
	formerOverride string // driver_override before the Binder changed it
	overridden     bool   // driver_override was changed, and not restored
}

type phase int

const (
	phaseNew     phase = iota
	phaseWriting       // a step of the procedure runs, or waits for a worker
	phaseProbing       // the kernel accepted the request, the driver has not appeared yet
	phaseFailed        // undone, may be tried again
	phaseBound         // the VF is bound to the DPDK driver
	phaseDryRun        // the dry run has logged what it would write
)

// New returns a Binder. When ctx ends, the Binder drops the VFs that wait for a worker, and does
// not interrupt writes in progress.
func New(ctx context.Context, cfg Config) *Binder {
	b := &Binder{cfg: cfg, ctx: ctx, attempts: map[pci.Address]*attempt{}}
	b.queue = newQueue(ctx, b.run)
	return b
}

// Bind starts the next step for a VF that is not bound, if a step is due. It returns the reason why
// the VF is not bound, whose class is "" while the VF is being bound.
func (b *Binder) Bind(vf VF, now time.Time) status.Reason {
	b.lock()
	defer b.mu.Unlock()
	t := b.attempts[vf.Address]
	if t == nil || t.vf.Incarnation != vf.Incarnation {
		b.queue.remove(t)
		t = &attempt{}
		b.attempts[vf.Address] = t
	}
	t.stopped, t.driven = false, vf.Driver != ""
	switch {
	case t.phase == phaseBound:
		b.lose(t, vf, now)
	case t.phase == phaseFailed && t.lost && vf.Driver != "":
		t.err = lossError(vf.Driver) // the VF may have had no driver when the loss was noticed
	case t.phase == phaseFailed && t.isReserved(nil) && !slices.Equal(t.vf.Group, vf.Group):
		t.next = now
	}
	at := t.due()
	due := !at.IsZero() && !now.Before(at)
	switch {
	case t.phase == phaseNew, t.phase == phaseFailed && due:
		t.probes, t.boundAt, t.lost, t.returned = 0, time.Time{}, false, false
		b.start(t, vf, b.configure)
	case t.phase == phaseProbing && due && t.probes < maxProbes && vf.Driver != "" && t.vf.Driver == "":
		b.start(t, vf, b.configure) // its driver has bound to the VF meanwhile, so a request has no effect
	case t.phase == phaseProbing && due && t.probes < maxProbes:
		b.start(t, vf, b.probe)
	case t.phase == phaseProbing && due:
		b.start(t, vf, b.giveUp)
	}
	return t.reason(b.cfg.Driver)
}

// Bound records that a VF is bound to the DPDK driver. The caller calls it each time it finds the
// VF bound.
func (b *Binder) Bound(a pci.Address, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.attempts[a]; t != nil && t.phase != phaseBound {
		b.changed = true
		b.bound(t, now)
	}
}

// bound records that an attempt has succeeded. The caller holds b.mu.
func (b *Binder) bound(t *attempt, now time.Time) {
	if t.boundAt.IsZero() {
		t.boundAt = now
		b.results.bound++
	}
	if t.phase != phaseWriting { // the end of the step notices boundAt
		t.phase = phaseBound
	}
}

// lose handles the loss of a VF that was bound. The caller holds b.mu.
func (b *Binder) lose(t *attempt, vf VF, now time.Time) {
	lasted := now.Sub(t.boundAt)
	if lasted >= lossTime {
		t.phase, t.failures = phaseNew, 0
		return
	}
	b.results.lost++
	t.fail(lossError(vf.Driver), now)
	t.lost = true
	args := []any{"device", vf.Address, "driver", b.cfg.Driver, "lostTo", vf.Driver, "boundFor", lasted,
		"failures", t.failures, "retryIn", t.next.Sub(now)}
	if t.failures == 1 {
		klog.InfoS("Lost a VF soon after it was bound, retrying", args...)
	} else {
		klog.V(2).InfoS("Lost a VF soon after it was bound, retrying", args...)
	}
}

func lossError(driver string) error {
	if driver == "" {
		return fmt.Errorf("something else unbound it soon after it was bound")
	}
	return fmt.Errorf("something else bound it to %s soon after it was bound", driver)
}

// AwaitNode records that a VF is bound to the DPDK driver but has no device node yet. The caller
// calls it each time it finds the VF in this state. Until driverTimeout after the last request,
// Pending lists the VF, so that the VF keeps its place under the device limit. After that,
// AwaitNode has the effect of Bound.
func (b *Binder) AwaitNode(a pci.Address, now time.Time) {
	b.lock()
	defer b.mu.Unlock()
	t := b.attempts[a]
	if t == nil || t.phase == phaseWriting || t.phase == phaseBound {
		return
	}
	t.next = t.probedAt.Add(driverTimeout) // there is nothing left to ask the kernel for
	if !now.Before(t.next) {
		b.bound(t, now)
	}
}

// Stop ends the try to bind a VF that exists but must not be bound now. A step that is running
// continues, and is undone if it fails. Otherwise the driver and driver_override stay as they are.
// The Binder remembers the failures of the VF, and what to restore if a later try fails.
func (b *Binder) Stop(a pci.Address) {
	b.lock()
	defer b.mu.Unlock()
	switch t := b.attempts[a]; {
	case t == nil, t.phase == phaseBound:
	case t.phase == phaseDryRun:
		delete(b.attempts, a)
	case t.phase == phaseFailed, t.phase == phaseWriting && t.job.isRunning():
		t.stopped = true
	default:
		t.phase = phaseNew
		b.queue.remove(t)
	}
}

// Release drops a VF that was bound, if it was unbound on purpose. That does not count as a loss.
func (b *Binder) Release(a pci.Address) {
	b.lock()
	defer b.mu.Unlock()
	if t := b.attempts[a]; t != nil && t.phase == phaseBound {
		delete(b.attempts, a)
	}
}

// Forget drops a VF that is gone. A step that is running continues, and its result is ignored.
func (b *Binder) Forget(a pci.Address) {
	b.lock()
	defer b.mu.Unlock()
	b.queue.remove(b.attempts[a])
	delete(b.attempts, a)
}

// Due returns the VFs that must be read again by now.
func (b *Binder) Due(now time.Time) (list []pci.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if next := b.nextAttempt(); !next.IsZero() && !now.Before(next) {
		for a, t := range b.attempts {
			if at := t.due(); !at.IsZero() && !now.Before(at) {
				list = append(list, a)
			}
		}
	}
	for _, a := range b.queue.newlyStuck(now) {
		list = append(list, a)
		klog.InfoS("A write to the device has not returned yet", "device", a, "after", stuckTime)
	}
	return list
}

// Postpone delays the next step of a VF that cannot be read before then.
func (b *Binder) Postpone(a pci.Address, until time.Time) {
	b.lock()
	defer b.mu.Unlock()
	t := b.attempts[a]
	if t == nil || t.phase == phaseWriting {
		return
	}
	if at := t.due(); !at.IsZero() && at.Before(until) {
		t.next = until
	}
}

// Next returns the earliest time at which a VF is due, which may be in the past. The zero time
// means never.
func (b *Binder) Next() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return earlier(b.nextAttempt(), b.queue.nextStuck())
}

// nextAttempt returns the earliest due of all attempts. Most events find that no attempt has
// changed. After a pause, it takes 80 µs to look at 1024 of them. The caller holds b.mu.
func (b *Binder) nextAttempt() time.Time {
	if b.changed {
		b.next, b.changed = time.Time{}, false
		for _, t := range b.attempts {
			b.next = earlier(b.next, t.due())
		}
	}
	return b.next
}

// earlier returns the earlier of two times. The zero time means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due returns when the VF must be read again for its next step. The zero time means never.
func (t *attempt) due() time.Time {
	switch {
	case t.phase == phaseProbing, t.phase == phaseFailed && !t.stopped && !(t.returned && t.driven):
		return t.next
	}
	return time.Time{}
}

// RetryReserved makes the VFs due that were not bound because driver_override reserves the VF at
// address a. These are the VF itself and other VFs of its IOMMU group.
func (b *Binder) RetryReserved(a pci.Address, now time.Time) {
	b.lock()
	defer b.mu.Unlock()
	for _, t := range b.attempts {
		if t.phase == phaseFailed && t.isReserved(&a) {
			t.next = now
		}
	}
}

// RetryFailed makes all VFs due whose last try failed. Call it when the cause may be gone.
func (b *Binder) RetryFailed(now time.Time) {
	b.lock()
	defer b.mu.Unlock()
	for _, t := range b.attempts {
		if t.phase == phaseFailed {
			t.next, t.returned = now, false
		}
	}
}

// Pending returns the VFs that are being bound, except for those with a step that is stuck or waits
// for stuck steps.
func (b *Binder) Pending() (list []pci.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, t := range b.attempts {
		switch {
		case t.phase == phaseProbing:
		case t.phase != phaseWriting, t.stopped, t.job.stuck, !t.boundAt.IsZero():
			continue
		case !t.job.isRunning() && b.queue.isBlocked(t.vf.PF):
			continue
		}
		list = append(list, a)
	}
	return list
}

// IsBlocked reports whether no step can start for the VFs of a PF, because all workers that the PF
// may have are stuck.
func (b *Binder) IsBlocked(pf pci.Address) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.isBlocked(pf)
}

// HasFailed reports whether the last try to bind a VF failed, or is stuck.
func (b *Binder) HasFailed(a pci.Address, incarnation uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.attempts[a]
	return t != nil && t.vf.Incarnation == incarnation &&
		(t.phase == phaseFailed || t.phase == phaseWriting && t.job.stuck)
}

// Wait waits for the writes in progress. A device that is held open can block it.
func (b *Binder) Wait() { b.queue.running.Wait() }

// start runs a step of the procedure in a worker, as soon as one is free. The caller holds b.mu.
func (b *Binder) start(t *attempt, vf VF, step func(*attempt) error) {
	t.phase, t.vf = phaseWriting, vf
	if vf.Driver != "" {
		t.formerDriver = vf.Driver
	}
	t.job = &job{attempt: t, vf: vf, step: step}
	b.queue.add(t.job)
}

// run runs a step and records its result. It is the body of a worker.
func (b *Binder) run(j *job) {
	err := j.step(j.attempt)
	if b.finish(j, err, time.Now()) {
		b.cfg.Wake(j.vf.Address)
	}
}

// finish records the result of a step. It reports false if the VF was forgotten or recreated.
func (b *Binder) finish(j *job, err error, now time.Time) bool {
	b.lock()
	defer b.mu.Unlock()
	t := j.attempt
	b.queue.finish(j)
	if b.attempts[t.vf.Address] != t {
		return false
	}
	switch {
	case err == nil && b.cfg.Writer.DryRun():
		t.phase = phaseDryRun
	case !t.boundAt.IsZero(): // the driver appeared meanwhile
		t.phase = phaseBound
	case err == nil && t.stopped:
		t.phase, t.stopped = phaseNew, false
	case err == nil: // the kernel accepted the request
		t.phase, t.probedAt = phaseProbing, now
		t.next = now.Add(probeDelays[t.probes])
		t.probes++
	default:
		b.fail(t, err, now)
	}
	return true
}

// fail records that a try failed. The caller holds b.mu.
func (b *Binder) fail(t *attempt, err error, now time.Time) {
	t.fail(err, now)
	if t.isReserved(nil) {
		b.results.reserved++
	} else {
		b.results.failed++
	}
	args := []any{"device", t.vf.Address, "driver", b.cfg.Driver, "failures", t.failures}
	message := "Cannot bind a VF, retrying"
	if t.givenBack {
		t.err = fmt.Errorf("%w; given back to %s until %s, its module or a parameter changes",
			err, t.formerDriver, b.cfg.Driver)
		t.returned, t.driven = true, true
		message = "Cannot bind a VF, gave it back to its driver"
		args = append(args, "givenBackTo", t.formerDriver)
	} else {
		args = append(args, "retryIn", t.next.Sub(now))
	}
	if t.failures == 1 && !sysfs.IsAbsent(err) && !t.isReserved(nil) {
		klog.ErrorS(err, message, args...)
	} else {
		klog.V(2).InfoS(message, append(args, "err", err)...)
	}
}

func (t *attempt) fail(err error, now time.Time) {
	t.phase, t.err = phaseFailed, err
	doublings := min(t.failures, 16) // more would overflow
	t.next = now.Add(min(minBackOff<<doublings, maxBackOff))
	t.failures++
}

// isReserved reports whether the last try ended because driver_override of the VF by reserves it.
// If by is nil, any VF may be the reserved one.
func (t *attempt) isReserved(by *pci.Address) bool {
	var reserved *reservedError
	return errors.As(t.err, &reserved) && (by == nil || reserved.vf == *by)
}

// reason returns the reason why the VF is not bound to the driver. See [Binder.Bind].
func (t *attempt) reason(driver string) status.Reason {
	switch t.phase {
	case phaseDryRun:
		return status.Reason{Class: status.ClassNotBound, Text: "dry run: not bound to " + driver}
	case phaseFailed:
		if t.isReserved(nil) {
			return status.Reason{Class: status.ClassOtherDriver, Text: t.err.Error()}
		}
		return status.Reason{Class: status.ClassBindFailed, Text: fmt.Sprintf("bind to %s: %v", driver, t.err)}
	}
	return status.Reason{Text: "waiting for " + driver + " to bind"}
}
