// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

// A removal of VFs waits until no pod holds one of them. The zero removal has not begun.
type removal struct {
	answered bool    // the kubelet has said which VFs pods hold; until then the PF is not withdrawn
	waiting  string  // what the removal waits for; "": nothing
	ask      backoff // for the next question to the kubelet
}

// A pf is what is known of a PF, and what is done about it.
type pf struct {
	facts   *facts
	watched []string
	readErr string    // why it could not be read; "" if it could
	readAt  time.Time // when to read it again; zero: not without an event

	transition time.Time // since when the facts are incomplete; zero: they are complete

	rule    string
	desired *config.Desired // of the rule; nil: none matches
	refused map[write]string
	restore bool // see input.restore

	job       *job   // nil: nothing is done about it now
	reason    string // why it was not as its rule wants before the job; "" if it was, or if there was none
	waits     bool   // reason is what it waits for, before a plan can be made
	attempts  attempts
	removal   removal // of its VFs
	withdrawn string  // the reason with which it is withdrawn; "": it is not
	logged    string  // the plan that was logged last
	loggedErr string  // the error that was logged last
}

// refuse records that the kernel refuses a write.
func (p *pf) refuse(w write, reason string) {
	if p.refused == nil {
		p.refused = map[write]string{}
	}
	p.refused[w] = reason
}

// checkTransition has the PF read again if it may have been read while the kernel changed it.
func (p *pf) checkTransition(now time.Time) {
	switch {
	case p.facts.isComplete():
		p.transition = time.Time{}
		return
	case p.transition.IsZero():
		p.transition = now
	}
	if p.inTransition(now) {
		p.readAt = p.transition.Add(minRetry)
	}
}

// inTransition reports whether the kernel may be changing the PF. What stays incomplete is as it
// is: the driver has no qat/state, or somebody has removed single VFs.
func (p *pf) inTransition(now time.Time) bool {
	return !p.transition.IsZero() && now.Sub(p.transition) < minRetry
}

// named lists the functions that keys name. The PF of a VF is read a moment later; see settleTime.
func (m *mode) named(keys []Key, now time.Time) (list []pci.Address) {
	for _, key := range keys {
		if key.kind != keyFunction {
			continue
		}
		if owner, ok := m.owner[key.address]; ok {
			pf := m.pfs[owner]
			pf.readAt = hostwatch.Earlier(pf.readAt, now.Add(settleTime))
			continue
		}
		list = append(list, key.address)
	}
	return list
}

// all lists every function that exists or is known.
func (m *mode) all() []pci.Address {
	m.watches.Want(m.cfg.Sysfs+"/bus/pci/devices", 0)
	addresses, err := m.host.addresses()
	if m.listErr = err; err != nil {
		return nil
	}
	addresses = slices.AppendSeq(addresses, maps.Keys(m.pfs))
	return slices.AppendSeq(addresses, maps.Keys(m.unreadable))
}

// due lists the functions that are to be read again at this time.
func (m *mode) due(now time.Time) (list []pci.Address) {
	for a, pf := range m.pfs {
		if !pf.readAt.IsZero() && !now.Before(pf.readAt) {
			pf.readAt = time.Time{}
			list = append(list, a)
		}
	}
	for a, retry := range m.unreadable {
		if !retry.at.IsZero() && !now.Before(retry.at) {
			retry.at = time.Time{}
			list = append(list, a)
		}
	}
	return list
}

// read reads functions, and takes the results of earlier reads that have returned. A PF with a job
// is read when the job has ended.
func (m *mode) read(addresses []pci.Address, now time.Time) {
	slices.SortFunc(addresses, pci.Address.Compare)
	addresses = slices.DeleteFunc(slices.Compact(addresses), func(a pci.Address) bool {
		m.forgetReplaced(a)
		return m.pfs[a] != nil && m.pfs[a].job != nil
	})
	late := m.pool.Take()
	inOrder, concurrent := m.pool.Read(addresses)
	for _, result := range slices.Concat(late, inOrder, concurrent) {
		m.update(result.Key, result.Value, now)
		if result.Stale {
			m.mark(Key{address: result.Key}, now)
		}
	}
	for _, a := range m.pool.Overdue(now) {
		klog.ErrorS(nil, "A read does not return, the PF is not provisioned until it does",
			"device", a, "file", m.pool.Progress(a).File())
		if pf := m.pfs[a]; pf != nil {
			pf.readErr = "the read of " + m.pool.Progress(a).File() + " does not return"
		}
	}
}

// forgetReplaced forgets a PF with a job if the PF is gone, or if another one has its address. The
// job goes on without consequence: the kernel may block it for as long as it likes.
func (m *mode) forgetReplaced(a pci.Address) {
	pf := m.pfs[a]
	if pf == nil || pf.job == nil {
		return
	}
	if incarnation, err := m.host.incarnation(a); err == nil && incarnation != pf.facts.incarnation {
		m.forget(a, pf)
	}
}

// update records what was read of a function.
func (m *mode) update(a pci.Address, r readResult, now time.Time) {
	known := m.pfs[a]
	if r.err != nil {
		if m.unreadable[a] == nil {
			m.unreadable[a] = &failedRead{}
		}
		m.unreadable[a].fail(now, maxRetry)
		m.unreadable[a].reason = fmt.Sprintf("it cannot be read: %v", r.err)
		if known != nil {
			known.readAt, known.readErr = time.Time{}, m.unreadable[a].reason
		}
		return
	}
	delete(m.unreadable, a)
	if known != nil && (r.facts == nil || r.facts.incarnation != known.facts.incarnation) {
		m.forget(a, known)
		known = nil
	}
	if r.facts == nil {
		return
	}
	if known == nil {
		known = &pf{facts: r.facts}
		m.pfs[a] = known
	}
	if known.facts.driver != r.facts.driver { // another driver, or the same one loaded again, may accept more
		known.refused, known.attempts = nil, attempts{}
	}
	known.facts, known.watched, known.readErr, known.readAt = r.facts, r.watched, "", time.Time{}
	if known.attempts.after == nil {
		known.attempts.after = r.facts
	}
	m.disown(a)
	for _, vf := range r.facts.vfs {
		m.owner[vf.address] = a
	}
	known.checkTransition(now)
}

// disown forgets the VFs of a PF.
func (m *mode) disown(a pci.Address) {
	maps.DeleteFunc(m.owner, func(_, owner pci.Address) bool { return owner == a })
}

// forget removes a PF that is gone.
func (m *mode) forget(a pci.Address, pf *pf) {
	for _, dir := range pf.watched {
		m.watches.Drop(dir)
	}
	m.disown(a)
	m.withdraw(a, pf, "")
	delete(m.pfs, a)
}
