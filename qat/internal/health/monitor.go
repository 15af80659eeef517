// SPDX-License-Identifier: Apache-2.0

// Package health monitors the health of QAT functions. It polls the heartbeats and RAS counters of
// PFs, and takes the PCI errors of PFs and VFs from uevents.
//
// Reading heartbeat/status in debugfs makes the driver check the device. One timer starts a poll of
// all PFs, in one goroutine that ends after the poll. If a read of a PF does not return, another
// goroutine reads the other PFs, and the PF becomes unhealthy. The poll also detects changes that
// the driver makes without an event: of the state, the services and the error counters.
package health

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/pci"
)

const (
	// readTimeout is how long a goroutine may take to read one PF before another goroutine reads
	// the remaining PFs. The Monitor detects the first such read at the next poll.
	readTimeout = time.Second

	// answerTimeout is how long the reads of a PF may take before it becomes unhealthy.
	answerTimeout = 15 * time.Second

	// maxReaders limits the number of goroutines that read, and thereby the number of threads that
	// the kernel can block. Few hosts have as many PFs.
	maxReaders = 16
)

// Config configures a [Monitor].
type Config struct {
	Sysfs    string            // root of the host's sysfs
	Interval time.Duration     // time between two polls; 0 or less: no polls
	Wake     func(pci.Address) // called when a function changed, from any goroutine; must not block
}

// Monitor tracks the health of the functions of a host. All methods may be called from any
// goroutine.
//
// While the heartbeat of a PF cannot be read, the result of the last heartbeat applies. A PCI error
// starts with an error event and ends without further action; see [Monitor.Observe].
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
	check   time.Time   // when to check whether readers are blocked; zero: no reads in progress
	queue   []job       // remaining jobs of this poll
	readers int         // number of goroutines in work
	// exhausted reports that maxReaders goroutines are blocked, and that this was logged.
	exhausted bool
	busy      map[pci.Address]*reading
	pfs       map[pci.Address]*pfHealth
	faults    map[pci.Address]fault
}

// PF is a PF as it was last read.
type PF struct {
	Address     pci.Address
	Dir         string        // directory of the PF in sysfs
	Debugfs     string        // directory of the PF's driver in debugfs
	Incarnation uint64        // changes when another PF gets the address
	Down        bool          // the PF has no driver, or its driver reports that it is not up
	State       string        // qat/state without surrounding white space; "" if it does not exist
	Services    string        // qat/cfg_services, in the same form
	VFs         []pci.Address // its VFs
}

// A job is a PF to poll, or a function with a PCI error to check.
type job struct {
	address pci.Address
	pf      *pfHealth // nil: check whether the function responds
	dirs    PF        // pf.pf at the start of the poll
}

// reading is a read in progress. There is one per address, even if the PF is recreated meanwhile.
type reading struct {
	since   time.Time
	isPoll  bool
	blocked bool // for longer than readTimeout
	failed  bool // for longer than answerTimeout
}

// NewMonitor returns a Monitor without PFs. The caller must close it.
func NewMonitor(cfg Config) *Monitor {
	return newMonitor(cfg, (*files).poll, func(a pci.Address) bool { return responds(cfg.Sysfs, a) })
}

func newMonitor(cfg Config, poll func(*files, PF) sample, responds func(pci.Address) bool) *Monitor {
	m := &Monitor{
		cfg:      cfg,
		poll:     poll,
		responds: responds,
		busy:     map[pci.Address]*reading{},
		pfs:      map[pci.Address]*pfHealth{},
		faults:   map[pci.Address]fault{},
	}
	m.timer = time.AfterFunc(time.Hour, m.run)
	m.timer.Stop() // until there is something to do
	return m
}

// Close ends the polls and waits for those in progress. A read that does not return blocks Close.
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

// closeFiles closes the files of a PF that is no longer polled. If a poll uses them, its reader
// closes them instead. A look at a function with a PCI error does not use them.
func (m *Monitor) closeFiles(a pci.Address, p *pfHealth) {
	if r := m.busy[a]; r == nil || !r.isPoll {
		p.files.close()
	}
}

// Track starts to monitor a PF, or updates its description. A PF that is down or was recreated
// becomes healthy, unless it has a PCI error or a read of it does not return.
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

