// SPDX-License-Identifier: Apache-2.0

package readpool

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A source is what a Pool reads in a test. The value of a key is the number of reads of it so far.
type source struct {
	pool  *Pool[int, int, atomic.Int64]
	wakes atomic.Int64

	mu    sync.Mutex // guards the following fields
	begun map[int]int
	held  map[int]chan struct{} // reads of these keys block until the channel is closed
	takes map[int]time.Duration // how long reads of these keys take
}

// newSource returns a source. It must be called in a testing/synctest bubble.
func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{begun: map[int]int{}, held: map[int]chan struct{}{}, takes: map[int]time.Duration{}}
	s.pool = New(s.read, func() { s.wakes.Add(1) })
	t.Cleanup(s.pool.Close)
	return s
}

func (s *source) read(key int, progress *atomic.Int64) int {
	progress.Store(int64(key))
	s.mu.Lock()
	s.begun[key]++
	n, held, d := s.begun[key], s.held[key], s.takes[key]
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	time.Sleep(d)
	return n
}

// hold makes reads of the keys block until release is called.
func (s *source) hold(t *testing.T, keys ...int) (release func()) {
	t.Helper()
	held := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		s.held[key] = held
	}
	release = sync.OnceFunc(func() {
		s.mu.Lock()
		clear(s.held)
		s.mu.Unlock()
		close(held)
		synctest.Wait()
	})
	t.Cleanup(release)
	return release
}

// wantReads fails the test unless the keys have been read this number of times.
func (s *source) wantReads(t *testing.T, want int, keys ...int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if n := s.begun[key]; n != want {
			t.Errorf("key %d was read %d times, want %d", key, n, want)
		}
	}
}

// upTo returns the numbers below n.
func upTo(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i)
	}
	return numbers
}

func keysOf(results []Result[int, int]) (keys []int) {
	for _, r := range results {
		keys = append(keys, r.Key)
	}
	return keys
}

func wantEqual(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestReadReturnsResultsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		for n := range 3 {
			inOrder, concurrent := s.pool.Read([]int{3, 1, 2})
			wantEqual(t, "in order", []Result[int, int]{
				{Key: 3, Value: n + 1}, {Key: 1, Value: n + 1}, {Key: 2, Value: n + 1},
			}, inOrder)
			if len(concurrent) > 0 || len(s.pool.Outstanding()) > 0 || s.wakes.Load() > 0 {
				t.Errorf("concurrent %v, outstanding %v, %d wakes; want none",
					concurrent, s.pool.Outstanding(), s.wakes.Load())
			}
		}
		if inOrder, concurrent := s.pool.Read(nil); inOrder != nil || concurrent != nil {
			t.Errorf("reading no key returned %v and %v", inOrder, concurrent)
		}
	})
}

func TestReadsShorterThanWaitStayInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		keys := upTo(50)
		for _, key := range keys {
			s.takes[key] = Wait - time.Nanosecond
		}
		inOrder, _ := s.pool.Read(keys)
		wantEqual(t, "in order", keys, keysOf(inOrder))
		for _, key := range keys {
			if inOrder, _ := s.pool.Read([]int{key}); len(inOrder) != 1 {
				t.Errorf("the read of %d was abandoned", key)
			}
		}
	})
}

