// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"qatplugin/internal/status"
)

// errNotIdle is why a loop did not answer.
var errNotIdle = errors.New("the event loop does not respond: it waits for the kernel, has not started or has ended")

// inspections let other goroutines see the state of a loop.
type inspections struct {
	requests chan chan<- *view // received by the running loop; each request has room for its answer
	last     atomic.Pointer[view]
}

// A view is a copy of what a loop knew at one time. It does not change.
type view struct {
	loop  status.Loop
	addTo func(s *status.Snapshot, skipped map[string]string) // see [Mode]; nil: the loop has not run
}

// AddStatus adds the state of the loop and of its mode to s. It waits until the loop is idle and
// has copied its state. If that does not happen before ctx ends, the state is the one that the loop
// copied last, and has an Err.
func (l *Loop) AddStatus(ctx context.Context, s *status.Snapshot) {
	v, err := l.inspect(ctx)
	loop := v.loop
	loop.Name = l.name()
	if err != nil {
		loop.Err = err.Error()
	}
	s.Loops = append(s.Loops, loop)
	if v.addTo != nil {
		v.addTo(s, loop.Skipped)
	}
}

// inspect returns the state of the loop, or an error and the state that it copied last.
func (l *Loop) inspect(ctx context.Context) (*view, error) {
	answer := make(chan *view, 1)
	select {
	case l.views.requests <- answer:
	case <-ctx.Done():
		return l.lastView(), errNotIdle
	}
	select {
	case v := <-answer:
		l.views.last.Store(v)
		return v, nil
	case <-ctx.Done():
		return l.lastView(), errNotIdle
	}
}

func (l *Loop) lastView() *view {
	if v := l.views.last.Load(); v != nil {
		return v
	}
	return &view{}
}

// view copies the state of the loop. It runs in the goroutine of the loop, and copies no more than
// it must.
func (s *session[K]) view() *view {
	v := &view{loop: status.Loop{
		Complete:      s.state.Complete,
		MayMissEvents: s.mayMissEvents(),
		Skipped:       maps.Clone(s.state.Skipped),
	}, addTo: s.mode.Snapshot()}
	if err := s.loop.CheckKernelHeard(context.Background()); err != nil {
		v.loop.Uevents = err.Error()
	}
	if next := s.audits.next; !next.IsZero() {
		v.loop.NextAudit = new(time.Time)
		*v.loop.NextAudit = next
	}
	return v
}
