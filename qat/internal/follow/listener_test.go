package follow

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
)

type sourceFunc func(ctx context.Context, sink events.Sink) error

func (f sourceFunc) Run(ctx context.Context, sink events.Sink) error { return f(ctx, sink) }

// sink notes what it is told, and how many sources are closed then.
type sink struct {
	closed *atomic.Int32
	heard  []string
}

func (s *sink) Event(*events.Event) {}
func (s *sink) Resync(reason string) {
	state := ", open"
	if s.closed.Load() > 0 {
		state = ", closed"
	}
	s.heard = append(s.heard, reason+state)
}

// A source that breaks time and again is opened less and less often; one that breaks once in a while is opened at once.
func TestASourceThatBreaksIsOpenedAnewWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		var opened []time.Duration
		lives := []time.Duration{0, 0, 0, reopenMax + time.Second, 0, time.Hour}
		started, s := time.Now(), &sink{closed: &closed}
		l := Listener{Sink: s, Closed: &closed, Open: func() (events.Source, error) {
			life := lives[len(opened)]
			opened = append(opened, time.Since(started))
			return sourceFunc(func(ctx context.Context, _ events.Sink) error {
				select {
				case <-time.After(life):
				case <-ctx.Done():
				}
				return errors.New("broken")
			}), nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		deliver := l.Listen()
		go func() { defer close(ended); deliver(ctx) }()
		time.Sleep(10 * time.Minute)
		cancel()
		<-ended
		long := 7*time.Second + reopenMax + time.Second // until the one that lived for long breaks
		want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, long + time.Second, long + 3*time.Second}
		if diff := cmp.Diff(want, opened); diff != "" {
			t.Errorf("opened at (-want +got):\n%s", diff)
		}
		var heard []string
		for range len(want) - 1 {
			heard = append(heard, "a source of events broke, closed", "a source of events was opened again, open")
		}
		if diff := cmp.Diff(heard, s.heard); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}