// Observe records a PCI error or recovery that a uevent of a function reports. It ignores other
// events, such as those of devices below the function. It neither blocks nor reads files.
//
// PCI errors are the only state that the Monitor takes from events, because sysfs does not show
// whether a function is being recovered. The event of the recovery may be lost. An error therefore
// also ends with the next good heartbeat of the function or its PF, or after faultTimeout if the
// function then responds.
func (m *Monitor) Observe(e *events.Event) {
	change, ok := parseFault(e)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if change.reason != "" {
		m.faults[change.address] = fault{reason: change.reason, since: now, check: now.Add(faultTimeout)}
		m.schedule(now)
		return
	}
	delete(m.faults, change.address)
	if p := m.pfs[change.address]; p != nil && change.recovered {
		p.bad, p.failed = 0, false // the recovery ends a failed heartbeat, too
	}
}

// Reason returns why a function must not be used, or the zero Reason if it is healthy. The reason
// of a PF applies to its VFs as well.
func (m *Monitor) Reason(a pci.Address) status.Reason {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fault := m.faults[a]; fault.reason != "" {
		return status.Reason{Class: status.ClassPCIError, Text: fault.reason}
	}
	p := m.pfs[a]
	switch r := m.busy[a]; {
	case p == nil:
		return status.Reason{}
	case r != nil && r.failed:
		return status.Reason{
			Class: status.ClassHeartbeat,
			Text:  fmt.Sprintf("is stuck: its heartbeat has not answered for %.0f s", answerTimeout.Seconds()),
		}
	}
	return p.reason()
}

// Heartbeats returns the counts of a PF, or the zero value if the PF is not monitored.
func (m *Monitor) Heartbeats(pf pci.Address) Heartbeats {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pfs[pf]; p != nil {
		return p.heartbeats
	}
	return Heartbeats{}
}

// schedule sets the timer to the next time at which run has something to do.
func (m *Monitor) schedule(now time.Time) {
	switch {
	case m.cfg.Interval <= 0 || len(m.pfs) == 0:
		m.next = time.Time{}
	case m.next.IsZero():
		m.next = now.Add(m.cfg.Interval)
	}
	at := earlier(m.next, m.check)
	for _, fault := range m.faults {
		at = earlier(at, fault.check)
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

// run queues the jobs that are due and works on them unless another goroutine does. The timer calls
// it in a goroutine of its own.
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
		klog.ErrorS(nil, "Not checking heartbeats, because the kernel blocks too many reads", "reads", maxReaders)
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

// enqueue adds the jobs that are due to the queue.
func (m *Monitor) enqueue(now time.Time) {
	if !m.next.IsZero() && !now.Before(m.next) {
		m.next = now.Add(m.cfg.Interval)
		m.queue = m.queue[:0] // this poll includes the remaining jobs of the last one
		for a, p := range m.pfs {
			m.queue = append(m.queue, job{address: a, pf: p})
		}
	}
	for a, fault := range m.faults {
		if !now.Before(fault.check) {
			fault.check = now.Add(faultTimeout)
			m.faults[a] = fault
			m.queue = append(m.queue, job{address: a})
		}
	}
}

// checkReads marks the reads that take too long, and returns the PFs that become unhealthy because
// of that.
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

// startReader reports whether the caller must work on the queue, because all other readers are
// blocked. exhausted reports that maxReaders are blocked, so that no reader can start. It is true
// only once until a reader starts again.
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

// nextCheck returns the latest time at which run must check the reads in progress. While no read is
// blocked, that is answerTimeout after the start of a read, which is usually later than the next
// poll. A timer that is set earlier, and then not needed, would wake idle threads of the process.
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

// work takes and runs jobs until the queue is empty.
func (m *Monitor) work() {
	for {
		j, ok := m.take()
		if !ok {
			return
		}
		if j.pf == nil {
			m.wake(m.finishCheck(j.address, m.responds(j.address)))
			continue
		}
		m.wake(m.finishPoll(j, m.poll(&j.pf.files, j.dirs)))
	}
}

// take removes the next job from the queue. It drops the jobs of functions that are already being
// read. ok is false if no job is left; the reader must then end.
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

// finishCheck applies the result of checking a function with a PCI error. It returns the functions
// that changed.
func (m *Monitor) finishCheck(a pci.Address, responds bool) (changed []pci.Address) {
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
