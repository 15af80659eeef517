// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
)

// runAudit compares the suspects that are due with the host again, and reports those that still
// differ as drift. If the batch asks for an audit, it then looks for new suspects. A PF usually has
// a lower address than its VFs. Its update then also corrects its VFs, and the drift counts once.
func (c *controller) runAudit(b *hostwatch.Batch[Key], now time.Time) {
	var due []pci.Address
	for address, at := range c.suspects {
		if !now.Before(at) {
			due = append(due, address)
		}
	}
	slices.SortFunc(due, pci.Address.Compare)
	for _, address := range due {
		delete(c.suspects, address)
		differing, unread := c.functions.compare([]pci.Address{address})
		if len(unread) > 0 {
			c.suspects[address] = now.Add(hostwatch.AuditGrace)
		}
		if len(differing) > 0 {
			key := Key{address: address}
			before := c.Outcome(key)
			c.functions.expire(address)
			c.update([]pci.Address{address}, nil, now)
			c.drift.Report(b.MayMissEvents, "device", address, "before", before, "now", c.Outcome(key))
			if !b.MayMissEvents {
				c.recorder.keepDrift()
			}
		}
	}
	if b.Audit {
		c.findSuspects(now)
	}
}

// findSuspects compares all functions with the host. Those that differ become suspects, because an
// event may still be under way. If no event comes, either an event was lost without notice, or the
// host changed something that no event reports. A function that cannot be read now is left to the
// next audit.
func (c *controller) findSuspects(now time.Time) {
	addresses, err := c.functions.all()
	if err != nil {
		klog.ErrorS(err, "Cannot audit the host")
		return
	}
	addresses = slices.DeleteFunc(addresses, func(a pci.Address) bool {
		_, suspect := c.suspects[a]
		return suspect
	})
	differing, _ := c.functions.compare(addresses)
	for _, a := range differing {
		c.suspects[a] = now.Add(hostwatch.AuditGrace)
	}
	klog.V(2).InfoS("Audited the host", "functions", len(c.functions.known), "differing", len(c.suspects),
		"driftTotal", c.drift.Total())
}
