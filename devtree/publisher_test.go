// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"weak"

	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// A reader calls Next until its context ends and records the results. Its fields may be
// read after synctest.Wait.
type reader struct {
	sub *devtree.Subscription
	got []*devtree.Resource
	err error
}

func startReader(ctx context.Context, p *devtree.Publisher, resource string) *reader {
	r := &reader{sub: p.Subscribe(resource)}
	go func() {
		defer r.sub.Close()
		for r.err == nil {
			next, err := r.sub.Next(ctx)
			switch {
			case err != nil:
				r.err = err
			case len(r.got) == 1000: // more than any test publishes
				r.err = errors.New("Next returned a thousand times")
			default:
				r.got = append(r.got, next)
			}
		}
	}()
	return r
}

// requireGot checks how often Next has returned, and the number of devices in the last state.
func (r *reader) requireGot(t *testing.T, calls, devices int) {
	t.Helper()
	synctest.Wait()
	if last := r.got[len(r.got)-1]; len(r.got) != calls || last.Len() != devices {
		t.Fatalf("Next returned %d times, last %v; want %d times, last %d devices", len(r.got), last, calls, devices)
	}
}

func TestNextReturnsAtOnceAndThenWaitsForChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &devtree.Publisher{}
		r := startReader(ctx, p, "cy")
		r.requireGot(t, 1, 0) // nothing is published yet
		if got := r.got[0].Name(); got != "cy" {
			t.Errorf("the empty resource has the name %q", got)
		}
		b := new(devtree.Tree).Edit()
		mustPut(t, b, "dc", vf("a"))
		p.Publish(b.Build())
		r.requireGot(t, 1, 0) // only another resource changed
		mustPut(t, b, "cy", vf("a"))
		p.Publish(b.Build())
		r.requireGot(t, 2, 1)
		p.Publish(p.Tree())
		r.requireGot(t, 2, 1) // nothing changed
		b.Remove("cy", "a")
		p.Publish(b.Build())
		r.requireGot(t, 3, 0)
		p.Publish(nil)
		r.requireGot(t, 4, 0) // the resource is gone
		cancel()
		synctest.Wait()
		if !errors.Is(r.err, context.Canceled) {
			t.Errorf("Next ended with %v, want %v", r.err, context.Canceled)
		}
	})
}

func TestNextSkipsIntermediateStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &devtree.Publisher{}
		s := p.Subscribe("cy")
		defer s.Close()
		b := new(devtree.Tree).Edit()
		for n := range 5 {
			mustPut(t, b, "cy", vf(bdf(n)))
			p.Publish(b.Build())
		}
		if got, err := s.Next(t.Context()); err != nil || got != p.Tree().Resource("cy") {
			t.Fatalf("first Next: %v, %v", got, err)
		}
		for n := range 5 {
			b.Remove("cy", bdf(n))
			p.Publish(b.Build())
		}
		if got, err := s.Next(t.Context()); err != nil || got != p.Tree().Resource("cy") || got.Len() != 0 {
			t.Fatalf("second Next: %v, %v", got, err)
		}
	})
}

func TestNextReturnsContextError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &devtree.Publisher{}
	s := p.Subscribe("cy")
	defer s.Close()
	if got, err := s.Next(ctx); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := s.Next(t.Context()); got == nil || err != nil {
		t.Errorf("next call: %v, %v; want the first state, which the failed call must not consume", got, err)
	}
}

func TestCloseMayBeRepeatedAndLeavesOtherSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := &devtree.Publisher{}
		closed := p.Subscribe("cy")
		r := startReader(ctx, p, "cy")
		r.requireGot(t, 1, 0)
		closed.Close()
		closed.Close()
		p.Publish(treeOf(t, "cy", vf("a")))
		r.requireGot(t, 2, 1)
	})
}

func TestPublisherReleasesClosedSubscription(t *testing.T) {
	p := &devtree.Publisher{}
	closed := func() weak.Pointer[devtree.Subscription] {
		s := p.Subscribe("cy")
		s.Close()
		return weak.Make(s)
	}()
	runtime.GC()
	if closed.Value() != nil {
		t.Error("the Publisher still refers to it")
	}
	runtime.KeepAlive(p)
}

