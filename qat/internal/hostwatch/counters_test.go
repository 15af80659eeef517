// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
	"qatplugin/internal/status"
)

func TestUeventsAreCountedByActionAndSubsystemClass(t *testing.T) {
	l := New(Config{})
	for _, message := range []string{
		"add@/devices/a\x00ACTION=add\x00DEVPATH=/devices/a\x00SUBSYSTEM=pci\x00SEQNUM=1\x00",
		"add@/devices/b\x00ACTION=add\x00DEVPATH=/devices/b\x00SUBSYSTEM=pci\x00SEQNUM=2\x00",
		"bind@/devices/a\x00ACTION=bind\x00DEVPATH=/devices/a\x00SUBSYSTEM=vfio-dev\x00SEQNUM=3\x00",
		"change@/devices/d\x00ACTION=change\x00DEVPATH=/devices/d\x00SUBSYSTEM=block\x00SEQNUM=4\x00",
		"change@/devices/n\x00ACTION=change\x00DEVPATH=/devices/n\x00SUBSYSTEM=net\x00SEQNUM=5\x00",
	} {
		e := &events.Event{}
		if err := events.ParseUevent(e, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(1, func() { l.counters.received(e) }); n > 0 { // it runs twice
			t.Errorf("counting allocates %v times", n)
		}
	}
	l.counters.received(&events.Event{Origin: events.Inotify, Action: events.Write})
	l.counters.ignored(events.Ignored{Malformed: true})
	l.counters.ignored(events.Ignored{})
	l.counters.ignored(events.Ignored{})
	want := status.Counters{
		Uevents: map[string]map[string]uint64{
			"add": {"pci": 4}, "bind": {"vfio-dev": 2}, "change": {"other": 4},
		},
		Inotify:   1,
		Malformed: 1,
		Rejected:  2,
		Loops:     map[string]status.LoopCounters{"devices": {}},
	}
	var got status.Counters
	l.AddCounters(&got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	// The second loop of a process receives the same uevents.
	second := New(Config{Leader: l, Name: "second"})
	second.counters.received(&events.Event{Origin: events.Uevent})
	second.counters.received(&events.Event{Origin: events.Inotify})
	second.AddCounters(&got)
	want.Inotify, want.Loops["second"] = 2, status.LoopCounters{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters of two loops (-want +got):\n%s", diff)
	}
}

func TestLoopCountsWhatItDoes(t *testing.T) {
	config, mode := Config{AuditInterval: time.Hour}, completeMode()
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(t *testing.T, l *loopTest) {
		l.sink.Resync("overflow")
		synctest.Wait()
		mode.set(func() { mode.state.Drift = []Finding{{}, {}} })
		l.event("/devices/a")
		synctest.Wait()
		l.pass(time.Hour)
		var got status.Counters
		l.AddCounters(&got)
		want := status.LoopCounters{Turns: 4, Resyncs: 1, Audits: 1, Drift: 2}
		if got.Loops["devices"] != want {
			t.Errorf("counters %+v, want %+v", got.Loops["devices"], want)
		}
	})
}

// countingSource breaks when told to, and has counters.
type countingSource struct {
	fail  chan struct{}
	drops atomic.Uint64
}

func (s *countingSource) Run(ctx context.Context, _ events.Sink) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.fail:
		return errors.New("broken")
	}
}

func (s *countingSource) Stats() events.UeventStats {
	n := s.drops.Load()
	return events.UeventStats{Received: 100, Overflows: n / 10, Drops: n}
}

func TestLossesOfReopenedSourcesAreSummed(t *testing.T) {
	var source *countingSource
	config := Config{AuditInterval: -1, Sources: []func() (events.Source, error){func() (events.Source, error) {
		source = &countingSource{fail: make(chan struct{})}
		return source, nil
	}}}
	captureLog(t)
	runLoop(t, fakeEnvironment{ordinary: true}, config, completeMode(), func(t *testing.T, l *loopTest) {
		want := func(overflows, dropped uint64) {
			t.Helper()
			var got status.Counters
			l.AddCounters(&got)
			if got.Overflows != overflows || got.Dropped != dropped {
				t.Errorf("%d overflows, %d dropped, want %d and %d", got.Overflows, got.Dropped, overflows, dropped)
			}
		}
		source.drops.Store(20)
		want(2, 20)
		close(source.fail)
		l.pass(reopenFirst)
		want(2, 20)
		source.drops.Store(10)
		want(3, 30)
	})
}

func TestLoopStatusIsTheLastOneWhileTheLoopIsBusy(t *testing.T) {
	mode := completeMode()
	mode.state.Skipped = map[string]string{"a": "it is broken"}
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: time.Hour}, mode, func(t *testing.T, l *loopTest) {
		get := func() status.Loop {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var s status.Snapshot
			l.AddStatus(ctx, &s)
			if len(s.Loops) != 1 {
				t.Fatalf("%d loops", len(s.Loops))
			}
			return s.Loops[0]
		}
		got := get()
		if got.Name != "devices" || got.Err != "" || !got.Complete || got.NextAudit == nil ||
			!strings.Contains(got.Uevents, "has not answered") || got.Skipped["a"] != "it is broken" {
			t.Errorf("status %+v", got)
		}
		l.answer()
		got = get()
		if want := time.Now().Add(time.Hour); got.Uevents != "" || got.MayMissEvents || !got.NextAudit.Equal(want) {
			t.Errorf("status %+v, want the next audit at %v", got, want)
		}
		release := make(chan struct{})
		mode.set(func() {
			mode.state.Skipped = map[string]string{}
			mode.during = func() { <-release }
		})
		l.event("/devices/busy")
		synctest.Wait()
		got.Err = errNotIdle.Error()
		if diff := cmp.Diff(got, get()); diff != "" {
			t.Errorf("while the loop is busy (-want +got):\n%s", diff)
		}
		close(release)
		synctest.Wait()
		if got := get(); got.Err != "" || len(got.Skipped) > 0 {
			t.Errorf("after that: %+v", got)
		}
	})
}

func TestLoopThatDoesNotRunHasAStatus(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s status.Snapshot
	New(Config{Name: "provisioning"}).AddStatus(ctx, &s)
	want := []status.Loop{{Name: "provisioning", Err: errNotIdle.Error()}}
	if diff := cmp.Diff(want, s.Loops); diff != "" {
		t.Errorf("loops (-want +got):\n%s", diff)
	}
}
