package events

import "context"

// Source delivers events from one part of the kernel.
type Source interface {
	// Run hands every event to sink, from this goroutine, until ctx ends (then it returns nil) or the source cannot go on. It is
	// called once.
	Run(ctx context.Context, sink Sink) error
}

// Sink takes events. Its methods return at once and may be called from several goroutines, one for each source.
type Sink interface {
	// Event says that something changed at e.Path. e and all its bytes are valid only during the call.
	Event(e *Event)
	// Resync says that events were lost, and why: look at everything again.
	Resync(reason string)
}
