// SPDX-License-Identifier: Apache-2.0

package events

import (
	"slices"
	"sync"
	"time"
)

// maxReasons limits the reasons for a Resync that a Mailbox keeps. There are fewer
// different ones in practice.
const maxReasons = 8

// Mailbox connects sources, which must not block, to the one goroutine that handles
// changes. It keeps only which keys are dirty and since when: a thousand events for one
// device are one entry. If more keys become dirty than its limit, a Resync replaces
// them, so its memory is bounded.
//
// All methods may be called from any goroutine. None of them blocks.
type Mailbox[K comparable] struct {
	limit int
	wake  chan struct{} // holds a token while there is something to take

	mu    sync.Mutex // guards all following fields
	dirty []Dirty[K]
	// marked maps a key to the round in which it was last marked. Take does not clear
	// it, so that marking a known key does not allocate.
	marked      map[K]uint64
	round       uint64 // increases with each Take, starting at 1
	overflowed  bool   // more keys than limit in this round: a Resync replaces them all
	resync      []string
	resyncSince time.Time
	trace       trace[K]
}

// Dirty is a key that something happened to.
type Dirty[K comparable] struct {
	Key   K
	Since time.Time // of the first Mark since the key was last taken
}

// Batch is the content of a Mailbox. The next Take with the same Batch overwrites it.
type Batch[K comparable] struct {
	Dirty       []Dirty[K]  // in the order of their first Mark
	Resync      []string    // the distinct reasons to read everything again; empty if there is none
	ResyncSince time.Time   // see Mailbox.Resync; zero if there is none
	Trace       []Record[K] // see SetTrace
	TraceLost   int         // number of records dropped, all older than those in Trace
}

// NewMailbox returns a Mailbox for at most limit dirty keys. A limit below 1 counts as 1.
func NewMailbox[K comparable](limit int) *Mailbox[K] {
	return &Mailbox[K]{limit: max(limit, 1), wake: make(chan struct{}, 1), marked: map[K]uint64{}, round: 1}
}

// Mark marks key as dirty since the given time. A key that is dirty already keeps its time.
func (m *Mailbox[K]) Mark(key K, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark(key, at)
}

func (m *Mailbox[K]) mark(key K, at time.Time) {
	if m.overflowed || m.marked[key] == m.round {
		return
	}
	if len(m.dirty) == m.limit {
		m.overflow(at)
		return
	}
	m.marked[key] = m.round
	m.dirty = append(m.dirty, Dirty[K]{key, at})
	m.signal()
}

// overflow replaces all dirty keys by one Resync.
func (m *Mailbox[K]) overflow(at time.Time) {
	for _, d := range m.dirty {
		if d.Since.Before(at) {
			at = d.Since
		}
	}
	m.dirty, m.overflowed = m.dirty[:0], true
	m.addResync("more changes than the mailbox holds", at)
}

// Resync requests that everything is read again. Dirty keys are kept, as they name what
// changed for certain. ResyncSince is the earliest time passed to Resync, or to a Mark
// that a Resync replaced; the loss itself may be older.
func (m *Mailbox[K]) Resync(reason string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addResync(reason, at)
}

func (m *Mailbox[K]) addResync(reason string, at time.Time) {
	if len(m.resync) == 0 || at.Before(m.resyncSince) {
		m.resyncSince = at
	}
	if len(m.resync) < maxReasons && !slices.Contains(m.resync, reason) {
		m.resync = append(m.resync, reason)
	}
	m.signal()
}

// Wake returns a channel that holds one value while there is something to take. Call Take
// after each receive. Take also removes the value, so that nobody wakes up in vain.
func (m *Mailbox[K]) Wake() <-chan struct{} { return m.wake }

func (m *Mailbox[K]) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Take moves the content of the mailbox into b and replaces what b held.
func (m *Mailbox[K]) Take(b *Batch[K]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.Dirty, m.dirty = m.dirty, b.Dirty[:0]
	b.Resync, m.resync = m.resync, b.Resync[:0]
	b.ResyncSince, m.resyncSince = m.resyncSince, time.Time{}
	b.Trace, b.TraceLost = m.trace.take(b.Trace[:0])
	m.overflowed = false
	m.round++
	if len(m.marked) > 2*m.limit {
		clear(m.marked) // forget keys that are no longer in use
	}
	select {
	case <-m.wake:
	default:
	}
}

// Record describes one event, for a log.
type Record[K comparable] struct {
	Origin   Origin
	Action   Action
	Path     string
	Time     time.Time
	Key      K    // valid if Relevant
	Relevant bool // set by the caller of Note: the event marked Key
}

// SetTrace makes the mailbox keep the newest n records of those passed to Note from now
// on. The default, 0, keeps none.
func (m *Mailbox[K]) SetTrace(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trace = trace[K]{max: max(n, 0)}
}

// Note keeps the record of an event until Take and wakes the consumer, even if the event
// is not relevant. The consumer then writes the log, not the goroutine of a source. Note
// does nothing unless SetTrace was called with n > 0.
func (m *Mailbox[K]) Note(r Record[K]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trace.max > 0 {
		m.trace.add(r)
		m.signal()
	}
}

// MarkNoted marks the key of a record since its time, and keeps the record as Note does. A Take
// returns both or neither.
func (m *Mailbox[K]) MarkNoted(r Record[K]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark(r.Key, r.Time)
	if m.trace.max > 0 {
		m.trace.add(r)
	}
}

// trace is a ring buffer of records.
type trace[K comparable] struct {
	ring []Record[K] // at most max records
	max  int
	next int // index of the oldest record, once the ring is full
	lost int
}

func (t *trace[K]) add(r Record[K]) {
	if len(t.ring) < t.max {
		t.ring = append(t.ring, r)
		return
	}
	t.ring[t.next] = r
	t.next = (t.next + 1) % t.max
	t.lost++
}

// take appends the records to out, oldest first, and empties the ring.
func (t *trace[K]) take(out []Record[K]) (records []Record[K], lost int) {
	out = append(append(out, t.ring[t.next:]...), t.ring[:t.next]...)
	lost = t.lost
	clear(t.ring) // release the paths
	t.ring, t.next, t.lost = t.ring[:0], 0, 0
	return out, lost
}
