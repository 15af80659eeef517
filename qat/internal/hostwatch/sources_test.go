// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
)

// sourceFunc is a source that consists of its Run.
type sourceFunc func(ctx context.Context, sink events.Sink) error

func (f sourceFunc) Run(ctx context.Context, sink events.Sink) error { return f(ctx, sink) }

// resyncs records resyncs, and whether all sources were open at that time.
type resyncs struct {
	sources *sources
	list    []string
}

func (r *resyncs) Event(*events.Event) {}
func (r *resyncs) Resync(reason string) {
	state := ", open"
	if r.sources.closed.Load() > 0 {
		state = ", closed"
	}
	r.list = append(r.list, reason+state)
}

// The back-off grows while a source fails again and again, and starts over
// after it has worked for a while.
func TestFailedSourceIsReopenedWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lives := []time.Duration{0, 0, 0, reopenMax + time.Second, 0, time.Hour}
		var opened []time.Duration
		var s sources
		started, sink := time.Now(), &resyncs{sources: &s}
		open := func() (events.Source, error) {
			life := lives[len(opened)]
			opened = append(opened, time.Since(started))
			return sourceFunc(func(ctx context.Context, _ events.Sink) error {
				select {
				case <-time.After(life):
				case <-ctx.Done():
				}
				return errors.New("failed")
			}), nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		s.start(ctx, open, sink)
		time.Sleep(10 * time.Minute)
		cancel()
		s.readers.Wait()
		long := 7*time.Second + reopenMax + time.Second // when the long-lived one fails
		want := []time.Duration{
			0, time.Second, 3 * time.Second, 7 * time.Second, long + time.Second, long + 3*time.Second,
		}
		if diff := cmp.Diff(want, opened); diff != "" {
			t.Errorf("opened at (-want +got):\n%s", diff)
		}
		var wantResyncs []string
		for range len(want) - 1 {
			wantResyncs = append(wantResyncs,
				"an event source failed, closed", "an event source was opened again, open")
		}
		if diff := cmp.Diff(wantResyncs, sink.list); diff != "" {
			t.Errorf("resyncs (-want +got):\n%s", diff)
		}
	})
}

// A source that is opened when the context has ended must still be run, because
// Run is what closes it.
func TestSourceOpenedTooLateIsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var s sources
		opened, ran := 0, 0
		open := func() (events.Source, error) {
			if opened++; opened == 1 {
				return nil, errors.New("not yet")
			}
			cancel()
			return sourceFunc(func(context.Context, events.Sink) error { ran++; return nil }), nil
		}
		s.start(ctx, open, &resyncs{sources: &s})
		s.readers.Wait()
		if opened != 2 || ran != 1 {
			t.Errorf("opened %d times and ran %d times, want 2 and 1", opened, ran)
		}
	})
}

// A function that opens a source may return an interface that is not nil with its error.
func TestSourceThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sources
		var opened []time.Duration
		started := time.Now()
		unopened := sourceFunc(func(ctx context.Context, _ events.Sink) error {
			t.Error("a source that could not be opened is run")
			<-ctx.Done()
			return nil
		})
		open := func() (events.Source, error) {
			opened = append(opened, time.Since(started))
			return unopened, errors.New("too many open files")
		}
		ctx, cancel := context.WithCancel(t.Context())
		s.start(ctx, open, &resyncs{sources: &s})
		time.Sleep(200 * time.Second)
		cancel()
		s.readers.Wait()
		var want []time.Duration
		for _, seconds := range []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183} {
			want = append(want, seconds*time.Second)
		}
		if diff := cmp.Diff(want, opened); diff != "" {
			t.Errorf("opened at (-want +got):\n%s", diff)
		}
		if n := s.closed.Load(); n != 1 {
			t.Errorf("%d sources are closed, want 1", n)
		}
	})
}
