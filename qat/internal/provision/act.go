// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"cmp"
	"fmt"
	"reflect"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

// reconcile starts what must be done about a PF. It returns why the PF is not as its rule wants, or
// "" if it is, or no rule matches.
func (m *mode) reconcile(a pci.Address, pf *pf, now time.Time) string {
	if pf.job != nil {
		return m.blocked(pf, now)
	}
	m.match(a, pf)
	pf.reason = m.act(a, pf, now)
	return pf.reason
}

// act is reconcile for a PF that has no job and whose rule is known.
func (m *mode) act(a pci.Address, pf *pf, now time.Time) string {
	pf.waits = false
	switch {
	case pf.desired == nil:
		m.offer(a, pf)
		return ""
	case pf.readErr != "":
		return pf.readErr
	case m.pool.IsOutstanding(a):
		return pf.reason // until the read returns
	}
	in := &input{facts: pf.facts, desired: *pf.desired, refused: pf.refused, restore: pf.restore}
	p := newPlan(in, &m.rules)
	if p.wait != "" || len(p.writes) == 0 {
		pf.restore = pf.restore && p.wait != ""
		pf.waits = p.wait != ""
		pf.removal = removal{}
		pf.attempts.reached()
		if m.cfg.Writer.DryRun() {
			pf.logged = ""
		}
		m.offer(a, pf)
		return cmp.Or(p.wait, p.unmet)
	}
	return m.carryOut(a, pf, &p, now)
}

// match finds the rule of a PF. A PF with another rule than before starts over.
func (m *mode) match(a pci.Address, pf *pf) {
	var d *config.Desired
	var rule string
	if m.config != nil {
		found, name, ok := m.config.Desired(config.PF{Address: a, NUMANode: pf.facts.numaNode, Family: pf.facts.family})
		if ok && !reflect.DeepEqual(found, config.Desired{}) { // a rule without settings exempts the PF
			d, rule = &found, name
		}
	}
	if !reflect.DeepEqual(d, pf.desired) {
		pf.refused, pf.restore, pf.attempts = nil, false, attempts{}
		pf.removal, pf.logged, pf.loggedErr, pf.reason = removal{}, "", "", ""
	}
	pf.desired, pf.rule = d, rule
}

// carryOut starts a job for a plan that has writes, unless it must wait. It returns why the PF is
// not as its rule wants.
func (m *mode) carryOut(a pci.Address, pf *pf, p *plan, now time.Time) string {
	f := pf.facts
	if m.cfg.Writer.DryRun() {
		if text := p.String(); text != pf.logged {
			pf.logged = text
			klog.InfoS("Would provision a PF", "pf", a, "rule", pf.rule, "differs", p.differs, "writes", text,
				"removesVFs", p.takedown)
		}
		return ""
	}
	if pf.inTransition(now) {
		return ""
	}
	if at := pf.attempts.next(f, now); now.Before(at) {
		m.offer(a, pf)
		m.wakeAt(at)
		return pf.attempts.reason()
	}
	switch {
	case p.takedown:
		if pf.removal.answered || m.cfg.Force {
			m.withdraw(a, pf, withdrawReason(pf.removal.waiting))
		} else {
			m.offer(a, pf)
		}
		if at := pf.removal.ask.at; now.Before(at) {
			m.wakeAt(at)
			return pf.removal.waiting
		}
	case p.restarts:
		m.withdraw(a, pf, withdrawReason("")) // its new VFs must not be listed with its old services
	default:
		m.offer(a, pf)
	}
	m.start(a, pf, p)
	m.wakeAt(now.Add(blockedAfter))
	return pf.reason // until the job has ended
}

// withdrawReason is the reason with which a PF is withdrawn before its VFs are removed.
func withdrawReason(waiting string) string {
	const reason = "its PF waits for reconfiguration"
	if waiting == "" {
		return reason
	}
	return reason + ": " + waiting
}

// withdraw withdraws a PF with a reason, or offers it again.
func (m *mode) withdraw(a pci.Address, pf *pf, reason string) {
	if pf.withdrawn != reason {
		pf.withdrawn = reason
		m.cfg.Withdrawer.Withdraw(a, reason)
	}
}

// leftToKernel is the reason with which a PF is withdrawn whose VFs the plugin does not use.
const leftToKernel = "its provisioning rule leaves it to its kernel driver"

// offer offers a PF again, unless its rule says otherwise.
func (m *mode) offer(a pci.Address, pf *pf) {
	reason := ""
	if pf.desired != nil && pf.desired.Driver == config.DriverKernel && !m.cfg.Writer.DryRun() {
		reason = leftToKernel
	}
	m.withdraw(a, pf, reason)
}

// blocked returns why a job takes long. If it does not, it returns the reason from before the job.
func (m *mode) blocked(pf *pf, now time.Time) string {
	w, since := pf.job.progress.get()
	switch {
	case w == write{}:
		m.wakeAt(now.Add(blockedAfter))
		return pf.reason
	case now.Sub(since) < blockedAfter:
		m.wakeAt(since.Add(blockedAfter))
		return pf.reason
	}
	reason := fmt.Sprintf("the write of %s to %s has not returned since %s", w.value, w.attribute,
		since.Format(time.TimeOnly))
	if !w.waitsForHolders() {
		return reason
	}
	if m.cfg.Force {
		return reason + ": a process may hold a VF"
	}
	return reason + ": a process that the kubelet does not report may hold a VF, such as an init container"
}
