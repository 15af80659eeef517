// SPDX-License-Identifier: Apache-2.0

// Package health monitors the health of QAT functions. Heartbeats and RAS counters of PFs are
// polled, PCI errors of PFs and VFs are taken from uevents.
//
// Reading heartbeat/status in debugfs performs the check. One timer polls all PFs, in one
// goroutine that ends when it has read them. If a PF does not answer, another goroutine reads the
// others, and the PF becomes unhealthy. The poll also notices what the driver changes without an
// event: the state, the services and the error counters.
package health

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/qat/internal/pci"
)

const (
	// readTimeout is how long a goroutine may take to read one PF before another one reads the PFs
	// that are left. The first time, that is found out at the next poll.
	readTimeout = time.Second

	// answerTimeout is how long a PF may take to answer before it is unhealthy.
	answerTimeout = 15 * time.Second

	// maxReaders limits the number of goroutines that read, and with them the threads that the
	// kernel can block. A host has fewer PFs.
	maxReaders = 16
)

// Config configures a [Monitor].
type Config struct {
	Sysfs    string            // root of the host's sysfs
	Interval time.Duration     // time between two polls; PFs are not polled unless it is positive
	Wake     func(pci.Address) // called when a function changed, from any goroutine; must not block
}

// Monitor keeps the health of the functions of a host. All methods may be called from any
// goroutine.
//
// A PF whose heartbeat cannot be read keeps its last verdict. A PCI error is set by an error event
// and ends by itself; see [Monitor.Observe].
type Monitor struct {
	cfg      Config
	poll     func(*files, PF) sample
	responds func(pci.Address) bool
	running  sync.WaitGroup

	mu      sync.Mutex // guards all following fields
	closed  bool
	timer   *time.Timer // calls run
	armed   time.Time   // when the timer fires; zero: never
	next    time.Time   // when the PFs are polled next; zero: not scheduled
	check   time.Time   // when to find out whether readers are blocked; zero: none is busy
	queue   []job       // left to do in this poll
	readers int         // goroutines in work
	// exhausted says that maxReaders are blocked, and that this was logged.
	exhausted bool
	busy      map[pci.Address]*reading
	pfs       map[pci.Address]*pfHealth
	faults    map[pci.Address]fault
}

// PF is a PF as it was last read.
type PF struct {
	Address     pci.Address
	Dir         string        // directory of the PF in sysfs
	Debugfs     string        // directory that the PF's driver has in debugfs
	Incarnation uint64        // differs when the PF went away and one came back at the same address
	Down        bool          // it has no driver, or the driver says that it is not up
	State       string        // qat/state without surrounding white space; "" if there is none
	Services    string        // qat/cfg_services, as State
	VFs         []pci.Address // its VFs
}

// A job is a PF to poll, or a function with a PCI error to look at.
type job struct {
	address pci.Address
	pf      *pfHealth // nil: look at the function
	dirs    PF        // of pf, when it is polled
}

// reading is a read in progress. There is one per address, also if the PF is made anew meanwhile.
type reading struct {
	since   time.Time
	isPoll  bool
	blocked bool // for longer than readTimeout
	failed  bool // for longer than answerTimeout
}

// NewMonitor returns a Monitor that knows no PFs yet. It must be closed.
func NewMonitor(cfg Config) *Monitor {
	look := func(a pci.Address) bool { return responds(cfg.Sysfs, a) }
	return newMonitor(cfg, (*files).poll, look)
}

func newMonitor(cfg Config, poll func(*files, PF) sample, look func(pci.Address) bool) *Monitor {
	m := &Monitor{
		cfg:      cfg,
		poll:     poll,
		responds: look,
		busy:     map[pci.Address]*reading{},
		pfs:      map[pci.Address]*pfHealth{},
		faults:   map[pci.Address]fault{},
	}
	m.timer = time.AfterFunc(time.Hour, m.run)
	m.timer.Stop() // until there is something to do
	return m
}

// Close ends the polls and waits for those in progress. A PF that does not answer can block it.
func (m *Monitor) Close() {
	m.mu.Lock()
	m.closed = true
	m.timer.Stop()
	for a, p := range m.pfs {
		m.closeFiles(a, p)
	}
	m.mu.Unlock()
	m.running.Wait()
}

