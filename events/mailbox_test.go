package events

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(second int) time.Time { return epoch.Add(time.Duration(second) * time.Second) }

func awake[K comparable](m *Mailbox[K]) bool {
	select {
	case <-m.Wake():
		return true
	default:
		return false
	}
}

func TestMailboxKeepsEachKeyOnceWithItsFirstTime(t *testing.T) {
	m := NewMailbox[string](10)
	m.Mark("b", at(1))
	m.Mark("a", at(2))
	m.Mark("b", at(3))
	if !awake(m) {
		t.Error("nobody was woken")
	}
	var b Batch[string]
	m.Take(&b)
	want := Batch[string]{Dirty: []Dirty[string]{{"b", at(1)}, {"a", at(2)}}}
	if diff := cmp.Diff(want.Dirty, b.Dirty); diff != "" {
		t.Errorf("order of arrival (-want +got):\n%s", diff)
	}
	m.Mark("b", at(4))
	m.Take(&b)
	if diff := cmp.Diff([]Dirty[string]{{"b", at(4)}}, b.Dirty); diff != "" {
		t.Errorf("marked again after it was taken (-want +got):\n%s", diff)
	}
	if awake(m) {
		t.Error("a signal is left though all was taken")
	}
}

func TestMailboxOverItsLimitIsOneResync(t *testing.T) {
	m := NewMailbox[int](3)
	for key := range 100 {
		m.Mark(key, at(5+key))
	}
	var b Batch[int]
	m.Take(&b)
	if len(b.Dirty) != 0 || len(b.Resync) != 1 || !b.ResyncSince.Equal(at(5)) {
		t.Errorf("got %d keys, Resync %q since %v; want no key and one Resync since the first mark", len(b.Dirty), b.Resync, b.ResyncSince)
	}
	m.Mark(7, at(200))
	m.Take(&b)
	if diff := cmp.Diff([]Dirty[int]{{7, at(200)}}, b.Dirty); diff != "" || len(b.Resync) != 0 {
		t.Errorf("afterwards keys count again, got Resync %q and (-want +got):\n%s", b.Resync, diff)
	}
}

func TestMailboxAtItsLimitKeepsItsKeys(t *testing.T) {
	m := NewMailbox[int](3)
	for i := range 30 {
		m.Mark(i%3, at(i))
	}
	var b Batch[int]
	m.Take(&b)
	if diff := cmp.Diff([]Dirty[int]{{0, at(0)}, {1, at(1)}, {2, at(2)}}, b.Dirty); diff != "" || len(b.Resync) != 0 {
		t.Errorf("Resync %q and (-want +got):\n%s", b.Resync, diff)
	}
}

func TestMailboxResyncReasonsAreFewAndDifferent(t *testing.T) {
	m := NewMailbox[int](3)
	m.Resync("overflow", at(9))
	m.Mark(1, at(10))
	m.Resync("overflow", at(11))
	m.Resync("malformed", at(2))
	if !awake(m) {
		t.Error("nobody was woken")
	}
	var b Batch[int]
	m.Take(&b)
	if diff := cmp.Diff([]string{"overflow", "malformed"}, b.Resync); diff != "" || !b.ResyncSince.Equal(at(2)) {
		t.Errorf("since %v, reasons (-want +got):\n%s", b.ResyncSince, diff)
	}
	if len(b.Dirty) != 1 {
		t.Errorf("%d keys, want the one that was marked", len(b.Dirty))
	}
	for i := range 100 {
		m.Resync(fmt.Sprint("reason ", i), at(20))
	}
	m.Take(&b)
	if len(b.Resync) != maxReasons {
		t.Errorf("%d reasons, want %d", len(b.Resync), maxReasons)
	}
	m.Take(&b)
	if len(b.Resync) != 0 || !b.ResyncSince.IsZero() {
		t.Errorf("after a Take there are still %q since %v", b.Resync, b.ResyncSince)
	}
}

func TestMailboxTraceKeepsTheNewestRecords(t *testing.T) {
	m := NewMailbox[int](3)
	m.Note(Record[int]{Path: "/off"})
	if m.Tracing() || awake(m) {
		t.Error("a mailbox traces before it was asked to")
	}
	m.SetTrace(3)
	var b Batch[int]
	for _, tt := range []struct {
		notes int
		want  []string
		lost  int
	}{
		{0, []string{}, 0}, {2, []string{"0", "1"}, 0}, {3, []string{"0", "1", "2"}, 0}, {5, []string{"2", "3", "4"}, 2}, {1, []string{"0"}, 0},
	} {
		for i := range tt.notes {
			m.Note(Record[int]{Path: fmt.Sprint(i), Key: i})
		}
		if got := awake(m); got != (tt.notes > 0) {
			t.Errorf("after %d notes woken: %v", tt.notes, got)
		}
		m.Take(&b)
		got := []string{}
		for _, r := range b.Trace {
			got = append(got, r.Path)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || b.TraceLost != tt.lost {
			t.Errorf("%d notes: lost %d, want %d; records (-want +got):\n%s", tt.notes, b.TraceLost, tt.lost, diff)
		}
	}
}

func TestMailboxAllocatesNothingInSteadyState(t *testing.T) {
	m := NewMailbox[[4]uint64](100)
	var b Batch[[4]uint64]
	now := time.Now()
	round := uint64(0)
	turn := func() {
		for key := range uint64(64) {
			m.Mark([4]uint64{key + round%3}, now) // some keys change
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

func TestMailboxForgetsKeysOfLongAgo(t *testing.T) {
	m := NewMailbox[int](10)
	var b Batch[int]
	for key := range 10_000 {
		m.Mark(key, at(0))
		m.Take(&b)
		if len(b.Dirty) != 1 || b.Dirty[0].Key != key {
			t.Fatalf("key %d came back as %v", key, b.Dirty)
		}
		if len(m.seen) > 2*10+1 {
			t.Fatalf("%d keys are remembered with a limit of 10", len(m.seen))
		}
	}
}

// Whatever is marked and taken in whatever order: each mark is seen in the first batch after it, as its key or as a Resync.
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
				if _, there := first[key]; !there {
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
				if woken := awake(m); woken != (len(first)+len(resyncs) > 0) {
					t.Fatalf("woken %v with %d keys and %d reasons", woken, len(first), len(resyncs))
				}
				m.Take(&b)
				want := []Dirty[int]{}
				if len(order) > limit {
					resyncs["more changes than the mailbox holds"] = true
				} else {
					for _, key := range order {
						want = append(want, Dirty[int]{key, first[key]})
					}
				}
				if diff := cmp.Diff(want, append([]Dirty[int]{}, b.Dirty...)); diff != "" {
					t.Fatalf("keys (-want +got):\n%s", diff)
				}
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

func TestMailboxOfManyWriters(t *testing.T) {
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
		within(t, "a mark", m.Wake())
		m.Take(&b)
		for _, d := range b.Dirty {
			if seen[d.Key] {
				t.Fatalf("key %d was marked once and taken twice", d.Key)
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
