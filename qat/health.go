package qat

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// heartbeatsToFail is how many reads in a row must fail: one says nothing, as the driver also answers -1 when it is asked too soon
	// or is resetting (drivers/crypto/intel/qat/qat_common/adf_heartbeat.c).
	heartbeatsToFail = 2
	// A PF that fails again within flapWindow of its recovery needs twice as many good reads as before to be healthy, flapMax at most.
	flapWindow = 10 * time.Minute
	flapMax    = 64
)

// health asks the PFs how they are, each on a timer and with one reader: reading heartbeat/status performs the check, and the driver refuses to
// do that often. It also sees what the driver changes without an event: the state, the services and the error counters.
//
// A PF that does not answer its reader keeps that reader waiting, and nobody else.
type health struct {
	sysfs    string
	interval time.Duration      // 0: never
	mark     func(Address)      // called from other goroutines when a PF is otherwise than it was
	answered func(Address) bool // is told that a PF answered its heartbeat; true: something that was wrong with it is over
	now      func() time.Time

	at      time.Time // of the next turn; zero: nobody to ask
	readers sync.WaitGroup
	mu      sync.Mutex // guards what follows
	pfs     map[Address]*pulse
}

// A pulse is what is known of how one PF is.
type pulse struct {
	dir, debugfs string
	incarnation  uint64
	reading      bool

	attributes string // qat/state and qat/cfg_services as they were read last
	read       bool   // attributes holds something
	up         uint64 // differs when the PF was down and is up again; 0: not known

	bad, good int       // heartbeats that failed, or not, in a row
	need      int       // good heartbeats that make it healthy again
	recovered time.Time // when it was healthy again last
	failed    bool      // its heartbeat

	fatal     int64 // errors_fatal when the PF came up; -1: not known
	corrupted int64 // fatal errors since; 0: none
}

// follow is told of each PF that is read.
func (h *health) follow(f *Function) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pfs[f.Address]
	if p == nil || p.incarnation != f.incarnation {
		p = &pulse{incarnation: f.incarnation, need: 1, fatal: -1}
		h.pfs[f.Address] = p
	}
	p.dir, p.debugfs = f.Dir, filepath.Join(h.sysfs, f.debugfs())
	if f.Driver == "" || f.State != "" && f.State != "up" {
		p.restart()
	}
}

// restart forgets what was wrong: the PF was down.
func (p *pulse) restart() {
	p.bad, p.good, p.failed = 0, 0, false
	p.fatal, p.corrupted = -1, 0
}

func (h *health) forget(a Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pfs, a)
}

// recover is told that the kernel brought the PF back after an error.
func (h *health) recover(a Address) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pfs[a]; p != nil {
		p.bad, p.failed = 0, false
	}
}

// reason is why the VFs of the PF must not be used, "" when they may.
func (h *health) reason(a Address) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pfs[a]; p != nil {
		return p.reason()
	}
	return ""
}

func (p *pulse) reason() string {
	switch {
	case p.corrupted > 0:
		return fmt.Sprintf("had %d fatal errors (qat_ras/errors_fatal) and must be taken down and up", p.corrupted)
	case p.failed:
		return "failed its heartbeat"
	}
	return ""
}

// next is when turn has something to do; zero: never.
func (h *health) next(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.interval <= 0 || len(h.pfs) == 0:
		h.at = time.Time{}
	case h.at.IsZero():
		h.at = now.Add(h.interval)
	}
	return h.at
}

// turn asks every PF that is not being asked, when it is time to.
func (h *health) turn(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() || now.Before(h.at) {
		return
	}
	h.at = time.Time{} // next plans the one after
	for a, p := range h.pfs {
		if p.reading {
			continue
		}
		p.reading = true
		h.readers.Go(func() { h.ask(a, p) })
	}
}

// wait returns when no reader is left.
func (h *health) wait() { h.readers.Wait() }

// An answer is what one reading of a PF said.
type answer struct {
	attributes string
	up         uint64
	isUp       bool
	heartbeat  string // heartbeat/status; "" when there is none
	fatal      int64  // qat_ras/errors_fatal; -1 when there is none
}

func (h *health) ask(a Address, p *pulse) {
	got := h.read(p.dir, p.debugfs)
	h.mu.Lock()
	defer h.mu.Unlock()
	p.reading = false
	if h.pfs[a] != p {
		return
	}
	before := p.reason()
	changed := p.read && p.attributes != got.attributes
	if got.isUp && got.heartbeat == "0" && h.answered(a) {
		changed = true
	}
	p.attributes, p.read = got.attributes, true
	if p.up != 0 && got.up != 0 && p.up != got.up {
		p.restart()
		changed = true
	}
	if got.up != 0 { // kept while the directory is away, so that its return is seen
		p.up = got.up
	}
	if got.isUp {
		p.count(got.fatal)
		p.beat(got.heartbeat, h.now())
	}
	if changed || p.reason() != before {
		h.mark(a)
	}
}

// read never holds h.mu: each of its reads may take long.
func (h *health) read(dir, debugfs string) answer {
	text := func(elem ...string) string {
		data, err := os.ReadFile(filepath.Join(elem...))
		if err != nil {
			return ""
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
		return line
	}
	state := text(dir, "qat/state")
	got := answer{attributes: state + "\n" + text(dir, "qat/cfg_services"), isUp: state == "" || state == "up", fatal: -1}
	if d, err := openDirectory(filepath.Join(debugfs, "heartbeat")); err == nil {
		got.up, _ = d.inode(".")
		d.close()
	}
	if n, err := strconv.ParseInt(text(dir, "qat_ras/errors_fatal"), 10, 64); err == nil {
		got.fatal = n
	}
	if got.isUp {
		got.heartbeat = text(debugfs, "heartbeat/status")
	}
	return got
}

func (p *pulse) count(fatal int64) {
	switch {
	case fatal < 0:
	case p.fatal < 0 || fatal < p.fatal:
		p.fatal = fatal // the counter begins anew with the device
	case fatal > p.fatal:
		p.corrupted = fatal - p.fatal
	}
}

func (p *pulse) beat(status string, now time.Time) {
	switch status {
	case "-1":
		p.bad, p.good = p.bad+1, 0
		if p.failed || p.bad < heartbeatsToFail {
			return
		}
		p.failed = true
		if !p.recovered.IsZero() && now.Sub(p.recovered) < flapWindow {
			p.need = min(2*p.need, flapMax)
		} else {
			p.need = 1
		}
	case "0":
		p.bad, p.good = 0, p.good+1
		if p.failed && p.good >= p.need {
			p.failed, p.recovered = false, now
		}
	}
}
