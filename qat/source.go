package qat

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

const (
	reopenFirst = time.Second
	reopenMax   = time.Minute
)

// A source keeps one of the things that the plugin listens to open. While it cannot, it counts among the broken.
type source struct {
	open   func() (events.Source, error)
	sink   events.Sink
	broken *atomic.Int32

	current events.Source
	err     error // the last one, said once
}

// openWatcher opens a watcher and leaves it for the next look at everything, which asks it for the directories.
func (l *loop) openWatcher(open func() (Watcher, error)) func() (events.Source, error) {
	return func() (events.Source, error) {
		w, err := open()
		if err != nil {
			return nil, err
		}
		l.watcher.Store(&w)
		return w, nil
	}
}

func (s *source) tryOpen() bool {
	current, err := s.open()
	if err != nil {
		if s.err == nil || s.err.Error() != err.Error() {
			klog.ErrorS(err, "Cannot listen to the host's events; trying again, and looking at everything more often meanwhile")
		}
		if s.err == nil {
			s.broken.Add(1)
		}
		s.err = err
		return false
	}
	if s.err != nil {
		s.broken.Add(-1)
		klog.InfoS("Listening to the host's events again")
	}
	s.current, s.err = current, nil
	return true
}

// run delivers until ctx ends.
func (s *source) run(ctx context.Context) {
	wait := reopenFirst
	for {
		if s.current != nil {
			started := time.Now()
			err := s.current.Run(ctx, s.sink)
			s.current = nil
			if ctx.Err() != nil {
				return
			}
			klog.ErrorS(err, "A source of events broke, opening it again")
			if time.Since(started) > reopenMax {
				wait = reopenFirst
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, reopenMax)
		if s.tryOpen() {
			s.sink.Resync("a source of events was opened again")
		}
	}
}
