// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
)

// A job carries out one plan in a goroutine of its own.
type job struct {
	address  pci.Address
	pf       *pf // belongs to the loop's goroutine; the job does not use it
	facts    *facts
	rule     string
	plan     plan
	repeated bool // the plan was logged before
	since    time.Time
	progress progress

	// onlyAsk says that the PF is not withdrawn yet. The job makes no writes, but finds out whether
	// the kubelet says which VFs pods hold. As long as it does not, pods continue to get VFs.
	onlyAsk bool

	// Set when the job has ended:
	waiting string // why nothing was written; "" if the writes were made, or failed, or onlyAsk
	result  result
}

// jobs are the goroutines that carry out plans.
type jobs struct {
	sync.WaitGroup
	done func() // called when a job has ended

	mu    sync.Mutex // guards ended
	ended []*job
}

// start starts a job.
func (m *mode) start(a pci.Address, p *pf, plan *plan) {
	text := plan.String()
	j := &job{
		address:  a,
		pf:       p,
		facts:    p.facts,
		rule:     p.rule,
		plan:     *plan,
		repeated: p.logged == text && p.attempts.failed != nil,
		since:    time.Now(),
		onlyAsk:  plan.takedown && !p.removal.answered && !m.cfg.Force,
	}
	p.job, p.logged = j, text
	m.jobs.Go(func() {
		m.run(j)
		m.jobs.mu.Lock()
		m.jobs.ended = append(m.jobs.ended, j)
		m.jobs.mu.Unlock()
		m.jobs.done()
	})
}

// run carries out the plan of a job, unless containers hold VFs that it removes.
func (m *mode) run(j *job) {
	if j.plan.takedown && !m.cfg.Force {
		h, vfs, err := m.askHolders(j.address)
		switch {
		case err != nil:
			j.waiting = err.Error()
		case !j.onlyAsk || h.err != nil:
			j.waiting = h.block(vfs, &m.rules)
		}
		if j.onlyAsk || j.waiting != "" {
			return
		}
	}
	if m.ctx.Err() != nil {
		j.waiting = "the plugin ends"
		return
	}
	logWrites(j.facts, j.rule, &j.plan, j.repeated)
	applier := applier{writer: m.cfg.Writer, host: m.host, takedown: j.plan.takedown}
	j.result = applier.apply(j.facts, j.plan.writes, &j.progress)
	if j.result.err == nil {
		klog.InfoS("Provisioned a PF", "pf", j.address, "after", time.Since(j.since))
	}
}

// askHolders finds out which VFs of a PF containers hold. If the PF is withdrawn, no container gets
// another one. It reads the drivers of the VFs again, because mode dpdk may have bound VFs since
// the PF was read.
func (m *mode) askHolders(pf pci.Address) (h holders, vfs []vf, err error) {
	h.heldBy = m.cfg.HeldBy
	h.pods, h.err = m.cfg.Holders(m.ctx)
	if vfs, err = m.host.vfs(pf); err != nil {
		return h, nil, err
	}
	slices.SortFunc(vfs, func(a, b vf) int { return a.address.Compare(b.address) })
	for i := range vfs {
		a := vfs[i].address
		if at := m.cfg.Withdrawer.LastAllocated(a); !at.IsZero() && time.Since(at) < allocationTime {
			h.allocated = &a
		}
	}
	return h, vfs, nil
}

// endJobs takes the results of jobs, and returns their PFs, which must be read again.
func (m *mode) endJobs(now time.Time) (list []pci.Address) {
	m.jobs.mu.Lock()
	ended := m.jobs.ended
	m.jobs.ended = nil
	m.jobs.mu.Unlock()
	for _, j := range ended {
		if j.pf.job != j || m.pfs[j.address] != j.pf {
			continue // the PF is gone
		}
		list = append(list, j.address)
		m.end(j, now)
	}
	return list
}

// end records the result of a job.
func (m *mode) end(j *job, now time.Time) {
	p := j.pf
	p.job = nil
	p.removal.waiting = j.waiting
	switch {
	case j.waiting != "":
		p.removal.ask.fail(now, maxAsk)
		return
	case j.onlyAsk:
		p.removal = removal{answered: true}
		return
	}
	p.removal = removal{}
	if err := j.result.err; err != nil && err.Error() != p.loggedErr {
		p.loggedErr = err.Error()
		klog.ErrorS(err, "Cannot provision a PF", "pf", j.address, "rule", j.rule)
	}
	for w, reason := range j.result.refused {
		p.refuse(w, reason)
	}
	p.attempts.end(now, j.result.retry)
	p.restore = p.restore || j.plan.takedown && j.plan.creates()
}

// creates reports whether a plan creates VFs.
func (p *plan) creates() bool {
	n := len(p.writes)
	return n > 0 && p.writes[n-1].attribute == attrNumVFs && p.writes[n-1].value != "0"
}
