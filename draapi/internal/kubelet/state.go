// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
)

// A Status is how the kubelet sees the driver.
type Status struct {
	Err           error     // why the driver is not registered or not connected; nil if it is
	Answered      time.Time // when the kubelet last answered a registration; zero if it did not
	Connections   int       // of the kubelet
	HealthStreams int
	HealthSent    time.Time // when the last message of any health stream was sent; zero if none was
}

// state holds what the calls of the kubelet have shown. Its methods may be called from any
// goroutine.
type state struct {
	wake chan struct{} // of the reconciler; buffers one signal

	mu          sync.Mutex // guards the fields below
	unserved    error      // why a socket is missing; nil if both are in place
	answered    time.Time  // zero until the kubelet has answered for the newest registration socket
	refused     error      // the kubelet's error
	connections int
	streams     int
	healthSent  time.Time
}

func (s *state) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		Err:           s.problem(),
		Answered:      s.answered,
		Connections:   s.connections,
		HealthStreams: s.streams,
		HealthSent:    s.healthSent,
	}
}

// problem returns why the kubelet does not use the driver, or nil. The caller holds mu.
func (s *state) problem() error {
	switch {
	case s.unserved != nil:
		return s.unserved
	case s.refused != nil:
		return fmt.Errorf("the kubelet refuses the registration: %w", s.refused)
	case s.answered.IsZero():
		return errors.New("the kubelet has not registered the driver yet")
	case s.connections == 0:
		return errors.New("the kubelet is not connected")
	}
	return nil
}

// signal wakes the reconciler. A pending signal covers this one.
func (s *state) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// answer records the kubelet's answer to a registration.
func (s *state) answer(err error) {
	s.mu.Lock()
	s.answered, s.refused = time.Now(), err
	s.mu.Unlock()
	s.signal()
}

// forget forgets the kubelet's answer, because there is a new registration socket.
func (s *state) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered, s.refused = time.Time{}, nil
}

// setUnserved records why a socket is missing; nil means that both are in place.
func (s *state) setUnserved(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unserved = err
}

// openStream counts a health stream until its end.
func (s *state) openStream() (closeStream func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams--
	}
}

func (s *state) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healthSent = time.Now()
}

// TagRPC implements [stats.Handler].
func (s *state) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements [stats.Handler].
func (s *state) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn implements [stats.Handler].
func (s *state) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler]. It counts the connections of the kubelet.
func (s *state) HandleConn(_ context.Context, event stats.ConnStats) {
	s.mu.Lock()
	switch event.(type) {
	case *stats.ConnBegin:
		s.connections++
	case *stats.ConnEnd:
		s.connections--
	}
	s.mu.Unlock()
	s.signal()
}
