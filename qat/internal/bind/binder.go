// SPDX-License-Identifier: Apache-2.0

// Package bind binds VFs to their DPDK driver.
//
// A [Binder] only asks the kernel to bind a VF. Whether that worked shows when the VF is read
// again, so its caller drives the procedure: it calls [Binder.Bind] each time it finds the VF
// not bound, and [Binder.Forget] once it is. If the driver does not bind to the VF, the VF is
// given back to the driver that had it, with driver_override as it was, and tried again later.
package bind

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

const (
	// workers limits how many VFs are written to at the same time. A write may take long, because
	// it resets the function (100 ms, PCI Express Base Specification 6.6.2) or waits for the device
	// lock, and must not delay others.
	workers = 8

	// driverTimeout is how long the driver may take to appear after the last request. On sysfs it
	// usually has the VF when the write returns; a deferred probe takes longer.
	driverTimeout = time.Second

	// A VF that failed to bind is tried again after minBackOff, which doubles with each further
	// failure up to maxBackOff.
	minBackOff = time.Second
	maxBackOff = 5 * time.Minute
)

// probeDelays are the waits for the driver after each request to the kernel to probe a VF. After
// the last one the try is given up. The first request may come before the kernel allows drivers to
// bind to a new VF (drivers/pci/bus.c, pci_bus_add_device), and then has no effect and returns no
// error.
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
	Writer Writer            // does all writes
	Wake   func(pci.Address) // called in a goroutine of the Binder when a VF must be read again
}

// VF is a VF as it was last read.
type VF struct {
	Address     pci.Address
	Incarnation uint64 // differs when the VF was removed and recreated at the same address
	Driver      string // the driver that has it, not the DPDK driver; "" if none
	Family      string // name of the QAT family, for messages
	Denylisted  bool   // vfio-pci refuses the family by default
}

// Binder binds VFs in the background. All methods may be called from any goroutine.
type Binder struct {
	cfg     Config
	ctx     context.Context // ends the workers
	slots   chan struct{}   // holds a token for each write in progress
	running sync.WaitGroup

	mu       sync.Mutex // guards attempts, and each attempt that no worker uses
	attempts map[pci.Address]*attempt
}

// attempt is the state of one VF on its way to the driver. It lasts over any number of tries,
// until the VF is forgotten or recreated. In phaseWriting it belongs to the worker.
type attempt struct {
	vf       VF // as it was when the last step started
	phase    phase
	next     time.Time // when the next step is due, in phaseProbing and phaseFailed
	probes   int       // requests in this try that the kernel accepted
	probedAt time.Time // last of these requests, in any try
	err      error     // phaseFailed: the cause
	failures int       // tries that failed

	formerDriver   string // the driver that had the VF, "" if none
	formerOverride string // driver_override before this try
}

type phase int

const (
	phaseNew     phase = iota
	phaseWriting       // a worker runs a step of the procedure
	phaseProbing       // the kernel accepted the request, the driver has not appeared yet
	phaseFailed        // undone, will be tried again
	phaseDryRun        // the dry run has logged what it would write
)

// New returns a Binder that drops the VFs waiting for a worker when ctx ends. VFs that are being
// written to are not interrupted.
func New(ctx context.Context, cfg Config) *Binder {
	slots := make(chan struct{}, workers)
	return &Binder{cfg: cfg, ctx: ctx, slots: slots, attempts: map[pci.Address]*attempt{}}
}

// Bind starts the next step for a VF that is not bound yet, if a step is due. It returns why
// the VF is not bound.
func (b *Binder) Bind(vf VF, now time.Time) (pending string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.attempts[vf.Address]
	if t == nil || t.vf.Incarnation != vf.Incarnation {
		t = &attempt{}
		b.attempts[vf.Address] = t
	}
	switch {
	case now.Before(t.next):
	case t.phase == phaseNew, t.phase == phaseFailed:
		t.probes = 0
		b.start(t, vf, b.configure)
	case t.phase == phaseProbing && t.probes < maxProbes:
		b.start(t, vf, b.probe)
	case t.phase == phaseProbing:
		b.start(t, vf, b.giveUp)
	}
	return t.reason(b.cfg.Driver)
}

