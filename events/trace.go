package events

import "time"

// Record is one event as text, kept for a log.
type Record[K comparable] struct {
	Origin   Origin
	Action   Action
	Path     string
	Time     time.Time
	Key      K    // what it was taken for; the zero value when it is not Relevant
	Relevant bool // whether it marked Key
}

// trace is a ring of records.
type trace[K comparable] struct {
	ring []Record[K] // length: how many there are; capacity is at least max
	max  int         // 0: off
	next int         // when the ring is full: the oldest, which is overwritten next
	lost int
}

// SetTrace makes the mailbox keep the newest n records that Note brings; 0, as at first, keeps none.
func (m *Mailbox[K]) SetTrace(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trace = trace[K]{max: max(n, 0)}
}

// Tracing says whether Note keeps anything, so that a sink need not make a record for nothing.
func (m *Mailbox[K]) Tracing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trace.max > 0
}

// Note keeps a record of an event until Take, so that not the reader of a socket but who takes the batch writes the log. It wakes
// that one, also for an event that is of no other interest.
func (m *Mailbox[K]) Note(r Record[K]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trace.max == 0 {
		return
	}
	m.trace.add(r)
	m.signal()
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
func (t *trace[K]) take(out []Record[K]) ([]Record[K], int) {
	out = append(append(out, t.ring[t.next:]...), t.ring[:t.next]...)
	lost := t.lost
	clear(t.ring) // let go of the paths
	t.ring, t.next, t.lost = t.ring[:0], 0, 0
	return out, lost
}
