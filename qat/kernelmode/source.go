package kernelmode

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/qat"
)

const (
	reopenFirst = time.Second
	reopenMax   = time.Minute
)

// A listener delivers from one source of events, and opens it anew when it breaks.
type listener struct {
	open func() (events.Source, error)
	sink events.Sink
	deaf *atomic.Int32 // listeners whose source is not open
}

// listen opens the source, so that the kernel queues for it from here on, and returns what delivers until ctx ends.
func (l listener) listen() (deliver func(ctx context.Context)) {
	source, err := l.open()
	if err != nil {
		l.deaf.Add(1)
		klog.ErrorS(err, "Cannot listen to the host's events; trying again, and looking at everything more often meanwhile")
	}
	return func(ctx context.Context) {
		for wait := reopenFirst; ; wait = min(2*wait, reopenMax) {
			if source != nil {
				started := time.Now()
				err := source.Run(ctx, l.sink)
				if ctx.Err() != nil {
					return
				}
				klog.ErrorS(err, "A source of events broke, opening it again")
				l.deaf.Add(1)
				if time.Since(started) > reopenMax {
					wait = reopenFirst
				}
			}
			if source = l.reopen(ctx, wait); source == nil && ctx.Err() != nil {
				return
			}
		}
	}
}

// reopen tries once, after a while; nil: not this time.
func (l listener) reopen(ctx context.Context, wait time.Duration) events.Source {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(wait):
	}
	source, err := l.open()
	if err != nil {
		klog.V(2).InfoS("Cannot listen to the host's events yet", "err", err)
		return nil
	}
	l.deaf.Add(-1)
	klog.InfoS("Listening to the host's events again")
	l.sink.Resync("a source of events was opened again")
	return source
}

// openWatcher opens a watcher and leaves it for the next look, which asks it for the directories.
func (l *loop) openWatcher(open func() (qat.Watcher, error)) func() (events.Source, error) {
	return func() (events.Source, error) {
		w, err := open()
		if err != nil {
			return nil, err
		}
		l.watcher.Store(&w)
		return w, nil
	}
}
