// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(second int) time.Time { return epoch.Add(time.Duration(second) * time.Second) }

// woken reports whether the mailbox signalled, and takes the signal.
func woken[K comparable](m *Mailbox[K]) bool {
	select {
	case <-m.Wake():
		return true
	default:
		return false
	}
}

// wantDirty checks the keys of a batch.
func wantDirty[K comparable](t tester, b *Batch[K], want ...Dirty[K]) {
	t.Helper()
	if diff := cmp.Diff(want, b.Dirty, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("dirty keys (-want +got):\n%s", diff)
	}
}

func TestMailboxKeepsFirstMarkOfEachKey(t *testing.T) {
	m := NewMailbox[string](10)
	m.Mark("b", at(1))
	m.Mark("a", at(2))
	m.Mark("b", at(3))
	if !woken(m) {
		t.Error("Mark did not signal")
	}
	var b Batch[string]
	m.Take(&b)
	wantDirty(t, &b, Dirty[string]{"b", at(1)}, Dirty[string]{"a", at(2)})
	m.Mark("b", at(4))
	m.Take(&b)
	wantDirty(t, &b, Dirty[string]{"b", at(4)})
	if woken(m) {
		t.Error("Take left the signal")
	}
}

func TestMailboxBeyondLimitIsOneResync(t *testing.T) {
	m := NewMailbox[int](3)
	for key := range 100 {
		m.Mark(key, at(5+key))
	}
	var b Batch[int]
	m.Take(&b)
	wantDirty(t, &b)
	if len(b.Resync) != 1 || !b.ResyncSince.Equal(at(5)) {
		t.Errorf("Resync %q since %v, want one since the first mark", b.Resync, b.ResyncSince)
	}
	m.Mark(7, at(200))
	m.Take(&b)
	wantDirty(t, &b, Dirty[int]{7, at(200)})
	if len(b.Resync) != 0 {
		t.Errorf("Resync %q in the next batch", b.Resync)
	}
}

func TestMailboxAtLimitKeepsKeys(t *testing.T) {
	m := NewMailbox[int](3)
	for i := range 30 {
		m.Mark(i%3, at(i))
	}
	var b Batch[int]
	m.Take(&b)
	wantDirty(t, &b, Dirty[int]{0, at(0)}, Dirty[int]{1, at(1)}, Dirty[int]{2, at(2)})
	if len(b.Resync) != 0 {
		t.Errorf("Resync %q", b.Resync)
	}
}

func TestMailboxLimitIsAtLeastOne(t *testing.T) {
	for _, limit := range []int{-1, 0} {
		m := NewMailbox[int](limit)
		var b Batch[int]
		m.Mark(1, at(1))
		m.Take(&b)
		wantDirty(t, &b, Dirty[int]{1, at(1)})
		m.Mark(1, at(2))
		m.Mark(2, at(3))
		m.Take(&b)
		wantDirty(t, &b)
		if len(b.Resync) != 1 {
			t.Errorf("limit %d: Resync %q, want one for the second key", limit, b.Resync)
		}
	}
}

func TestMailboxKeepsDistinctResyncReasons(t *testing.T) {
	m := NewMailbox[int](3)
	m.Resync("overflow", at(9))
	m.Mark(1, at(10))
	m.Resync("overflow", at(11))
	m.Resync("malformed", at(2))
	if !woken(m) {
		t.Error("Resync did not signal")
	}
	var b Batch[int]
	m.Take(&b)
	if diff := cmp.Diff([]string{"overflow", "malformed"}, b.Resync); diff != "" || !b.ResyncSince.Equal(at(2)) {
		t.Errorf("since %v, reasons (-want +got):\n%s", b.ResyncSince, diff)
	}
	wantDirty(t, &b, Dirty[int]{1, at(10)})
	for i := range 100 {
		m.Resync(fmt.Sprint("reason ", i), at(20))
	}
	m.Take(&b)
	if len(b.Resync) != maxReasons {
		t.Errorf("%d reasons, want %d", len(b.Resync), maxReasons)
	}
	m.Take(&b)
	if len(b.Resync) != 0 || !b.ResyncSince.IsZero() {
		t.Errorf("Resync %q since %v after it was taken", b.Resync, b.ResyncSince)
	}
}

