package follow

import (
	"context"
	"errors"
	"sync/atomic"
)

// Vitals are what can be asked of a mode from outside, from any goroutine, while it watches.
type Vitals struct {
	Hearing *Hearing

	pings  chan struct{} // taken by the loop
	looked atomic.Bool
}

// NewVitals are those of a mode that listens with this hearing.
func NewVitals(h *Hearing) Vitals { return Vitals{Hearing: h, pings: make(chan struct{})} }

// Pings is for the loop to receive from whenever it waits for something to do.
func (v *Vitals) Pings() <-chan struct{} { return v.pings }

// Looked notes that the host was looked at as a whole.
func (v *Vitals) Looked() { v.looked.Store(true) }

// CheckEventLoop has the loop turn. The error says that it did not before ctx ended.
func (v *Vitals) CheckEventLoop(ctx context.Context) error {
	select {
	case v.pings <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errors.New("the event loop does not turn: it waits for the kernel, or it has not begun or has ended")
	}
}

// CheckFirstLook is an error until the host was looked at as a whole.
func (v *Vitals) CheckFirstLook(context.Context) error {
	if !v.looked.Load() {
		return errors.New("the host has not been looked at yet; the log says what is missing")
	}
	return nil
}

// CheckKernelHeard is an error while events are known to be missed, or before that is known.
func (v *Vitals) CheckKernelHeard(context.Context) error { return v.Hearing.check() }
