// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
)

// An audit compares the host with what events made known. They are the same unless an event was
// lost without notice, or the host changed something that no event reports.
type audit struct {
	suspects map[pci.Address]time.Time // functions that differed → when to compare them again
	drift    hostwatch.Drift
}

// eventSeen takes note that events named these functions: a difference there is not drift.
func (a *audit) eventSeen(addresses []pci.Address) {
	for _, address := range addresses {
		delete(a.suspects, address)
	}
}

// next is when a suspect must be compared again; zero: never.
func (a *audit) next() time.Time {
	var next time.Time
	for _, at := range a.suspects {
		next = hostwatch.Earlier(next, at)
	}
	return next
}

// runAudit compares suspects again whose time has come, and everything if an audit is due.
func (c *controller) runAudit(b *hostwatch.Batch[Key], now time.Time) {
	for address, at := range c.audit.suspects {
		if now.Before(at) {
			continue
		}
		delete(c.audit.suspects, address)
		if c.functions.differs(address) {
			key := Key{address: address}
			before := c.Outcome(key)
			c.update([]pci.Address{address}, now)
			c.audit.drift.Report(b.Limited, "device", address, "before", before, "now", c.Outcome(key))
		}
	}
	if b.Audit {
		c.findSuspects(now)
	}
}

// findSuspects compares everything with what is known.
func (c *controller) findSuspects(now time.Time) {
	addresses, err := c.functions.all()
	if err != nil {
		klog.ErrorS(err, "Cannot audit the host")
		return
	}
	for _, address := range addresses {
		if _, suspect := c.audit.suspects[address]; !suspect && c.functions.differs(address) {
			c.audit.suspects[address] = now.Add(hostwatch.AuditGrace)
		}
	}
	klog.V(2).InfoS("Audited the host", "functions", len(c.functions.known), "differing", len(c.audit.suspects),
		"driftTotal", c.audit.drift.Total())
}
