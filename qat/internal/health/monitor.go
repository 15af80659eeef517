// SPDX-License-Identifier: Apache-2.0

// Package health monitors the health of QAT functions. Heartbeats and RAS counters of PFs are
// polled, PCI errors of PFs and VFs are taken from uevents.
//
// Reading heartbeat/status in debugfs performs the check, and the driver refuses to do that
// often. A [Monitor] therefore polls each PF on a timer, and no more than one reader uses a PF
// at a time. A PF that does not answer blocks only its own reader. The poll also notices what the
// driver changes without an event: the state, the services and the error counters.
package health

import (
	"sync"
	"time"

	"qatplugin/events"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// Config configures a [Monitor].
type Config struct {
	Interval time.Duration     // time between two polls; PFs are not polled unless it is positive
	Wake     func(pci.Address) // called in a reader's goroutine when a poll found a PF changed
	Now      func() time.Time  // the clock, usually time.Now
}

// Monitor keeps the health of the functions of a host. All methods may be called from any
// goroutine.
//
// A PF whose heartbeat cannot be read, or whose reader hangs, keeps its last verdict. A PCI error
// is set by an error event. It ends with a recovery, add, remove or bind event of the same
// function, and for a PF also with its next good heartbeat.
type Monitor struct {
	cfg     Config
	read    func(PF) sample
	readers sync.WaitGroup

	mu        sync.Mutex // guards all following fields
	next      time.Time  // when the PFs are polled next; zero: not scheduled
	pfs       map[pci.Address]*pfHealth
	aerErrors map[pci.Address]string // functions with a PCI error that has not ended → reason
}

// PF is a PF as it was last read.
type PF struct {
	Address     pci.Address
	Dir         string // directory of the PF in sysfs
	Debugfs     string // directory that the PF's driver has in debugfs
	Incarnation uint64 // differs when the PF went away and one came back at the same address
	Down        bool   // it has no driver, or the driver says that it is not up
}

// NewMonitor returns a Monitor that knows no PFs yet.
func NewMonitor(cfg Config) *Monitor { return newMonitor(cfg, read) }

func newMonitor(cfg Config, read func(PF) sample) *Monitor {
	return &Monitor{cfg: cfg, read: read, pfs: map[pci.Address]*pfHealth{}, aerErrors: map[pci.Address]string{}}
}

// Track starts to monitor a PF, or updates what is known of it. A PF that is down or was recreated
// starts over as healthy, apart from a PCI error; see [Monitor].
func (m *Monitor) Track(pf PF) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pfs[pf.Address]
	if p == nil || p.pf.Incarnation != pf.Incarnation {
		p = &pfHealth{fatalBase: -1}
		m.pfs[pf.Address] = p
	}
	p.pf = pf
	if pf.Down {
		p.restart()
	}
}

// Forget stops monitoring a PF. It does not end a PCI error; see [Monitor].
func (m *Monitor) Forget(a pci.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pfs, a)
}

// Observe takes note of a PCI error or recovery of a function from one of its uevents. It ignores
// other events, such as those of the devices below the function. It neither blocks nor reads files.
//
// PCI errors are the only state that the Monitor takes from events, because sysfs does not show
// whether a function is being recovered (drivers/pci/pci-driver.c, pci_uevent_ers).
func (m *Monitor) Observe(e *events.Event) {
	a, ok := pci.Parse(sysfs.Base(e.Path))
	if e.Origin != events.Uevent || !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kind, online := string(e.Get("ERROR_EVENT")), string(e.Get("DEVICE_ONLINE"))
	switch {
	case e.Action == events.Add, e.Action == events.Remove, e.Action == events.Bind:
		delete(m.aerErrors, a) // another function, or another driver instance
	case kind == "SUCCESSFUL_RECOVERY" || kind == "" && online == "1":
		delete(m.aerErrors, a)
		if p := m.pfs[a]; p != nil {
			p.bad, p.failed = 0, false // the recovery ends a failed heartbeat, too
		}
	case kind == "FAILED_RECOVERY":
		m.aerErrors[a] = "had a PCI error and could not be recovered"
	case kind == "BEGIN_RECOVERY" || online == "0":
		m.aerErrors[a] = "had a PCI error and is being recovered"
	}
}

// Reason returns why a function must not be used, or "" if it is healthy. The reason of a PF
// applies to its VFs as well.
func (m *Monitor) Reason(a pci.Address) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if reason := m.aerErrors[a]; reason != "" {
		return reason
	}
	if p := m.pfs[a]; p != nil {
		return p.reason()
	}
	return ""
}

// Next returns when [Monitor.Poll] must be called next, or the zero time if there is nothing to
// poll.
func (m *Monitor) Next() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.next
}

// Poll starts a reader for each PF if a poll is due, and schedules the next poll. It is called
// after each change of what the Monitor tracks. It skips PFs whose last reader has not returned,
// and does not wait for the readers.
func (m *Monitor) Poll(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	due := !m.next.IsZero() && !now.Before(m.next)
	switch {
	case m.cfg.Interval <= 0 || len(m.pfs) == 0:
		m.next = time.Time{}
		return
	case due || m.next.IsZero():
		m.next = now.Add(m.cfg.Interval)
	}
	if !due {
		return
	}
	for _, p := range m.pfs {
		if p.reading {
			continue
		}
		p.reading = true
		pf := p.pf // Track may change p.pf while the reader runs
		m.readers.Go(func() {
			if m.update(p, m.read(pf)) {
				m.cfg.Wake(pf.Address)
			}
		})
	}
}

// Wait waits for all readers. A PF that does not answer can block it.
func (m *Monitor) Wait() { m.readers.Wait() }

// update applies what a reader found and reports whether the PF changed.
func (m *Monitor) update(p *pfHealth, s sample) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.reading = false
	a := p.pf.Address
	if m.pfs[a] != p {
		return false // the PF was forgotten or recreated in the meantime
	}
	changed = p.update(s, m.cfg.Now())
	if m.aerErrors[a] != "" && s.heartbeat == heartbeatGood {
		delete(m.aerErrors, a)
		changed = true
	}
	return changed
}
