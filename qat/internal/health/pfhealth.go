// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"time"

	"qatplugin/internal/status"
)

const (
	// doubtfulHeartbeats is the number of doubtful heartbeats in a row that make a PF unhealthy.
	// One heartbeat that certainly failed is enough.
	doubtfulHeartbeats = 2

	// A PF that fails within flapWindow of its last recovery needs twice as many good
	// heartbeats in a row as the last time to recover, up to maxGoodHeartbeats.
	flapWindow        = 10 * time.Minute
	maxGoodHeartbeats = 64
)

// pfHealth is the health of one PF.
type pfHealth struct {
	pf    PF
	files files // belongs to the reader while one polls the PF

	services       services // from the last Track or poll
	heartbeatInode uint64   // of heartbeat/, which the driver creates when the PF goes up; 0: unknown

	bad, good   int       // doubtful or failed, and good heartbeats in a row
	required    int       // good heartbeats in a row that end the failure
	failed      bool      // the PF failed its heartbeat and has not recovered
	recoveredAt time.Time // last recovery from a failed heartbeat; zero: never

	// fatalBase is qat_ras/errors_fatal at the first poll since the PF came up, or since the plugin
	// started. It is -1 before that poll.
	fatalBase int64
	newFatal  int64 // fatal errors since then

	heartbeats Heartbeats
}

// Heartbeats count the heartbeat checks of a PF since it is known.
type Heartbeats struct {
	Last         string    // result of the last check: "good", "failed" or "unknown"; "" if there was none
	At           time.Time // when the last check ended; zero if there was none
	Good, Failed uint64
}

// count counts a check. It also counts a doubtful check as failed.
func (h *Heartbeats) count(result heartbeat, now time.Time) {
	h.At = now
	switch result {
	case heartbeatGood:
		h.Last = "good"
		h.Good++
	case heartbeatDoubtful, heartbeatFailed:
		h.Last = "failed"
		h.Failed++
	default:
		h.Last = "unknown"
	}
}

// restart forgets the failures of a PF, because it was down.
func (p *pfHealth) restart() {
	p.bad, p.good, p.failed = 0, 0, false
	p.fatalBase, p.newFatal = -1, 0
}

func (p *pfHealth) reason() status.Reason {
	switch {
	case p.newFatal > 0:
		const text = "had %d fatal %s (qat_ras/errors_fatal) and must be taken down and up"
		noun := "errors"
		if p.newFatal == 1 {
			noun = "error"
		}
		return status.Reason{Class: status.ClassFatalError, Text: fmt.Sprintf(text, p.newFatal, noun)}
	case p.failed:
		return status.Reason{Class: status.ClassHeartbeat, Text: "failed its heartbeat"}
	}
	return status.Reason{}
}

// update applies the result of a poll and reports whether the PF changed.
func (p *pfHealth) update(s sample, now time.Time) (changed bool) {
	before := p.reason()
	if !s.unknown {
		changed = p.services != s.services
		p.services = s.services
	}
	if s.heartbeatInode != 0 { // 0 while the PF is down: keep the old inode
		if p.heartbeatInode != 0 && p.heartbeatInode != s.heartbeatInode {
			p.restart()
			changed = true
		}
		p.heartbeatInode = s.heartbeatInode
	}
	if s.services.isUp() {
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

func (p *pfHealth) updateHeartbeat(h heartbeat, now time.Time) {
	p.heartbeats.count(h, now)
	switch h {
	case heartbeatDoubtful, heartbeatFailed:
		p.bad, p.good = p.bad+1, 0
		if p.failed || h == heartbeatDoubtful && p.bad < doubtfulHeartbeats {
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
