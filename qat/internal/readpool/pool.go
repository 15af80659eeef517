// SPDX-License-Identifier: Apache-2.0

// Package readpool reads files for an event loop that must not block.
//
// The kernel can block a read of sysfs for as long as it likes, for example while a driver holds
// the lock of the device. Neither a deadline nor a signal ends such a read. A loop that reads by
// itself would stop with it, for all devices.
//
// A [Pool] therefore reads in goroutines of its own. Mostly no read blocks, and then a single
// goroutine, the worker, makes all reads of a call of [Pool.Read] in order. If one read takes
// longer than [Wait], Read abandons the worker to it, makes the remaining reads at the same time,
// and returns what it has got. The reads that have not returned by then are outstanding. When one
// returns, the Pool calls wake, and [Pool.Take] returns the result.
//
// A Pool guarantees:
//
//   - A read that blocks delays Read by 3*Wait at most, however many others block. While it is
//     outstanding, it delays nothing.
//   - A key has one outstanding read at most. Read does not read the key again meanwhile, but marks
//     the result as stale.
//   - No result is lost. Each key that is passed to Read leads to one [Result], or makes that of an
//     outstanding read stale.
//   - There is one goroutine for each outstanding read, and the worker. A goroutine that was
//     abandoned ends when its read returns. If no read blocks, Read starts no goroutine, allocates
//     nothing and sets a timer at most once per Wait.
//
// The methods of a Pool must not be called at the same time. The functions read and wake that it is
// made with are called in goroutines of the Pool.
package readpool

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// Wait is how long Read waits for one read before it continues without it, or up to twice as
	// long. Mostly a read of a device takes less than 0.1 ms.
	Wait = 10 * time.Millisecond

	// Timeout is how long a read is outstanding before [Pool.Overdue] reports it.
	Timeout = time.Second
)

// A Result is what the read of a key returned.
type Result[K comparable, V any] struct {
	Key   K
	Value V

	// Stale says that Read was called with Key while its read was outstanding. Value counts, but
	// may be older than the cause of that call, so the caller must read Key again.
	Stale bool

	// Overdue is how long the read was outstanding, if [Pool.Overdue] reported it; else 0.
	Overdue time.Duration
}

// A Pool reads values of type V by keys of type K. Each read can report its progress in a P, which
// must be safe for use by several goroutines.
type Pool[K comparable, V, P any] struct {
	read        func(K, *P) V
	wake        func()
	goroutines  sync.WaitGroup
	outstanding map[K]*call[V, P]
	worker      *worker[K, V, P] // nil: the next call of readInOrder starts one
	stopped     chan *call[V, P] // ends the wait of readInOrder: a read blocks, or all are made (nil)

	mu      sync.Mutex       // guards the following fields, and those of worker that say so
	waiting *worker[K, V, P] // the worker that readInOrder waits for; nil: it does not wait
	reads   uint64           // reads that workers have made, without those they were abandoned to
	checked uint64           // reads at the last call of checkProgress
	timer   *time.Timer      // calls checkProgress; nil: it is not set
}

// A worker is the goroutine that reads for readInOrder.
type worker[K comparable, V, P any] struct {
	keys     chan []K // has room for those of one call, so that readInOrder does not wait here
	progress P

	// Guarded by Pool.mu while readInOrder waits:
	results   []Result[K, V]
	abandoned *call[V, P] // the read that the worker was abandoned to; nil: none
}

// A call is an outstanding read.
type call[V, P any] struct {
	progress *P
	since    time.Time
	stale    bool
	overdue  bool // Overdue has reported it

	done  chan struct{} // closed when the read has returned
	value V             // valid then
}

func newCall[V, P any](progress *P) *call[V, P] {
	return &call[V, P]{progress: progress, since: time.Now(), done: make(chan struct{})}
}

// New returns a Pool. read makes one read and may block. wake is called whenever an outstanding
// read has returned, and must not block.
func New[K comparable, V, P any](read func(K, *P) V, wake func()) *Pool[K, V, P] {
	return &Pool[K, V, P]{
		read:        read,
		wake:        wake,
		outstanding: map[K]*call[V, P]{},
		stopped:     make(chan *call[V, P], 1),
	}
}