// closeFiles closes the files of a PF that is not polled any more, unless a reader uses them. The
// reader then closes them.
func (m *Monitor) closeFiles(a pci.Address, p *pfHealth) {
	if m.busy[a] == nil {
		p.files.close()
	}
}

// Track starts to monitor a PF, or updates what is known of it. A PF that is down or was recreated
// starts over as healthy, apart from a PCI error and a poll that is not answered.
func (m *Monitor) Track(pf PF) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pfs[pf.Address]
	if p == nil || p.pf.Incarnation != pf.Incarnation {
		if p != nil {
			m.closeFiles(pf.Address, p)
		}
		p = &pfHealth{fatalBase: -1}
		m.pfs[pf.Address] = p
	}
	p.pf = pf
	p.services = services{pf.State, pf.Services}
	if pf.Down {
		p.restart()
	}
	m.schedule(time.Now())
}

// Forget stops monitoring a PF. It does not end a PCI error; see [Monitor.Observe].
func (m *Monitor) Forget(a pci.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pfs[a]; p != nil {
		m.closeFiles(a, p)
		delete(m.pfs, a)
		m.schedule(time.Now())
	}
}

// Observe takes note of a PCI error or recovery of a function from one of its uevents. It ignores
// other events, such as those of the devices below the function. It neither blocks nor reads files.
//
// PCI errors are the only state that the Monitor takes from events, because sysfs does not show
// whether a function is being recovered. The event of the recovery may be lost. An error therefore
// also ends with the next good heartbeat of the function or its PF, or after faultTimeout if the
// function answers.
func (m *Monitor) Observe(e *events.Event) {
	change, ok := parseFault(e)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if change.reason != "" {
		m.faults[change.address] = fault{reason: change.reason, since: now, look: now.Add(faultTimeout)}
		m.schedule(now)
		return
	}
	delete(m.faults, change.address)
	if p := m.pfs[change.address]; p != nil && change.recovered {
		p.bad, p.failed = 0, false // the recovery ends a failed heartbeat, too
	}
}

// Reason returns why a function must not be used, or "" if it is healthy. The reason of a PF
// applies to its VFs as well.
func (m *Monitor) Reason(a pci.Address) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fault := m.faults[a]; fault.reason != "" {
		return fault.reason
	}
	p := m.pfs[a]
	switch r := m.busy[a]; {
	case p == nil:
		return ""
	case r != nil && r.failed:
		return fmt.Sprintf("is stuck: its heartbeat has not answered for %.0f s", answerTimeout.Seconds())
	}
	return p.reason()
}

// schedule sets the timer for what is due next.
func (m *Monitor) schedule(now time.Time) {
	switch {
	case m.cfg.Interval <= 0 || len(m.pfs) == 0:
		m.next = time.Time{}
	case m.next.IsZero():
		m.next = now.Add(m.cfg.Interval)
	}
	at := earlier(m.next, m.check)
	for _, fault := range m.faults {
		at = earlier(at, fault.look)
	}
	switch {
	case m.closed || at.Equal(m.armed):
		return
	case at.IsZero():
		m.timer.Stop()
	default:
		m.timer.Reset(at.Sub(now))
	}
	m.armed = at
}

// earlier returns the earlier of two times. The zero time means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// run does what is due. The timer calls it in a goroutine of its own.
func (m *Monitor) run() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.running.Add(1)
	defer m.running.Done()
	now := time.Now()
	m.armed = time.Time{}
	m.enqueue(now)
	unhealthy := m.checkReads(now)
	start, exhausted := m.startReader()
	m.check = m.nextCheck(now)
	m.schedule(now)
	m.mu.Unlock()
	if exhausted {
		klog.ErrorS(nil, "Heartbeats are not checked, because the kernel blocks too many reads", "reads", maxReaders)
	}
	m.wake(unhealthy)
	if start {
		m.work()
	}
}

func (m *Monitor) wake(addresses []pci.Address) {
	for _, a := range addresses {
		m.cfg.Wake(a)
	}
}

// enqueue adds what is due to the queue.
func (m *Monitor) enqueue(now time.Time) {
	if !m.next.IsZero() && !now.Before(m.next) {
		m.next = now.Add(m.cfg.Interval)
		m.queue = m.queue[:0] // what is left of the last poll is due again
		for a, p := range m.pfs {
			m.queue = append(m.queue, job{address: a, pf: p})
		}
	}
	for a, fault := range m.faults {
		if !now.Before(fault.look) {
			fault.look = now.Add(faultTimeout)
			m.faults[a] = fault
			m.queue = append(m.queue, job{address: a})
		}
	}
}

