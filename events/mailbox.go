package events

import (
	"slices"
	"sync"
	"time"
)

// maxReasons bounds the reasons for a Resync that a Mailbox remembers. There are fewer kinds than this.
const maxReasons = 8

// Mailbox stands between sources, which must not wait, and the one goroutine that looks at what changed. For each key it keeps only that it
// is dirty, and since when: a thousand events of one device are one entry. When more than its limit of keys are dirty they
// become one Resync, so its memory is bounded.
//
// All methods may be called from any goroutine, and none waits; the goroutine that calls Take is one.
type Mailbox[K comparable] struct {
	limit int
	wake  chan struct{} // holds a signal when there is something to take

	mu          sync.Mutex
	dirty       []Dirty[K]
	seen        map[K]uint64 // the round in which a key was marked last; never shrinks between prunes, so that marking a known key allocates nothing
	round       uint64       // counts Takes, from 1
	collapsed   bool         // the limit was passed in this round: the Resync stands for all keys
	resync      []string
	resyncSince time.Time
	trace       trace[K]
}

// Dirty is a key that something happened to.
type Dirty[K comparable] struct {
	Key   K
	Since time.Time // the first mark since the key was taken last
}

// Batch is what was in a Mailbox. It is used again and again: its slices are overwritten by the next Take.
type Batch[K comparable] struct {
	Dirty       []Dirty[K]  // in the order in which they were marked first
	Resync      []string    // not empty: look at everything; the different reasons why
	ResyncSince time.Time   // the first thing that the Resync stands for
	Trace       []Record[K] // see SetTrace
	TraceLost   int         // records that did not fit into the trace; they were older than those in Trace
}

// NewMailbox makes a Mailbox for at most limit dirty keys (at least 1).
func NewMailbox[K comparable](limit int) *Mailbox[K] {
	return &Mailbox[K]{limit: max(limit, 1), wake: make(chan struct{}, 1), seen: map[K]uint64{}, round: 1}
}

// Mark says that something happened to key at that time. Until it is taken, only the first time counts.
func (m *Mailbox[K]) Mark(key K, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.collapsed || m.seen[key] == m.round {
		return
	}
	if len(m.dirty) == m.limit {
		m.collapse(at)
		return
	}
	m.seen[key] = m.round
	m.dirty = append(m.dirty, Dirty[K]{key, at})
	m.signal()
}

// collapse makes one Resync of all dirty keys.
func (m *Mailbox[K]) collapse(at time.Time) {
	for _, d := range m.dirty {
		if d.Since.Before(at) {
			at = d.Since
		}
	}
	m.dirty, m.collapsed = m.dirty[:0], true
	m.addResync("more changes than the mailbox holds", at)
}

// Resync says that everything must be looked at. Marks are still taken: they say what was heard of by name.
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

// Wake holds one signal when there is something to take. Take removes it, so that nobody wakes up for nothing.
func (m *Mailbox[K]) Wake() <-chan struct{} { return m.wake }

func (m *Mailbox[K]) signal() {
	select {
	case m.wake <- struct{}{}:
	default: // a signal is waiting already, and it stands for this too
	}
}

// Take moves all that the mailbox holds into b and forgets it. The memory of b is used again: what an earlier Take put there is gone.
func (m *Mailbox[K]) Take(b *Batch[K]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.Dirty, m.dirty = m.dirty, b.Dirty[:0]
	b.Resync, m.resync = m.resync, b.Resync[:0]
	b.ResyncSince, m.resyncSince = m.resyncSince, time.Time{}
	b.Trace, b.TraceLost = m.trace.take(b.Trace[:0])
	m.collapsed = false
	m.round++
	if len(m.seen) > 2*m.limit {
		clear(m.seen) // keys of long ago; those of now are back after one mark
	}
	select {
	case <-m.wake:
	default:
	}
}