// AwaitNode is called each time a VF is found bound to the DPDK driver but without its device
// node. It keeps the VF pending, so that the VF keeps its place under the limit, until
// driverTimeout after the last request. Then the VF is forgotten.
func (b *Binder) AwaitNode(a pci.Address, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.attempts[a]
	if t == nil || t.phase == phaseWriting {
		return
	}
	t.next = t.probedAt.Add(driverTimeout) // there is nothing left to ask the kernel for
	if !now.Before(t.next) {
		delete(b.attempts, a)
	}
}

// Forget drops a VF that is bound, gone or no longer to be bound. A step that is running continues,
// and its result is ignored. driver_override and the driver stay as they are.
func (b *Binder) Forget(a pci.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.attempts, a)
}

// Due returns the VFs that must be read again by now.
func (b *Binder) Due(now time.Time) (list []pci.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, t := range b.attempts {
		if t.isWaiting() && !now.Before(t.next) {
			list = append(list, a)
		}
	}
	return list
}

// Postpone delays the next step of a VF that cannot be read before then.
func (b *Binder) Postpone(a pci.Address, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.attempts[a]; t != nil && t.isWaiting() && t.next.Before(until) {
		t.next = until
	}
}

// Next returns the earliest time at which a VF is due, which may be in the past. The zero time
// means never.
func (b *Binder) Next() (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.attempts {
		if t.isWaiting() && (next.IsZero() || t.next.Before(next)) {
			next = t.next
		}
	}
	return next
}

// isWaiting reports whether the next step is due at t.next.
func (t *attempt) isWaiting() bool { return t.phase != phaseWriting && t.phase != phaseDryRun }

// RetryFailed makes all VFs that failed to bind due, because the cause may be gone.
func (b *Binder) RetryFailed(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.attempts {
		if t.phase == phaseFailed {
			t.next = now
		}
	}
}

// Pending returns the VFs that are being bound for the first time. VFs that have failed before
// are not among them.
func (b *Binder) Pending() (list []pci.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, t := range b.attempts {
		if (t.phase == phaseWriting || t.phase == phaseProbing) && t.failures == 0 {
			list = append(list, a)
		}
	}
	return list
}

// Wait waits for the writes in progress. A device that is held open can block it.
func (b *Binder) Wait() { b.running.Wait() }

// start runs a step of the procedure in a worker. The caller holds b.mu.
func (b *Binder) start(t *attempt, vf VF, step func(*attempt) error) {
	t.phase, t.vf = phaseWriting, vf
	if vf.Driver != "" {
		t.formerDriver = vf.Driver
	}
	b.running.Go(func() {
		select {
		case b.slots <- struct{}{}:
		case <-b.ctx.Done():
			return
		}
		if b.ctx.Err() != nil { // with both ready, select picks one at random
			return
		}
		err := step(t)
		<-b.slots
		if b.finish(t, err, time.Now()) {
			b.cfg.Wake(vf.Address)
		}
	})
}

// finish records the result of a step. It reports false if the VF was forgotten or recreated.
func (b *Binder) finish(t *attempt, err error, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attempts[t.vf.Address] != t {
		return false
	}
	switch {
	case b.cfg.Writer.DryRun():
		t.phase = phaseDryRun
	case err == nil: // the kernel accepted the request
		t.phase, t.probedAt = phaseProbing, now
		t.next = now.Add(probeDelays[t.probes])
		t.probes++
	default:
		t.phase, t.err = phaseFailed, err
		doublings := min(t.failures, 16) // more would overflow
		t.next = now.Add(min(minBackOff<<doublings, maxBackOff))
		t.failures++
		if t.failures == 1 && !sysfs.IsAbsent(err) {
			klog.ErrorS(err, "Cannot bind a VF, will try again",
				"device", t.vf.Address, "driver", b.cfg.Driver, "after", t.next.Sub(now))
		} else {
			klog.V(2).InfoS("Cannot bind a VF, will try again", "err", err, "failures", t.failures,
				"device", t.vf.Address, "driver", b.cfg.Driver, "after", t.next.Sub(now))
		}
	}
	return true
}

// reason returns why the VF is not bound to the driver.
func (t *attempt) reason(driver string) string {
	switch t.phase {
	case phaseDryRun:
		return "dry run: not bound to " + driver
	case phaseFailed:
		return fmt.Sprintf("bind to %s: %v", driver, t.err)
	}
	return "waiting for " + driver + " to bind"
}