// checkReads finds out which reads take too long, and returns the PFs that are unhealthy from now
// on.
func (m *Monitor) checkReads(now time.Time) (unhealthy []pci.Address) {
	for a, r := range m.busy {
		age := now.Sub(r.since)
		r.blocked = age >= readTimeout
		if r.isPoll && !r.failed && age >= answerTimeout {
			r.failed = true
			unhealthy = append(unhealthy, a)
		}
	}
	return unhealthy
}

// startReader reports whether the caller must read what is queued, because all goroutines that read
// are blocked. exhausted reports that there are too many of them, if it was not known before.
func (m *Monitor) startReader() (start, exhausted bool) {
	working := m.readers
	for _, r := range m.busy {
		if r.blocked {
			working--
		}
	}
	switch {
	case len(m.queue) == 0 || working > 0:
		return false, false
	case m.readers == maxReaders:
		m.queue = m.queue[:0] // until the next poll
		exhausted, m.exhausted = !m.exhausted, true
		return false, exhausted
	}
	m.readers++
	m.exhausted = false
	return true, false
}

// nextCheck is when run must look after the reads in progress, at the latest. While no read is
// blocked that is the next poll, usually: each time that is set earlier and then not needed wakes
// idle threads of the process.
func (m *Monitor) nextCheck(now time.Time) (at time.Time) {
	if len(m.queue) > 0 {
		at = now.Add(answerTimeout)
	}
	blocked := false
	for _, r := range m.busy {
		blocked = blocked || r.blocked
		if r.isPoll && !r.failed {
			at = earlier(at, r.since.Add(answerTimeout))
		}
	}
	if blocked && len(m.queue) > 0 {
		at = now.Add(readTimeout)
	}
	return at
}

// work reads what is queued.
func (m *Monitor) work() {
	for {
		j, ok := m.take()
		if !ok {
			return
		}
		if j.pf == nil {
			m.wake(m.finishLook(j.address, m.responds(j.address)))
			continue
		}
		m.wake(m.finishPoll(j, m.poll(&j.pf.files, j.dirs)))
	}
}

// take takes a job from the queue, except for functions that are being read already. Without a job
// the reader ends.
func (m *Monitor) take() (j job, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for len(m.queue) > 0 && !m.closed {
		j, m.queue = m.queue[len(m.queue)-1], m.queue[:len(m.queue)-1]
		if m.busy[j.address] != nil || j.pf != nil && m.pfs[j.address] != j.pf {
			continue
		}
		m.busy[j.address] = &reading{since: now, isPoll: j.pf != nil}
		if j.pf != nil {
			j.dirs = j.pf.pf // Track may change it while the reader runs
		}
		return j, true
	}
	m.readers--
	m.check = m.nextCheck(now)
	m.schedule(now)
	return job{}, false
}

// finishPoll applies the result of a poll and returns the functions that changed.
func (m *Monitor) finishPoll(j job, s sample) (changed []pci.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, p, r := j.address, j.pf, m.busy[j.address]
	delete(m.busy, a)
	if m.closed || m.pfs[a] != p { // the PF was forgotten or recreated in the meantime
		p.files.close()
		if r.failed {
			changed = append(changed, a)
		}
		return changed
	}
	if p.update(s, time.Now()) || r.failed {
		changed = append(changed, a)
	}
	if s.heartbeat != heartbeatGood || len(m.faults) == 0 {
		return changed
	}
	for _, f := range append([]pci.Address{a}, p.pf.VFs...) {
		if fault, ok := m.faults[f]; ok && r.since.After(fault.since) {
			delete(m.faults, f)
			changed = append(changed, f)
		}
	}
	return changed
}

// finishLook applies the result of a look at a function with a PCI error, as finishPoll.
func (m *Monitor) finishLook(a pci.Address, responds bool) (changed []pci.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.busy[a]
	delete(m.busy, a)
	if fault, ok := m.faults[a]; ok && responds && r.since.After(fault.since) {
		delete(m.faults, a)
		changed = append(changed, a)
	}
	return changed
}
