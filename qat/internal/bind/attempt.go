// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"fmt"
	"time"
)

const (
	// driverTimeout is how long the driver may take to appear after the last request. On sysfs
	// it usually has the VF when the write returns; a deferred probe takes longer.
	driverTimeout = time.Second

	// A VF that failed to bind is tried again after minBackOff, which doubles with each
	// further failure up to maxBackOff.
	minBackOff = time.Second
	maxBackOff = 5 * time.Minute
)

// probeDelays are the waits before the kernel is asked again to probe a VF that no driver has
// taken. The first request may come before the kernel allows drivers to bind to a new VF
// (drivers/pci/bus.c, pci_bus_add_device), and then has no effect and returns no error.
var probeDelays = [...]time.Duration{
	1 * time.Millisecond,
	10 * time.Millisecond,
	100 * time.Millisecond,
}

// maxProbes is how often the kernel is asked to probe a VF before the attempt is given up.
const maxProbes = 1 + len(probeDelays)

// attempt is the state of one VF on its way to the driver. It lasts over any number of tries,
// until the VF is forgotten or made anew. In phaseWriting it belongs to the worker.
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

// probed records that the kernel accepted a request to probe the VF.
func (t *attempt) probed(now time.Time) {
	t.phase, t.probedAt = phaseProbing, now
	wait := driverTimeout
	if t.probes < len(probeDelays) {
		wait = probeDelays[t.probes]
	}
	t.probes++
	t.next = now.Add(wait)
}

// fail records that a try failed.
func (t *attempt) fail(err error, now time.Time) {
	t.phase, t.err = phaseFailed, err
	doublings := min(t.failures, 16) // more would overflow
	t.next = now.Add(min(minBackOff<<doublings, maxBackOff))
	t.failures++
}

// reason returns why the VF is not bound to the driver.
func (t *attempt) reason(driver string) string {
	switch t.phase {
	case phaseDryRun:
		return fmt.Sprintf("dry run: not bound to %s", driver)
	case phaseFailed:
		return fmt.Sprintf("bind to %s: %v", driver, t.err)
	}
	return fmt.Sprintf("waiting for %s to bind", driver)
}
