// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"testing"
	"time"

	"qatplugin/devtree"
)

const (
	namespace = "qat.intel.com"
	cy, dc    = namespace + "/cy", namespace + "/dc"
)

// at returns a time. at(0) is not zero.
func at(second int) time.Time { return time.Unix(1_000_000+int64(second), 0) }

// next returns a successor of a Tree with one more device, which is healthy.
func next(t testing.TB, before *devtree.Tree, resource, id string) *devtree.Tree {
	t.Helper()
	return with(t, before, resource, &devtree.Device{ID: id, Health: devtree.Healthy})
}

func with(t testing.TB, before *devtree.Tree, resource string, d *devtree.Device) *devtree.Tree {
	t.Helper()
	b := before.Edit()
	if err := b.Put(resource, d); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

// wantSince checks which event a list answers. A zero time means none.
func wantSince(t *testing.T, what string, got, want time.Time) {
	t.Helper()
	if !got.Equal(want) {
		t.Errorf("%s answers the event of %v, want %v", what, got, want)
	}
}

var never time.Time

func TestListAnswersTheOldestEventThatItCovers(t *testing.T) {
	tr := newTracker()
	tr.opened(cy)
	first := next(t, nil, "cy", "1")
	tr.publishing(nil, first, at(1))
	second := next(t, first, "cy", "2")
	tr.publishing(first, second, at(2))
	third := next(t, second, "cy", "3")
	tr.publishing(second, third, at(3))
	wantSince(t, "the list of two changes", tr.sent(cy, second.Resource("cy")), at(1))
	wantSince(t, "the next list", tr.sent(cy, third.Resource("cy")), at(3))
	wantSince(t, "a list of no change", tr.sent(cy, third.Resource("cy")), never)
}

func TestFirstOfTwoStreamsEndsTheMeasurement(t *testing.T) {
	tr := newTracker()
	tr.opened(cy)
	tr.opened(cy)
	first := next(t, nil, "cy", "1")
	tr.publishing(nil, first, at(1))
	wantSince(t, "the list of the first stream", tr.sent(cy, first.Resource("cy")), at(1))
	wantSince(t, "the list of the second stream", tr.sent(cy, first.Resource("cy")), never)
	tr.closed(cy)
	second := next(t, first, "cy", "2")
	tr.publishing(first, second, at(2))
	wantSince(t, "the list of the stream that is left", tr.sent(cy, second.Resource("cy")), at(2))
}

func TestResourcesAreMeasuredSeparately(t *testing.T) {
	tr := newTracker()
	tr.opened(cy)
	tr.opened(dc)
	first := next(t, next(t, nil, "cy", "1"), "dc", "1")
	tr.publishing(nil, first, at(1))
	second := next(t, first, "dc", "2")
	tr.publishing(first, second, at(2))
	wantSince(t, "the list of cy", tr.sent(cy, second.Resource("cy")), at(1))
	wantSince(t, "the list of dc", tr.sent(dc, second.Resource("dc")), at(1))
	third := next(t, second, "cy", "2")
	tr.publishing(second, third, at(3))
	wantSince(t, "the list of dc, which did not change", tr.sent(dc, third.Resource("dc")), never)
	wantSince(t, "the list of cy", tr.sent(cy, third.Resource("cy")), at(3))
}

// TestFirstListOfAStreamIsNotMeasured checks that an event is not measured that occurred while the
// kubelet was away, and one whose list the last stream did not send before it ended.
func TestFirstListOfAStreamIsNotMeasured(t *testing.T) {
	tr := newTracker()
	first := next(t, nil, "cy", "1") // a resource that appears has no stream
	tr.publishing(nil, first, at(1))
	tr.opened(cy)
	wantSince(t, "the first list", tr.sent(cy, first.Resource("cy")), never)
	second := next(t, first, "cy", "2")
	tr.publishing(first, second, at(2))
	tr.closed(cy)
	third := next(t, second, "cy", "3")
	tr.publishing(second, third, at(3))
	tr.opened(cy)
	wantSince(t, "the first list of the next stream", tr.sent(cy, third.Resource("cy")), never)
	fourth := next(t, third, "cy", "4")
	tr.publishing(third, fourth, at(4))
	wantSince(t, "the second list", tr.sent(cy, fourth.Resource("cy")), at(4))
}

func TestChangeWithoutEventIsNotMeasured(t *testing.T) {
	tr := newTracker()
	tr.opened(cy)
	first := next(t, nil, "cy", "1")
	tr.publishing(nil, first, never)
	wantSince(t, "the list", tr.sent(cy, first.Resource("cy")), never)
	second := next(t, first, "cy", "2")
	tr.publishing(first, second, never)
	third := next(t, second, "cy", "3")
	tr.publishing(second, third, at(3))
	wantSince(t, "the list of a change with and one without an event", tr.sent(cy, third.Resource("cy")), at(3))
}

// TestCopiesOfStatesAreRecognized checks that a list is measured whose state is not that of the
// published Tree: with CDI it is a copy, and an omitted resource has an empty state.
func TestCopiesOfStatesAreRecognized(t *testing.T) {
	tr := newTracker()
	tr.opened(cy)
	first := next(t, nil, "cy", "1")
	tr.publishing(nil, first, at(1))
	second := with(t, first, "cy", &devtree.Device{ID: "1", Health: devtree.Unhealthy, Reason: "down"})
	tr.publishing(first, second, at(2))
	third := next(t, second, "cy", "2")
	tr.publishing(second, third, at(3))
	copyOf := func(tree *devtree.Tree) *devtree.Resource {
		b := new(devtree.Tree).Edit()
		for d := range tree.Resource("cy").Devices() {
			named := *d
			named.CDINames = []string{namespace + "/vf=" + d.ID}
			if err := b.Put("cy", &named); err != nil {
				t.Fatal(err)
			}
		}
		return b.Build().Resource("cy")
	}
	wantSince(t, "a list with other devices", tr.sent(cy, next(t, nil, "cy", "7").Resource("cy")), never)
	wantSince(t, "the copy of the second state", tr.sent(cy, copyOf(second)), at(1))
	wantSince(t, "the copy of the third state", tr.sent(cy, copyOf(third)), at(3))
	dropped, empty := third.Edit(), new(devtree.Tree).Edit()
	dropped.Drop("cy")
	tr.publishing(third, dropped.Build(), at(4))
	if err := empty.Keep("cy"); err != nil {
		t.Fatal(err)
	}
	wantSince(t, "the list without devices", tr.sent(cy, empty.Build().Resource("cy")), at(4))
}

// TestUnreadStatesAreBounded checks that a stream that sends nothing keeps few states in memory,
// and that its next list still answers the oldest event.
func TestUnreadStatesAreBounded(t *testing.T) {
	tr := newTracker()
	tr.opened(cy)
	var trees []*devtree.Tree
	before := new(devtree.Tree)
	for i := range 2 * maxUnsent {
		tree := next(t, before, "cy", at(i).Format(time.RFC3339))
		tr.publishing(before, tree, at(i))
		trees, before = append(trees, tree), tree
	}
	if n := len(tr.resources["cy"].states); n != maxUnsent {
		t.Errorf("%d states are kept, want %d", n, maxUnsent)
	}
	wantSince(t, "a list of half of the states", tr.sent(cy, trees[maxUnsent/2].Resource("cy")), at(0))
	last := trees[maxUnsent-2].Resource("cy") // before the newest, to which half of the changes were added
	wantSince(t, "the list before the newest", tr.sent(cy, last), at(maxUnsent/2+1))
	wantSince(t, "the newest list", tr.sent(cy, before.Resource("cy")), at(maxUnsent-1))
	if n := len(tr.resources["cy"].states); n != 0 {
		t.Errorf("%d states are kept after the newest was sent", n)
	}
}

// TestComparisonOfListsDoesNotDelayTheLoop compares a list with many published states that differ
// from it little. The loop publishes meanwhile.
func TestComparisonOfListsDoesNotDelayTheLoop(t *testing.T) {
	const devices = 1024
	tree := func(unhealthy int) *devtree.Tree {
		b := new(devtree.Tree).Edit()
		for n := range devices {
			d := &devtree.Device{ID: fmt.Sprintf("%04d", n), Health: devtree.Healthy}
			if n == unhealthy {
				d.Health, d.Reason = devtree.Unhealthy, "down"
			}
			if err := b.Put("cy", d); err != nil {
				t.Fatal(err)
			}
		}
		return b.Build()
	}
	tr := newTracker()
	tr.opened(cy)
	states := []*devtree.Tree{tree(devices - 1), tree(devices - 2)}
	for n := range maxUnsent {
		tr.publishing(states[n%2], states[(n+1)%2], at(n))
	}
	other, done, start := tree(-1).Resource("cy"), make(chan time.Duration), time.Now()
	go func() {
		tr.sent(cy, other)
		done <- time.Since(start)
	}()
	var longest time.Duration
	for {
		select {
		case took := <-done:
			if longest > took/2 {
				t.Errorf("publishing took %v while a comparison took %v", longest, took)
			}
			return
		default:
			before := time.Now()
			tr.publishing(states[0], states[0], never)
			longest = max(longest, time.Since(before))
		}
	}
}
