// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

// A source that broke or could not be opened is opened again after
// reopenFirst, then after twice as long each time up to reopenMax.
const (
	reopenFirst = time.Second
	reopenMax   = time.Minute
)

type openFunc = func() (events.Source, error)

// sources keeps event sources open and delivers their events to a sink.
type sources struct {
	logName []any        // see logName
	closed  atomic.Int32 // sources that are not open
	readers sync.WaitGroup

	mu      sync.Mutex            // guards all following fields
	running map[ueventSource]bool // open sources with counters
	ended   events.UeventStats    // sum over such sources that are closed
}

// A ueventSource is a source that counts the messages it lost. [events.UeventListener] is one.
type ueventSource interface{ Stats() events.UeventStats }

// stats returns how often a source has lost messages, and how many, since the start.
func (s *sources) stats() events.UeventStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.ended
	for source := range s.running {
		addLosses(&sum, source)
	}
	return sum
}

func addLosses(sum *events.UeventStats, source ueventSource) {
	stats := source.Stats()
	sum.Overflows += stats.Overflows
	sum.Drops += stats.Drops
}

// run runs a source, and keeps its counters.
func (s *sources) run(ctx context.Context, source events.Source, sink events.Sink) error {
	if counting, ok := source.(ueventSource); ok {
		s.mu.Lock()
		s.running[counting] = true
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.running, counting)
			addLosses(&s.ended, counting)
		}()
	}
	return source.Run(ctx, sink)
}

// start opens a source and delivers its events until ctx ends. Once start has returned, the
// kernel queues events for the source, if it could be opened.
func (s *sources) start(ctx context.Context, open openFunc, sink events.Sink) {
	source, err := open()
	if err != nil {
		s.closed.Add(1)
		klog.ErrorS(err, "Cannot open an event source, retrying and auditing the host more often meanwhile",
			s.logName...)
		source = nil // it may be an interface that holds a nil pointer
	}
	s.readers.Go(func() { s.deliver(ctx, source, open, sink) })
}

// deliver runs the source, which is nil if it could not be opened, and opens it again, after a
// pause, whenever it breaks.
func (s *sources) deliver(ctx context.Context, source events.Source, open openFunc, sink events.Sink) {
	for wait := reopenFirst; ; wait = min(2*wait, reopenMax) {
		if source != nil { // Run also closes it if ctx has ended
			started := time.Now()
			err := s.run(ctx, source, sink)
			if ctx.Err() != nil {
				return
			}
			klog.ErrorS(err, "An event source failed, opening it again", s.logName...)
			s.closed.Add(1)
			sink.Resync("an event source failed")
			if time.Since(started) > reopenMax {
				wait = reopenFirst
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		var err error
		if source, err = open(); err != nil {
			klog.V(2).InfoS("Cannot open an event source yet", "err", err)
			source = nil
			continue
		}
		s.closed.Add(-1)
		klog.InfoS("The event source is open again", s.logName...)
		sink.Resync("an event source was opened again")
	}
}
