// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"strings"
	"sync"
	"time"

	"qatplugin/devtree"
)

// A tracker finds out which event a list answers. Its methods may be called from any goroutine.
//
// For each resource it remembers the states that were published and not sent yet. A list answers
// the event of the state that it contains, and those of the states before it, which the stream has
// skipped. The first stream that sends a state ends the measurement.
//
// Nothing is remembered while the kubelet follows no list: the next stream starts with the newest
// state, however old its event is.
type tracker struct {
	mu        sync.Mutex
	resources map[string]*unsent // by name without the namespace
}

// unsent holds the states of a resource that no stream has sent.
type unsent struct {
	streams int
	states  []publishedState // the oldest first
}

// A publishedState is a state of a resource, and when its event was received. since is zero if no
// event caused it.
type publishedState struct {
	state *devtree.Resource // nil: the Tree omits the resource
	since time.Time
}

// maxUnsent limits the states of a resource that are remembered, for a kubelet that does not read.
// A change beyond that is added to the newest state, which keeps its time.
const maxUnsent = 256

func newTracker() *tracker { return &tracker{resources: map[string]*unsent{}} }

// publishing records the resources that differ between two Trees.
func (t *tracker) publishing(old, new *devtree.Tree, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, u := range t.resources {
		state := new.Resource(name)
		if u.streams == 0 || state == old.Resource(name) {
			continue
		}
		if n := len(u.states); n == maxUnsent {
			u.states[n-1] = publishedState{state, earliest(u.states[n-1].since, since)}
		} else {
			u.states = append(u.states, publishedState{state, since})
		}
	}
}

// sent returns when the oldest event was received whose effect no stream has sent before this
// state. It returns zero if there is none.
func (t *tracker) sent(resource string, state *devtree.Resource) (since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.resource(resource)
	n := u.find(state) + 1
	if n == 0 && len(u.states) > 0 {
		n = u.find(t.equal(u, state)) + 1
	}
	for _, s := range u.states[:n] {
		since = earliest(since, s.since)
	}
	left := copy(u.states, u.states[n:])
	clear(u.states[left:]) // so that their devices can be freed
	u.states = u.states[:left]
	return since
}

// find returns the index of the newest published state that is the state. It returns -1 if there is
// none.
func (u *unsent) find(state *devtree.Resource) int {
	for i := len(u.states) - 1; i >= 0; i-- {
		if u.states[i].state == state {
			return i
		}
	}
	return -1
}

// equal returns the newest published state that equals the state, or else the state itself. With
// CDI, the Manager publishes copies of the states, and an empty one in place of nil. The caller
// holds mu, which equal unlocks for the comparison: it can take milliseconds, and the loop may
// publish meanwhile.
func (t *tracker) equal(u *unsent, state *devtree.Resource) *devtree.Resource {
	states := slices.Clone(u.states)
	t.mu.Unlock()
	defer t.mu.Lock()
	for _, s := range slices.Backward(states) {
		if sameList(s.state, state) {
			return s.state
		}
	}
	return state
}

// sameList reports whether a and b are the same list for the kubelet.
func sameList(a, b *devtree.Resource) bool {
	if a.Len() != b.Len() {
		return false
	}
	for d := range a.Devices() {
		if other := b.Device(d.ID); other == nil || other.Health != d.Health {
			return false
		}
	}
	return true
}

// opened counts a stream.
func (t *tracker) opened(resource string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resource(resource).streams++
}

// closed ends a stream. The states that the last stream has not sent are forgotten.
func (t *tracker) closed(resource string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.resource(resource)
	if u.streams--; u.streams == 0 {
		u.states = nil
	}
}

// resource returns the entry of a resource, whose name has a namespace.
func (t *tracker) resource(name string) *unsent {
	_, short, _ := strings.Cut(name, "/")
	u := t.resources[short]
	if u == nil {
		u = &unsent{}
		t.resources[short] = u
	}
	return u
}

// earliest returns the earlier of two times. A zero time is no time.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
