// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"context"
	"slices"
	"sync"
	"time"

	"qatplugin/qat/internal/pci"
)

const (
	// workers limits how many VFs are written to at the same time, and workersPerPF how many of
	// them belong to one PF. A write may take long, because it resets the function (100 ms, PCI
	// Express Base Specification 6.6.2) or waits for the device lock. It may never return. That
	// usually affects several VFs of one PF, and must not delay the VFs of other PFs.
	workers      = 64
	workersPerPF = 8

	// stuckTime is how long a job may take. After that, it is stuck.
	stuckTime = 10 * time.Second
)

// A job is a step of the procedure for one VF.
type job struct {
	attempt   *attempt
	vf        VF
	step      func(*attempt) error
	startedAt time.Time // when a worker started the job; zero: it waits
	stuck     bool      // it has run for stuckTime
}

func (j *job) isRunning() bool { return !j.startedAt.IsZero() }

// A queue runs jobs in workers, one goroutine for each job that runs. The mutex of the Binder
// guards all fields but running.
type queue struct {
	ctx     context.Context // when it ends, no more jobs start
	work    func(*job)      // the body of a worker
	running sync.WaitGroup

	waiting []*job                // in the order in which they were added
	busy    map[*job]struct{}     // jobs that run, also those of VFs that were forgotten
	stuck   int                   // number of busy jobs that are stuck
	pfs     map[pci.Address]usage // PF → its jobs
}

// usage is the number of jobs of a PF that run, and how many of them are stuck.
type usage struct{ running, stuck int }

func newQueue(ctx context.Context, work func(*job)) queue {
	return queue{ctx: ctx, work: work, busy: map[*job]struct{}{}, pfs: map[pci.Address]usage{}}
}

// add runs a job as soon as a worker is free for it.
func (q *queue) add(j *job) {
	q.waiting = append(q.waiting, j)
	q.dispatch()
}

// remove removes the waiting job of an attempt, which may be nil. It does not stop a running job.
func (q *queue) remove(t *attempt) {
	q.waiting = slices.DeleteFunc(q.waiting, func(j *job) bool { return j.attempt == t })
}

// finish frees the worker of a job that has returned.
func (q *queue) finish(j *job) {
	delete(q.busy, j)
	if j.stuck {
		q.count(j.vf.PF, 0, -1)
	}
	q.count(j.vf.PF, -1, 0)
	q.dispatch()
}

// dispatch starts the waiting jobs, as far as the limits allow.
func (q *queue) dispatch() {
	if q.ctx.Err() != nil {
		q.waiting = nil
		return
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(j *job) bool {
		if len(q.busy) == workers || q.pfs[j.vf.PF].running == workersPerPF {
			return false
		}
		q.busy[j] = struct{}{}
		q.count(j.vf.PF, 1, 0)
		j.startedAt = time.Now()
		q.running.Go(func() { q.work(j) })
		return true
	})
}

// newlyStuck returns the VFs whose jobs have become stuck since the last call.
func (q *queue) newlyStuck(now time.Time) (list []pci.Address) {
	for j := range q.busy {
		if !j.stuck && !now.Before(j.startedAt.Add(stuckTime)) {
			j.stuck = true
			q.count(j.vf.PF, 0, 1)
			list = append(list, j.vf.Address)
		}
	}
	return list
}

// nextStuck returns when the next job becomes stuck, unless it returns before. The zero time means
// never.
func (q *queue) nextStuck() (next time.Time) {
	for j := range q.busy {
		if at := j.startedAt.Add(stuckTime); !j.stuck && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// isBlocked reports whether no job of a PF can start, because all workers that the PF may have are
// stuck.
func (q *queue) isBlocked(pf pci.Address) bool {
	return q.pfs[pf].stuck == workersPerPF || q.stuck == workers
}

// count adds to the number of running jobs of a PF, and to the number of stuck ones.
func (q *queue) count(pf pci.Address, running, stuck int) {
	u := q.pfs[pf]
	u.running, u.stuck = u.running+running, u.stuck+stuck
	q.stuck += stuck
	q.pfs[pf] = u
	if u.running == 0 {
		delete(q.pfs, pf)
	}
}
