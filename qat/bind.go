package qat

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/follow"
)

const (
	// bindWorkers bounds how many devices are bound at once. A bind may take long, as when it resets the function (100 ms, PCI Express
	// Base Specification 6.6.2) or waits for the device's lock, and must not make others wait.
	bindWorkers = 8
	// bindPatience is how long the driver may take to show up after the kernel took the last request. On real sysfs it is there when the
	// write returns; a deferred probe, and a look-alike host, come later.
	bindPatience = time.Second
	// A bind that failed is tried again after bindBackOff, then after twice as long each time up to bindBackOffMax.
	bindBackOff    = time.Second
	bindBackOffMax = 5 * time.Minute
)

// askAgain is when the kernel is asked again to probe a VF that no driver took: the request may have come before it lets drivers have a
// new VF at all (drivers/pci/bus.c, pci_bus_add_device), and then fails without a word.
var askAgain = [...]time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond}

// A binder brings VFs to their DPDK driver. It only asks the kernel to: whether it worked is for the next look to see. Requests run
// beside the fold; each ends by naming its VF to done. want, forget and due are for one goroutine.
type binder struct {
	host    *host
	observe bool // nothing is ever bound
	steal   bool // a VF is also taken from a driver that is not its own kernel driver
	write   follow.Writer
	done    func(Address) // called from other goroutines when there is a reason to look at the VF
	now     func() time.Time

	ctx      context.Context // ends the workers
	slots    chan struct{}
	jobs     sync.WaitGroup
	mu       sync.Mutex // guards what follows
	attempts map[Address]*attempt
}

// An attempt is what is known of one VF on its way to the driver. While a job runs, nothing of it changes.
type attempt struct {
	incarnation uint64
	phase       phase
	err         error     // phase failed: why
	at          time.Time // phase asked: when to give up; phase failed: when to try again
	taken       time.Time // when the kernel took the newest request
	asked       int       // how often the kernel was asked to probe, within this try
	failures    int
	device      Function // as it was when the job began
	from        string   // the driver that held it before, "" when none did
	override    string   // driver_override before
}

type phase int

const (
	phaseRunning phase = iota // a job is writing
	phaseAsked                // the kernel took the writes; the driver is yet to be seen
	phaseFailed               // undone; tried again later
	phaseDry                  // a dry run said what it would write, once
)

func newBinder(ctx context.Context, h *host, done func(Address)) *binder {
	return &binder{
		host: h, write: follow.Writer{Root: h.sysfs}, done: done, now: time.Now, ctx: ctx,
		slots: make(chan struct{}, bindWorkers), attempts: map[Address]*attempt{},
	}
}

// want is told of a VF that should be bound and is not, each time one is looked at, and starts what is due. It returns why the VF
// is not bound, for people.
func (b *binder) want(f *Function, now time.Time) string {
	switch {
	case b.observe:
		return fmt.Sprintf("driver %s does not hold it, and -bind=false leaves that to others", b.host.dpdkDriver)
	case f.Driver != "" && f.Driver != f.Family.VFDriver && !b.steal:
		b.forget(f.Address)
		return fmt.Sprintf("driver %s holds it, and is left alone without -steal", f.Driver)
	case !exists(filepath.Join(b.host.sysfs, "bus/pci/drivers", b.host.dpdkDriver)):
		b.forget(f.Address)
		return fmt.Sprintf("driver %s is not loaded: modprobe %[1]s", b.host.dpdkDriver)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.attempts[f.Address]
	if t == nil || t.incarnation != f.incarnation {
		t = &attempt{incarnation: f.incarnation}
		b.attempts[f.Address] = t
		b.start(f, t, b.bind)
		return t.reason(b.host.dpdkDriver)
	}
	switch {
	case now.Before(t.at):
	case t.phase == phaseAsked && t.asked <= len(askAgain):
		b.start(f, t, b.probe)
	case t.phase == phaseAsked:
		b.start(f, t, b.giveUp)
	case t.phase == phaseFailed:
		b.start(f, t, b.bind)
	}
	return t.reason(b.host.dpdkDriver)
}

// forget drops what is known of a VF that is bound, gone or not wanted.
func (b *binder) forget(a Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.attempts, a)
}

// settled is told of a VF that the driver has and whose node is not there. When its time is over it holds no place and wakes nobody.
func (b *binder) settled(a Address, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.attempts[a]
	if t == nil || t.phase == phaseRunning {
		return
	}
	if end := t.taken.Add(bindPatience); now.Before(end) {
		t.at = end // and not when the kernel would be asked again
		return
	}
	delete(b.attempts, a)
}

// current tells whether an attempt is still that of its VF: it is not after the VF went or was made anew.
func (b *binder) current(t *attempt) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts[t.device.Address] == t
}

// due lists the VFs that are to be looked at by now, and says when the next one is, which may be past; zero: none.
func (b *binder) due(now time.Time) (list []Address, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, t := range b.attempts {
		if t.phase == phaseRunning || t.phase == phaseDry {
			continue
		}
		next = earlier(next, t.at)
		if !now.Before(t.at) {
			list = append(list, a)
		}
	}
	return list, next
}

// retry makes every VF whose bind failed due at once: the cause may have gone.
func (b *binder) retry(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.attempts {
		if t.phase == phaseFailed {
			t.at = now
		}
	}
}

// underWay lists the VFs that are on their way to the driver for the first time.
func (b *binder) underWay() (list []Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, t := range b.attempts {
		if (t.phase == phaseRunning || t.phase == phaseAsked) && t.failures == 0 {
			list = append(list, a)
		}
	}
	return list
}

// wait returns when no job is running. The context that the binder was made with should have ended.
func (b *binder) wait() { b.jobs.Wait() }

func (t *attempt) reason(driver string) string {
	switch {
	case t.phase == phaseDry:
		return fmt.Sprintf("a dry run does not bind it to %s", driver)
	case t.err != nil:
		return fmt.Sprintf("bind to %s: %v", driver, t.err)
	}
	return fmt.Sprintf("waiting for %s to take it", driver)
}

// start runs a job for the VF beside the fold. b.mu is held.
func (b *binder) start(f *Function, t *attempt, job func(*attempt) error) {
	if t.phase == phaseFailed {
		t.asked = 0
	}
	t.phase, t.err = phaseRunning, nil
	t.asked++
	t.device = *f
	if f.Driver != "" {
		t.from = f.Driver
	}
	b.jobs.Go(func() {
		select {
		case b.slots <- struct{}{}:
		case <-b.ctx.Done():
			return
		}
		err := job(t)
		<-b.slots
		b.ended(t, err)
	})
}

func (b *binder) ended(t *attempt, err error) {
	a := t.device.Address
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attempts[a] != t {
		return
	}
	now := b.now()
	if b.write.Dry {
		t.phase = phaseDry
	} else if err == nil {
		t.phase, t.taken, t.at = phaseAsked, now, now.Add(bindPatience)
		if t.asked <= len(askAgain) {
			t.at = now.Add(askAgain[t.asked-1])
		}
	} else {
		t.phase, t.err = phaseFailed, err
		t.at = now.Add(min(bindBackOff<<min(t.failures, 16), bindBackOffMax))
		t.failures++
		if t.failures == 1 && !absent(err) {
			klog.ErrorS(err, "Binding failed, trying again with back-off", "device", a, "driver", b.host.dpdkDriver, "after", t.at.Sub(now))
		} else {
			klog.V(2).InfoS("Binding failed", "device", a, "driver", b.host.dpdkDriver, "err", err, "failures", t.failures, "after", t.at.Sub(now))
		}
	}
	b.done(a)
}
