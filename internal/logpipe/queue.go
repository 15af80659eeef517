// SPDX-License-Identifier: Apache-2.0

package logpipe

import (
	"bytes"
	"io"
	"sync"
)

// spareMax is the size in bytes of the largest buffer that is kept for the next lines.
const spareMax = 64 << 10

// queue holds lines until they are written. Its put never waits for the write.
type queue struct {
	out   io.Writer
	limit int             // bytes that may wait
	lost  func(lines int) // called after a write that succeeds, with the number of lines lost since the last call

	mu      sync.Mutex // guards the following fields
	waiting []byte
	dropped int           // lines lost and not passed to lost yet
	ended   bool          // no more lines
	more    chan struct{} // has a value when waiting or ended changed; capacity 1
}

func newQueue(out io.Writer, limit int, lost func(lines int)) *queue {
	return &queue{out: out, limit: limit, lost: lost, more: make(chan struct{}, 1)}
}

// put appends a line, or drops it if there is no room.
func (q *queue) put(line []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting)+len(line) > q.limit {
		q.dropped++
		return
	}
	q.waiting = append(q.waiting, line...)
	q.wake()
}

// end makes run return after it has written the waiting lines. No put may follow.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.wake()
}

// wake wakes run. The caller holds mu.
func (q *queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// run writes the lines until the last one is written.
func (q *queue) run() {
	var spare []byte // the buffer that was written last
	for {
		text, dropped, ended := q.take(spare[:0])
		if len(text) > 0 {
			q.write(text, dropped)
			if spare = text; cap(text) > spareMax {
				spare = nil
			}
			continue
		}
		if ended {
			return
		}
		<-q.more
	}
}

// take returns the waiting lines and the number of lines that were dropped after them. If lines are
// waiting, empty becomes the buffer for the next lines.
func (q *queue) take(empty []byte) (text []byte, dropped int, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil, 0, q.ended
	}
	text, dropped = q.waiting, q.dropped
	q.waiting, q.dropped = empty, 0
	return text, dropped, q.ended
}

// write writes text, and then reports the dropped lines to q.lost. If the write fails, the lines of
// text are lost, too, and a later successful write reports them all. A write to a pipe without a
// reader fails at once.
func (q *queue) write(text []byte, dropped int) {
	n, err := q.out.Write(text)
	if err != nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.dropped += dropped + bytes.Count(text[n:], []byte("\n"))
		return
	}
	if dropped > 0 {
		q.lost(dropped)
	}
}