func TestBlockedReadsDelayReadOnce(t *testing.T) {
	keys := upTo(64)
	for name, tt := range map[string]struct {
		blocked []int
		inOrder []int
	}{
		"first":        {[]int{0}, nil},
		"in between":   {[]int{30, 40, 41}, upTo(30)},
		"last":         {[]int{63}, upTo(63)},
		"all":          {keys, nil},
		"all but last": {upTo(63), nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSource(t)
				release := s.hold(t, tt.blocked...)
				start := time.Now()
				inOrder, concurrent := s.pool.Read(keys)
				if took := time.Since(start); took < Wait || took > 3*Wait {
					t.Errorf("Read took %v, want %v to %v", took, Wait, 3*Wait)
				}
				wantEqual(t, "in order", tt.inOrder, keysOf(inOrder))
				wantEqual(t, "outstanding", tt.blocked, slices.Sorted(slices.Values(s.pool.Outstanding())))
				all := slices.Concat(keysOf(inOrder), keysOf(concurrent), s.pool.Outstanding())
				slices.Sort(all)
				wantEqual(t, "read and outstanding", keys, all)
				for _, key := range tt.blocked {
					if got := s.pool.Progress(key).Load(); !s.pool.IsOutstanding(key) || got != int64(key) {
						t.Errorf("key %d: outstanding %v, progress %d", key, s.pool.IsOutstanding(key), got)
					}
				}
				if late := s.pool.Take(); len(late) > 0 {
					t.Errorf("Take returned %v, want nothing while the reads block", late)
				}
				synctest.Wait() // wake is called after a result can be taken
				s.wakes.Store(0)
				release()
				if n := int(s.wakes.Load()); n != len(tt.blocked) {
					t.Errorf("%d wakes, want one for each of %d reads", n, len(tt.blocked))
				}
				late := s.pool.Take()
				slices.SortFunc(late, func(a, b Result[int, int]) int { return a.Key - b.Key })
				wantEqual(t, "late", tt.blocked, keysOf(late))
				if len(s.pool.Outstanding()) > 0 || len(s.pool.Take()) > 0 {
					t.Error("results can be taken twice")
				}
				s.wantReads(t, 1, keys...)
			})
		})
	}
}

// What blocks need not delay the next Read, which has a new worker.
func TestOutstandingReadDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		s.hold(t, 1)
		s.pool.Read([]int{1})
		start := time.Now()
		for range 3 {
			inOrder, concurrent := s.pool.Read([]int{0, 1, 2})
			wantEqual(t, "in order", []int{0, 2}, keysOf(inOrder))
			if len(concurrent) > 0 {
				t.Errorf("concurrent: %v", concurrent)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("took %v, want no time", took)
		}
		s.wantReads(t, 1, 1)
	})
}

func TestKeyHasOneOutstandingReadWhoseResultBecomesStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		release := s.hold(t, 1, 2)
		keys := []int{1, 2}
		s.pool.Read(keys)
		s.pool.Read([]int{2})
		s.pool.Read([]int{2})
		s.wantReads(t, 1, keys...)
		wantEqual(t, "keys after Read", []int{1, 2}, keys)
		release()
		s.pool.Read([]int{2}) // its result has not been taken
		s.wantReads(t, 1, 2)
		late := s.pool.Take()
		slices.SortFunc(late, func(a, b Result[int, int]) int { return a.Key - b.Key })
		wantEqual(t, "late", []Result[int, int]{{Key: 1, Value: 1}, {Key: 2, Value: 1, Stale: true}}, late)
		inOrder, _ := s.pool.Read([]int{2})
		wantEqual(t, "in order", []Result[int, int]{{Key: 2, Value: 2}}, inOrder)
	})
}

// Most reads that are slow are not blocked.
func TestSlowReadReturnsWithinReadOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		s.takes[1], s.takes[2], s.takes[3] = 2*Wait+Wait/2, Wait/2, 2*Wait
		start := time.Now()
		inOrder, concurrent := s.pool.Read([]int{0, 1, 2, 3})
		if took := time.Since(start); took > 3*Wait {
			t.Errorf("Read took %v, want %v at most", took, 3*Wait)
		}
		wantEqual(t, "in order", []int{0}, keysOf(inOrder))
		wantEqual(t, "concurrent", []int{1, 2}, keysOf(concurrent))
		wantEqual(t, "outstanding", []int{3}, s.pool.Outstanding())
	})
}

func TestOverdueReportsAReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		if !s.pool.NextOverdue().IsZero() {
			t.Error("a read is overdue at a time, though there is none")
		}
		release := s.hold(t, 1)
		start := time.Now()
		s.pool.Read([]int{1})
		next := s.pool.NextOverdue()
		if next.Sub(start) < Timeout || next.Sub(start) > Timeout+2*Wait {
			t.Errorf("the read is overdue after %v, want %v to %v", next.Sub(start), Timeout, Timeout+2*Wait)
		}
		if keys := s.pool.Overdue(next.Add(-1)); len(keys) > 0 {
			t.Errorf("overdue too early: %v", keys)
		}
		time.Sleep(time.Until(next))
		wantEqual(t, "overdue", []int{1}, s.pool.Overdue(time.Now()))
		if keys := s.pool.Overdue(time.Now()); len(keys) > 0 || !s.pool.NextOverdue().IsZero() {
			t.Errorf("overdue again: %v, next %v", keys, s.pool.NextOverdue())
		}
		time.Sleep(time.Minute)
		release()
		wantEqual(t, "late", []Result[int, int]{{Key: 1, Value: 1, Overdue: Timeout + time.Minute}}, s.pool.Take())
	})
}

