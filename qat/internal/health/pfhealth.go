// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"qatplugin/qat/internal/sysfs"
)

const (
	// failedHeartbeats is the number of failed heartbeats in a row that make a PF unhealthy.
	// One says nothing: the driver reports a failure also when it is asked too soon or is
	// resetting the device (drivers/crypto/intel/qat/qat_common/adf_heartbeat.c).
	failedHeartbeats = 2

	// A PF that fails within flapWindow of its last recovery needs twice as many good
	// heartbeats in a row as the last time to recover, up to maxGoodHeartbeats.
	flapWindow        = 10 * time.Minute
	maxGoodHeartbeats = 64

	// The values of heartbeat/status.
	heartbeatGood   = "0"
	heartbeatFailed = "-1"
)

// pfHealth is what is known of the health of one PF.
type pfHealth struct {
	pf      PF
	reading bool // a reader is running

	polled         bool   // attributes holds the result of a poll
	attributes     string // qat/state and qat/cfg_services at the last poll
	heartbeatInode uint64 // of heartbeat/, which the driver makes when the PF goes up; 0: unknown

	bad, good   int       // failed and good heartbeats in a row
	required    int       // good heartbeats in a row that end the failure
	failed      bool      // the PF failed its heartbeat and has not recovered
	recoveredAt time.Time // last recovery from a failed heartbeat; zero: never

	// fatalBase is qat_ras/errors_fatal at the first poll since the PF came up, or since the plugin
	// started. It is -1 before that poll.
	fatalBase int64
	newFatal  int64 // fatal errors since then
}

// sample is the result of one poll of a PF.
type sample struct {
	attributes     string
	up             bool   // the driver says that the PF is up, or does not say
	heartbeatInode uint64 // 0: there is no directory heartbeat
	heartbeat      string // heartbeat/status; "" if it does not exist or the PF is not up
	fatal          int64  // qat_ras/errors_fatal; -1: it does not exist
}

// restart forgets the failures of a PF, because it was down.
func (p *pfHealth) restart() {
	p.bad, p.good, p.failed = 0, 0, false
	p.fatalBase, p.newFatal = -1, 0
}

func (p *pfHealth) reason() string {
	switch {
	case p.newFatal > 0:
		return fmt.Sprintf("had %d fatal errors (qat_ras/errors_fatal) and must be taken down and up", p.newFatal)
	case p.failed:
		return "failed its heartbeat"
	}
	return ""
}

// read polls a PF. It may block for long and must be called without the lock.
func read(pf PF) sample {
	dir, err := sysfs.OpenDir(pf.Dir)
	if err != nil {
		return sample{}
	}
	defer dir.Close()
	state := attribute(dir, "qat/state")
	attributes := state + "\n" + attribute(dir, "qat/cfg_services")
	s := sample{attributes: attributes, up: state == "" || state == "up", fatal: -1}
	heartbeat, err := sysfs.OpenDir(filepath.Join(pf.Debugfs, "heartbeat"))
	if err == nil {
		defer heartbeat.Close()
		s.heartbeatInode, _ = heartbeat.Inode(".")
	}
	if n, err := strconv.ParseInt(attribute(dir, "qat_ras/errors_fatal"), 10, 64); err == nil {
		s.fatal = n
	}
	if s.up && err == nil {
		s.heartbeat = attribute(heartbeat, "status")
	}
	return s
}

// attribute returns the first line of an attribute, or "" if it cannot be read.
func attribute(dir sysfs.Dir, name string) string {
	text, _ := dir.Read(name)
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// update applies the result of a poll and reports whether the PF changed.
func (p *pfHealth) update(s sample, now time.Time) (changed bool) {
	before := p.reason()
	changed = p.polled && p.attributes != s.attributes
	p.polled, p.attributes = true, s.attributes
	if s.heartbeatInode != 0 { // the old one is kept while the PF is down
		if p.heartbeatInode != 0 && p.heartbeatInode != s.heartbeatInode {
			p.restart()
			changed = true
		}
		p.heartbeatInode = s.heartbeatInode
	}
	if s.up {
		p.updateFatal(s.fatal)
		p.updateHeartbeat(s.heartbeat, now)
	}
	return changed || p.reason() != before
}

func (p *pfHealth) updateFatal(fatal int64) {
	switch {
	case fatal < 0:
	case p.fatalBase < 0 || fatal < p.fatalBase:
		p.fatalBase = fatal // the device, and with it the counter, started over
	case fatal > p.fatalBase:
		p.newFatal = fatal - p.fatalBase
	}
}

func (p *pfHealth) updateHeartbeat(status string, now time.Time) {
	switch status {
	case heartbeatFailed:
		p.bad, p.good = p.bad+1, 0
		if p.failed || p.bad < failedHeartbeats {
			return
		}
		p.failed = true
		if now.Sub(p.recoveredAt) < flapWindow {
			p.required = min(2*p.required, maxGoodHeartbeats)
		} else {
			p.required = 1
		}
	case heartbeatGood:
		p.bad, p.good = 0, p.good+1
		if p.failed && p.good >= p.required {
			p.failed, p.recoveredAt = false, now
		}
	}
}