// wantTrace takes the trace and checks the paths of its records.
func wantTrace(t *testing.T, m *Mailbox[int], lost int, want ...string) {
	t.Helper()
	var b Batch[int]
	m.Take(&b)
	var got []string
	for _, r := range b.Trace {
		got = append(got, r.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" || b.TraceLost != lost {
		t.Errorf("%d records lost, want %d; records (-want +got):\n%s", b.TraceLost, lost, diff)
	}
}

func TestMailboxTraceKeepsNewestRecords(t *testing.T) {
	m := NewMailbox[int](3)
	note := func(n int) {
		for i := range n {
			m.Note(Record[int]{Path: fmt.Sprint(i), Key: i})
		}
	}
	note(1)
	if woken(m) {
		t.Error("Note signalled without SetTrace")
	}
	wantTrace(t, m, 0)
	m.SetTrace(3)
	for _, tt := range []struct {
		notes, lost int
		want        []string
	}{
		{0, 0, nil},
		{2, 0, []string{"0", "1"}},
		{3, 0, []string{"0", "1", "2"}},
		{5, 2, []string{"2", "3", "4"}},
		{1, 0, []string{"0"}},
	} {
		note(tt.notes)
		if got := woken(m); got != (tt.notes > 0) {
			t.Errorf("signal after %d notes: %v", tt.notes, got)
		}
		wantTrace(t, m, tt.lost, tt.want...)
	}
}

func TestMarkNotedMarksTheKeyAndKeepsTheRecord(t *testing.T) {
	m := NewMailbox[int](1)
	at := time.Unix(1, 0)
	m.MarkNoted(Record[int]{Path: "lost", Key: 1, Time: at}) // without SetTrace, only the key
	var b Batch[int]
	m.Take(&b)
	if want := []Dirty[int]{{1, at}}; !slices.Equal(b.Dirty, want) || len(b.Trace) > 0 {
		t.Errorf("without a trace: %v and the records %v, want %v", b.Dirty, b.Trace, want)
	}
	m.SetTrace(2)
	m.MarkNoted(Record[int]{Path: "a", Key: 2, Time: at})
	m.MarkNoted(Record[int]{Path: "b", Key: 3, Time: at}) // more keys than the limit
	if !woken(m) {
		t.Error("MarkNoted did not wake")
	}
	m.Take(&b)
	if len(b.Resync) != 1 || len(b.Trace) != 2 || b.Trace[1].Path != "b" {
		t.Errorf("Resync %q and the records %v, want one reason and both records", b.Resync, b.Trace)
	}
}

func TestSetTraceDropsEarlierRecords(t *testing.T) {
	m := NewMailbox[int](3)
	m.SetTrace(2)
	for _, path := range []string{"a", "b", "c"} {
		m.Note(Record[int]{Path: path})
	}
	m.SetTrace(3)
	m.Note(Record[int]{Path: "d"})
	wantTrace(t, m, 0, "d")
	m.SetTrace(-1)
	m.Note(Record[int]{Path: "e"})
	wantTrace(t, m, 0)
}

func TestMailboxDoesNotAllocateOnceWarm(t *testing.T) {
	m := NewMailbox[[4]uint64](100)
	var b Batch[[4]uint64]
	now := time.Now()
	round := uint64(0)
	turn := func() {
		for key := range uint64(64) {
			m.Mark([4]uint64{key + round%3}, now) // some keys differ from round to round
		}
		m.Resync("overflow", now)
		<-m.Wake()
		m.Take(&b)
		round++
	}
	turn()
	if allocs := testing.AllocsPerRun(1000, turn); allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func TestMailboxForgetsUnusedKeys(t *testing.T) {
	m := NewMailbox[int](10)
	var b Batch[int]
	for key := range 10_000 {
		m.Mark(key, at(0))
		m.Take(&b)
		wantDirty(t, &b, Dirty[int]{key, at(0)})
		if len(m.marked) > 2*10+1 {
			t.Fatalf("%d keys are kept with a limit of 10", len(m.marked))
		}
	}
}

// In any order of calls, each mark is in the next batch, as its key or as a Resync.
func TestMailboxLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		m := NewMailbox[int](limit)
		var b Batch[int]
		first, resyncs := map[int]time.Time{}, map[string]bool{}
		order := []int{}
		clock := 0
		t.Repeat(map[string]func(*rapid.T){
			"mark": func(t *rapid.T) {
				key := rapid.IntRange(0, 9).Draw(t, "key")
				clock++
				m.Mark(key, at(clock))
				if _, marked := first[key]; !marked {
					first[key] = at(clock)
					order = append(order, key)
				}
			},
			"resync": func(t *rapid.T) {
				reason := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "reason")
				m.Resync(reason, at(clock))
				resyncs[reason] = true
			},
			"take": func(t *rapid.T) {
				if got := woken(m); got != (len(first)+len(resyncs) > 0) {
					t.Fatalf("signal: %v, with %d keys and %d reasons", got, len(first), len(resyncs))
				}
				m.Take(&b)
				var want []Dirty[int]
				if len(order) > limit {
					resyncs["more changes than the mailbox holds"] = true
				} else {
					for _, key := range order {
						want = append(want, Dirty[int]{key, first[key]})
					}
				}
				wantDirty(t, &b, want...)
				got := map[string]bool{}
				for _, reason := range b.Resync {
					got[reason] = true
				}
				if diff := cmp.Diff(resyncs, got); diff != "" {
					t.Fatalf("reasons (-want +got):\n%s", diff)
				}
				first, resyncs, order = map[int]time.Time{}, map[string]bool{}, order[:0]
			},
		})
	})
}

func TestMailboxWithManyWriters(t *testing.T) {
	const writers, keys = 8, 500
	m := NewMailbox[int](writers * keys)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for key := range keys {
				m.Mark(w*keys+key, at(0))
			}
		})
	}
	seen := map[int]bool{}
	var b Batch[int]
	for len(seen) < writers*keys {
		await(t, "a mark", m.Wake())
		m.Take(&b)
		for _, d := range b.Dirty {
			if seen[d.Key] {
				t.Fatalf("key %d was taken twice", d.Key)
			}
			seen[d.Key] = true
		}
	}
	wg.Wait()
}

func BenchmarkMailbox(b *testing.B) {
	for _, keys := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(keys, "keys"), func(b *testing.B) {
			m := NewMailbox[[3]uint64](4096)
			var batch Batch[[3]uint64]
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				for key := range uint64(keys) {
					m.Mark([3]uint64{key}, now)
				}
				m.Take(&batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*keys), "ns/key")
		})
	}
}