func TestOneGoroutineForEachOutstandingReadAndTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		for range 3 {
			s.pool.Read(upTo(100))
		}
		wantGoroutines(t, 1)
		release := s.hold(t, upTo(50)...)
		for range 3 {
			s.pool.Read(upTo(100))
		}
		wantGoroutines(t, 51)
		release()
		wantGoroutines(t, 1)
		s.pool.Close()
		wantGoroutines(t, 0)
	})
}

// wantGoroutines fails the test unless the pools of all bubbles have this number of goroutines.
func wantGoroutines(t *testing.T, want int) {
	t.Helper()
	synctest.Wait()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	got := 0
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, "synctest bubble") && strings.Contains(stack, "created by sync.(*WaitGroup).Go") {
			got++
		}
	}
	if got != want {
		t.Errorf("%d goroutines, want %d", got, want)
	}
}

func TestCloseWaitsForOutstandingReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t)
		release := s.hold(t, 1, 2)
		s.pool.Read([]int{1, 2, 3})
		var closed atomic.Int64
		for range 2 {
			go func() { s.pool.Close(); closed.Add(1) }()
		}
		synctest.Wait()
		if closed.Load() > 0 {
			t.Error("Close returned before the reads")
		}
		release()
		if closed.Load() != 2 {
			t.Error("Close did not return after the reads")
		}
	})
}

func TestReadThatDoesNotBlockAllocatesNothing(t *testing.T) {
	pool := New(func(key int, _ *atomic.Int64) int { return key }, func() {})
	defer pool.Close()
	keys := upTo(10)
	if n := testing.AllocsPerRun(1000, func() { pool.Read(keys) }); n > 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// Whatever reads block, and for how long: a caller that reads what is stale again ends with a value
// of each key from a read that began after the last time that it wanted one.
func TestNoReadIsLost(t *testing.T) {
	durations := []time.Duration{0, 0, 0, 0, Wait / 2, Wait, 2 * Wait, 3 * Wait, 2 * Timeout}
	for seed := range uint64(50) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 0))
				type read struct{ began time.Time }
				var mu sync.Mutex
				running := map[int]bool{}
				pool := New(func(key int, _ *atomic.Int64) read {
					mu.Lock()
					r := read{time.Now()}
					if running[key] {
						t.Errorf("two reads of key %d at a time", key)
					}
					running[key] = true
					d := durations[random.IntN(len(durations))]
					mu.Unlock()
					time.Sleep(d)
					mu.Lock()
					running[key] = false
					mu.Unlock()
					return r
				}, func() {})
				defer pool.Close()
				wanted, got := map[int]time.Time{}, map[int]read{}
				step := func(keys []int) {
					t.Helper()
					for _, key := range keys {
						wanted[key] = time.Now()
					}
					for _, r := range pool.Take() {
						got[r.Key] = r.Value
						if r.Stale && !slices.Contains(keys, r.Key) {
							keys = append(keys, r.Key)
						}
					}
					start := time.Now()
					inOrder, concurrent := pool.Read(keys)
					if took, most := time.Since(start), time.Duration(len(keys))*Wait+3*Wait; took > most {
						t.Errorf("reading %d keys took %v, want %v at most", len(keys), took, most)
					}
					for _, r := range slices.Concat(inOrder, concurrent) {
						got[r.Key] = r.Value
					}
				}
				for range 100 {
					mu.Lock()
					keys, pause := random.Perm(20)[:random.IntN(20)], durations[random.IntN(len(durations))]
					mu.Unlock()
					step(keys)
					time.Sleep(pause)
				}
				for len(pool.Outstanding()) > 0 {
					time.Sleep(Timeout)
					step(nil)
				}
				for _, key := range slices.Sorted(maps.Keys(wanted)) {
					if got[key].began.Before(wanted[key]) {
						t.Errorf("key %d: the last read began at %v, and the value was wanted at %v",
							key, got[key].began, wanted[key])
					}
				}
			})
		})
	}
}