// Read reads the keys, which differ from each other, and returns the results that it gets in time.
// The other keys have an outstanding read afterwards.
//
// The reads of inOrder began and ended one after the other, in the order of keys. Those of
// concurrent began after that and ran at the same time. The results are valid until the next call.
func (p *Pool[K, V, P]) Read(keys []K) (inOrder, concurrent []Result[K, V]) {
	if len(p.outstanding) > 0 {
		keys = slices.DeleteFunc(slices.Clone(keys), p.markStale)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	inOrder, blocked := p.readInOrder(keys)
	if blocked == nil {
		return inOrder, nil
	}
	rest := keys[len(inOrder):]
	p.outstanding[rest[0]] = blocked
	for _, key := range rest[1:] {
		p.start(key)
	}
	p.await(rest[1:])
	return inOrder, p.take(slices.Values(rest))
}

// markStale marks the outstanding read of a key as stale, and reports whether there is one.
func (p *Pool[K, V, P]) markStale(key K) bool {
	c := p.outstanding[key]
	if c != nil {
		c.stale = true
	}
	return c != nil
}

// readInOrder reads the keys one after the other. It ends early if a read takes longer than Wait:
// blocked is that read.
func (p *Pool[K, V, P]) readInOrder(keys []K) (results []Result[K, V], blocked *call[V, P]) {
	if p.worker == nil {
		w := &worker[K, V, P]{keys: make(chan []K, 1)}
		p.worker = w
		p.goroutines.Go(func() { p.run(w) })
	}
	w := p.worker
	w.results = w.results[:0]
	p.mu.Lock()
	p.waiting = w
	if p.timer == nil {
		p.timer = time.AfterFunc(Wait, p.checkProgress)
	}
	p.mu.Unlock()
	w.keys <- keys
	if blocked = <-p.stopped; blocked != nil {
		p.worker = nil
	}
	return w.results, blocked
}

// run is the goroutine of a worker.
func (p *Pool[K, V, P]) run(w *worker[K, V, P]) {
	for keys := range w.keys {
		for i, key := range keys {
			value := p.read(key, &w.progress)
			if c := p.add(w, key, value, i == len(keys)-1); c != nil {
				p.finish(c, value)
				return
			}
		}
	}
}

// add adds a result of a worker, unless the worker was abandoned to this read.
func (p *Pool[K, V, P]) add(w *worker[K, V, P], key K, value V, last bool) (abandoned *call[V, P]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.abandoned != nil {
		return w.abandoned
	}
	p.reads++
	w.results = append(w.results, Result[K, V]{Key: key, Value: value})
	if last {
		p.waiting = nil
		p.stopped <- nil
	}
	return nil
}

// checkProgress abandons the worker if it has finished no read since the last call, or since the
// timer was set. The timer calls it once per Wait, until it finds that nothing waits. No timer is
// set for each read, because the runtime may have to wake a thread when a timer is set.
func (p *Pool[K, V, P]) checkProgress() {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting
	switch {
	case w == nil:
		p.timer = nil
	case p.checked != p.reads:
		p.checked = p.reads
		p.timer.Reset(Wait)
	default:
		w.abandoned = newCall[V](&w.progress)
		p.waiting, p.timer = nil, nil
		p.stopped <- w.abandoned
	}
}

// start reads a key in a goroutine of its own.
func (p *Pool[K, V, P]) start(key K) {
	c := newCall[V](new(P))
	p.outstanding[key] = c
	p.goroutines.Go(func() { p.finish(c, p.read(key, c.progress)) })
}

// finish stores the result of an outstanding read.
func (p *Pool[K, V, P]) finish(c *call[V, P], value V) {
	c.value = value
	close(c.done)
	p.wake()
}

// await waits until the outstanding reads of the keys have returned, for Wait at most.
func (p *Pool[K, V, P]) await(keys []K) {
	timeout := time.After(Wait)
	for _, key := range keys {
		select {
		case <-p.outstanding[key].done:
		case <-timeout:
			return
		}
	}
}

// Take returns the results of the outstanding reads that have returned, in no order. Their keys
// have no outstanding read afterwards.
func (p *Pool[K, V, P]) Take() []Result[K, V] { return p.take(maps.Keys(p.outstanding)) }

// take is Take for some of the keys with an outstanding read.
func (p *Pool[K, V, P]) take(keys iter.Seq[K]) (results []Result[K, V]) {
	for key := range keys {
		c := p.outstanding[key]
		select {
		case <-c.done:
		default:
			continue
		}
		delete(p.outstanding, key)
		result := Result[K, V]{Key: key, Value: c.value, Stale: c.stale}
		if c.overdue {
			result.Overdue = time.Since(c.since)
		}
		results = append(results, result)
	}
	return results
}

// Outstanding returns the keys with an outstanding read, including those whose result can be taken.
func (p *Pool[K, V, P]) Outstanding() []K { return slices.Collect(maps.Keys(p.outstanding)) }

// IsOutstanding reports whether a key is one of [Pool.Outstanding].
func (p *Pool[K, V, P]) IsOutstanding(key K) bool { return p.outstanding[key] != nil }

// Progress returns the progress of the outstanding read of a key, which the read goes on to change.
func (p *Pool[K, V, P]) Progress(key K) *P { return p.outstanding[key].progress }

// Overdue returns the keys whose read has been outstanding for Timeout, each once.
func (p *Pool[K, V, P]) Overdue(now time.Time) (keys []K) {
	for key, c := range p.outstanding {
		if !c.overdue && now.Sub(c.since) >= Timeout {
			c.overdue = true
			keys = append(keys, key)
		}
	}
	return keys
}

// NextOverdue is when Overdue has another key to return, unless the read returns before; zero:
// never.
func (p *Pool[K, V, P]) NextOverdue() (next time.Time) {
	for _, c := range p.outstanding {
		if at := c.since.Add(Timeout); !c.overdue && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// Close ends the worker and waits for all reads, for as long as the kernel blocks them. Once it is
// called, only Close may be called again, and at any time.
func (p *Pool[K, V, P]) Close() {
	p.mu.Lock()
	if p.worker != nil {
		close(p.worker.keys)
		p.worker = nil
	}
	p.mu.Unlock()
	p.goroutines.Wait()
}
