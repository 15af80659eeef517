package follow

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

// A source that broke or could not be opened is opened again after reopenFirst, then after twice as long each time up to reopenMax.
const (
	reopenFirst = time.Second
	reopenMax   = time.Minute
)

// A Listener delivers from one source of events, and opens it anew when it breaks.
type Listener struct {
	Open   func() (events.Source, error)
	Sink   events.Sink
	Closed *atomic.Int32 // counts the listeners whose source is not open
}

// Listen opens the source, so that the kernel queues for it from here on, and returns what delivers until ctx ends.
func (l Listener) Listen() (deliver func(ctx context.Context)) {
	source, err := l.Open()
	if err != nil {
		l.Closed.Add(1)
		klog.ErrorS(err, "Cannot listen to the host's events; trying again, and looking at everything more often meanwhile")
	}
	return func(ctx context.Context) {
		for wait := reopenFirst; ; wait = min(2*wait, reopenMax) {
			if source != nil {
				started := time.Now()
				err := source.Run(ctx, l.Sink)
				if ctx.Err() != nil {
					return
				}
				klog.ErrorS(err, "A source of events broke, opening it again")
				l.Closed.Add(1)
				l.Sink.Resync("a source of events broke")
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
func (l Listener) reopen(ctx context.Context, wait time.Duration) events.Source {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(wait):
	}
	source, err := l.Open()
	if err != nil {
		klog.V(2).InfoS("Cannot listen to the host's events yet", "err", err)
		return nil
	}
	l.Closed.Add(-1)
	klog.InfoS("Listening to the host's events again")
	l.Sink.Resync("a source of events was opened again")
	return source
}
