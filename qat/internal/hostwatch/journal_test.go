// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/status"
)

// treeOf returns a Tree after old with these devices in resource cy: ID → reason, "" for a healthy
// one.
func treeOf(t *testing.T, old *devtree.Tree, devices map[string]string) *devtree.Tree {
	t.Helper()
	b := (&devtree.Tree{}).Edit()
	for id, reason := range devices {
		d := &devtree.Device{ID: id, Health: devtree.Healthy}
		if reason != "" {
			d.Health, d.Reason = devtree.Unhealthy, reason
		}
		if err := b.Put("cy", d); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build().After(old)
}

func TestJournalTellsWhatEventsLedTo(t *testing.T) {
	journal := status.NewJournal(100)
	mode := completeMode()
	config := Config{AuditInterval: -1, Journal: journal}
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(t *testing.T, l *loopTest) {
		start := time.Now()
		want := func(want ...status.Event) {
			t.Helper()
			seen := len(journal.Since(0))
			l.pass(logDelay)
			got := journal.Since(uint64(seen))
			ignore := cmpopts.IgnoreFields(status.Event{}, "Seq", "Loop")
			if diff := cmp.Diff(want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("journal (-want +got):\n%s", diff)
			}
			for _, e := range got {
				if e.Loop != "devices" {
					t.Errorf("event of the loop %q", e.Loop)
				}
			}
		}
		first := treeOf(t, nil, map[string]string{"a": "", "b": "", "c": "broken"})
		mode.set(func() { mode.state.Tree = first })
		l.event("/devices/a")
		synctest.Wait()
		l.event("/devices/other") // not relevant
		want(
			status.Event{
				Time: start, Kind: status.KindUevent, Action: "change", Path: "/devices/a", Device: "a",
				Text: "handled a",
			},
			status.Event{Time: start, Kind: status.KindChange, Resource: "cy", Device: "a", Text: "added"},
			status.Event{Time: start, Kind: status.KindChange, Resource: "cy", Device: "b", Text: "added"},
			status.Event{Time: start, Kind: status.KindChange, Resource: "cy", Device: "c", Text: "added: broken"},
		)

		now := time.Now()
		second := treeOf(t, first, map[string]string{"b": "failed", "c": ""})
		l.during(func() {
			l.sink.Resync("overflow")
			e := &events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte("/sys/b"), Time: now}
			l.sink.Event(e)
			nextTurn := sync.OnceFunc(func() {
				mode.set(func() {
					mode.state.Tree = second
					mode.state.Drift = []Finding{{Device: "b", Text: "before: fine"}}
				})
			})
			mode.set(func() { mode.during = nextTurn })
		})
		want(
			status.Event{
				Time: now, Kind: status.KindUevent, Action: "change", Path: "/devices/busy", Device: "busy",
				Text: "handled busy",
			},
			status.Event{Time: now, Kind: status.KindResync, Text: "overflow"},
			status.Event{
				Time: now, Kind: status.KindInotify, Action: "write", Path: "/sys/b", Device: "b", Text: "handled b",
			},
			status.Event{Time: now, Kind: status.KindDrift, Device: "b", Text: "before: fine"},
			status.Event{Time: now, Kind: status.KindChange, Resource: "cy", Device: "a", Text: "removed"},
			status.Event{Time: now, Kind: status.KindChange, Resource: "cy", Device: "b", Text: "unhealthy: failed"},
			status.Event{Time: now, Kind: status.KindChange, Resource: "cy", Device: "c", Text: "healthy again"},
		)
	})
}

func TestIrrelevantEventsDoNotWakeALoopWithAJournal(t *testing.T) {
	mode := completeMode()
	turns := 0
	mode.during = func() { turns++ }
	config := Config{AuditInterval: -1, Journal: status.NewJournal(10)}
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(t *testing.T, l *loopTest) {
		before := turns
		for range 10 {
			l.event("/devices/other")
		}
		l.pass(time.Hour)
		if turns != before {
			t.Errorf("%d turns for events that concern nothing", turns-before)
		}
		l.event("/devices/a")
		l.pass(time.Hour)
		if turns != before+1 {
			t.Errorf("%d turns for one event, want 1", turns-before)
		}
	})
}

func TestPublishingIsCalledBeforeATreeIsPublished(t *testing.T) {
	mode := completeMode()
	type call struct {
		old, new  *devtree.Tree
		since     time.Time
		published int
	}
	var calls []call
	var test *loopTest
	config := Config{AuditInterval: -1, Publishing: func(old, new *devtree.Tree, since time.Time) {
		n := 0
		if test != nil {
			n = len(test.published)
		}
		calls = append(calls, call{old, new, since, n})
	}}
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(t *testing.T, l *loopTest) {
		test = l
		first, second := mode.state.Tree, treeOf(t, mode.state.Tree, map[string]string{"a": ""})
		start := time.Now()
		l.pass(time.Second)
		mode.set(func() { mode.state.Tree = second })
		mode.host.Mark("a", start.Add(time.Millisecond))
		synctest.Wait()
		want := []call{{nil, first, start, 0}, {first, second, start.Add(time.Millisecond), 1}}
		if !slices.Equal(calls, want) {
			t.Errorf("calls %v, want %v", calls, want)
		}
	})
}