// TestNextMissesNoWakeup publishes at every moment of Next, also between its look at the
// Tree and its wait. synctest fails the test if publisher and reader wait for each other.
func TestNextMissesNoWakeup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		trees := []*devtree.Tree{treeOf(t, "cy", vf("a")), treeOf(t, "cy", vf("b"))}
		p := &devtree.Publisher{}
		p.Publish(trees[1])
		s := p.Subscribe("cy")
		defer s.Close()
		got := make(chan *devtree.Resource)
		go func() {
			defer close(got)
			for {
				r, err := s.Next(ctx)
				if err != nil {
					return
				}
				got <- r
			}
		}()
		<-got
		for i := range 20_000 {
			tree := trees[i%2]
			p.Publish(tree)
			if r := <-got; r != tree.Resource("cy") {
				t.Fatalf("publish %d: got %v", i, r)
			}
		}
		cancel()
		<-got
	})
}

func TestPublisherTreeIsNeverNil(t *testing.T) {
	p := &devtree.Publisher{}
	if p.Tree() == nil {
		t.Error("Tree is nil before the first Publish")
	}
	tree := treeOf(t, "cy", vf("a"))
	p.Publish(tree)
	if p.Tree() != tree {
		t.Error("Tree is not the published one")
	}
	p.Publish(nil)
	if p.Tree() == nil {
		t.Error("Tree is nil after a nil Tree was published")
	}
}

// TestSubscriptionsEndAtNewestState checks that, however many goroutines publish, each
// subscription ends at the newest state and never gets the same state twice in a row.
// With one publishing goroutine, no subscription goes back to an older state.
func TestSubscriptionsEndAtNewestState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var series [][]*devtree.Tree
		age := map[*devtree.Resource]int{nil: -1}
		for range rapid.IntRange(1, 3).Draw(t, "publishers") {
			var trees []*devtree.Tree
			b := new(devtree.Tree).Edit()
			for range rapid.IntRange(1, 12).Draw(t, "trees") {
				edit(t, b, model{})
				tree := b.Build()
				for r := range tree.Resources() {
					if _, known := age[r]; !known {
						age[r] = len(age)
					}
				}
				trees = append(trees, tree)
			}
			series = append(series, trees)
		}
		rapid.SyncTest(t, func(t *rapid.T) { publishConcurrently(t, series, age) })
	})
}

func publishConcurrently(t *rapid.T, series [][]*devtree.Tree, age map[*devtree.Resource]int) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &devtree.Publisher{}
	var readers []*reader
	names := []string{"cy", "dc", "cy", "generic", "missing"}
	for _, name := range names {
		readers = append(readers, startReader(ctx, p, name))
	}
	var publishers sync.WaitGroup
	for _, trees := range series {
		publishers.Go(func() {
			for _, tree := range trees {
				p.Publish(tree)
			}
		})
	}
	publishers.Wait()
	synctest.Wait()
	for i, r := range readers {
		newest := p.Tree().Resource(names[i])
		last := r.got[len(r.got)-1]
		if newest == nil && last.Len() != 0 || newest != nil && last != newest {
			t.Errorf("reader %d of %s ended at %v, want %v", i, names[i], last, newest)
		}
		newestAge := -1
		for k, state := range r.got {
			if k > 0 && state == r.got[k-1] {
				t.Errorf("reader %d of %s got the same state twice", i, names[i])
			}
			stateAge, known := age[state]
			if !known {
				continue // Next created it, because the Tree did not have the resource
			}
			if len(series) == 1 && stateAge < newestAge {
				t.Errorf("reader %d of %s went back to an older state", i, names[i])
			}
			newestAge = stateAge
		}
	}
	cancel()
	synctest.Wait()
	for i, r := range readers {
		if !errors.Is(r.err, context.Canceled) {
			t.Errorf("reader %d ended with %v", i, r.err)
		}
	}
}
