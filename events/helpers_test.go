// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// testTimeout limits each wait for something that must happen.
const testTimeout = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tester is the common part of testing.TB and rapid.T.
type tester interface {
	Helper()
	Cleanup(func())
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// observed is the part of an event that tests compare.
type observed struct {
	Action Action
	Path   string
}

// recorder is a Sink that records all calls.
type recorder struct {
	mu      sync.Mutex
	events  []observed
	resyncs []string
	ignored []Ignored
	changed chan struct{} // holds a token after each call
	onEvent func(*Event)
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (r *recorder) Event(e *Event) {
	if r.onEvent != nil {
		r.onEvent(e)
	}
	r.mu.Lock()
	r.events = append(r.events, observed{e.Action, string(e.Path)})
	r.mu.Unlock()
	r.signal()
}

func (r *recorder) Resync(reason string) {
	r.mu.Lock()
	r.resyncs = append(r.resyncs, reason)
	r.mu.Unlock()
	r.signal()
}

func (r *recorder) Ignored(m Ignored) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ignored = append(r.ignored, m)
}

func (r *recorder) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// all returns what was recorded so far.
func (r *recorder) all() (events []observed, resyncs []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events), slices.Clone(r.resyncs)
}

// wait waits until cond is true of what was recorded.
func (r *recorder) wait(t tester, what string, cond func(events []observed, resyncs []string) bool) {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		events, resyncs := r.all()
		if cond(events, resyncs) {
			return
		}
		select {
		case <-r.changed:
		case <-timeout:
			t.Fatalf("timeout waiting for %s; got %d events, the last ones %v, and Resyncs %q",
				what, len(events), events[max(0, len(events)-20):], resyncs)
		}
	}
}

func (r *recorder) waitFor(t tester, want observed) {
	t.Helper()
	r.wait(t, want.Action.String()+" "+want.Path, func(events []observed, _ []string) bool {
		return slices.Contains(events, want)
	})
}

func (r *recorder) waitForResyncs(t tester, n int) {
	t.Helper()
	r.wait(t, "Resync", func(_ []observed, resyncs []string) bool { return len(resyncs) >= n })
}

// wantIgnored checks the messages that were ignored so far.
func (r *recorder) wantIgnored(t tester, want ...Ignored) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.ignored, want) {
		t.Errorf("ignored %+v, want %+v", r.ignored, want)
	}
}

// wantResyncs checks the number of Resyncs so far.
func (r *recorder) wantResyncs(t tester, want int) {
	t.Helper()
	if _, resyncs := r.all(); len(resyncs) != want {
		t.Errorf("got Resyncs %q, want %d", resyncs, want)
	}
}

// start runs a source until stop is called or the test ends. Run must return nil.
func start(t tester, s Source, sink Sink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := goRun(ctx, s, sink)
	var once sync.Once // not OnceFunc, which turns Fatal into a panic
	stop = func() {
		once.Do(func() {
			cancel()
			if err := await(t, "the end of Run", done); err != nil {
				t.Errorf("Run: %v, want nil after the end of its context", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// goRun runs a source in a goroutine and returns the channel of its result.
func goRun(ctx context.Context, s Source, sink Sink) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, sink) }()
	return done
}

// wantSecondRunRefused checks that a source that has run returns an error that says so.
func wantSecondRunRefused(t tester, s Source) {
	t.Helper()
	if err := s.Run(context.Background(), newRecorder()); err == nil || errors.Is(err, os.ErrClosed) {
		t.Errorf("second Run: %v, want an error other than os.ErrClosed", err)
	}
}

// await receives from c.
func await[T any](t tester, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(testTimeout):
		t.Fatalf("timeout waiting for %s", what)
	}
	return v
}

func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantNoDescriptorLeft checks that f closes every descriptor that it opens.
func wantNoDescriptorLeft(t testing.TB, f func()) {
	t.Helper()
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := open()
	f()
	if after := open(); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}
