// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"slices"
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

func withOmitTimeout(d time.Duration) Option { return func(c *config) { c.omitTimeout = d } }

func drop(before *devtree.Tree, resource string) *devtree.Tree {
	b := before.Edit()
	b.Drop(resource)
	return b.Build()
}

// TestDroppedResourceIsWithdrawn checks that a resource that the plugin drops loses its socket and
// its stream after omitTimeout, that other resources are not disturbed, and that it can return.
func TestDroppedResourceIsWithdrawn(t *testing.T) {
	for name, opts := range map[string][]Option{"plain": nil, "CDI": {WithCDI(t.TempDir(), "")}} {
		t.Run(name, func(t *testing.T) {
			dir, p := kubeletDir(t), newFakePlugin()
			k := startKubelet(t, dir)
			r := run(t, dir, p, slices.Concat(opts, []Option{withOmitTimeout(20 * time.Millisecond)})...)
			both := tree(t, tree(t, nil, "yellow", "1"), "blue", "1")
			p.publish(both)
			waitIDs(t, k, yellow, "1")
			before := waitIDs(t, k, blue, "1")
			for range 3 {
				p.publish(drop(both, "yellow"))
				waitList(t, k, yellow, "the end of the stream", func(l kubelettest.List) bool { return !l.Live })
				eventually(t, "the socket removed", func() bool { return len(sockets(t, dir)) == 2 })
				r.awaitRegistered("")
				p.publish(both)
				waitIDs(t, k, yellow, "1")
			}
			if after := waitIDs(t, k, blue, "1"); after.Seq != before.Seq {
				t.Errorf("the list of blue is number %d, want still %d", after.Seq, before.Seq)
			}
		})
	}
}

// TestWithdrawnResourcesLeaveNothing checks that resources whose names come and go leave no
// sockets, descriptors or registrations.
func TestWithdrawnResourcesLeaveNothing(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p, withOmitTimeout(0))
	var now *devtree.Tree
	files := 0
	for i := range 30 {
		name := "color" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		now = tree(t, now, name, "1")
		p.publish(now)
		waitIDs(t, k, namespace+"/"+name, "1")
		now = drop(now, name)
		p.publish(now)
		eventually(t, "the socket removed", func() bool { return len(sockets(t, dir)) == 1 })
		if i == 9 {
			files = openFiles(t)
		}
	}
	eventually(t, "as few descriptors as before", func() bool { return openFiles(t) <= files })
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.registrations)+len(r.omitted) != 0 {
		t.Errorf("registrations %v and omitted resources %v, want none", r.registrations, r.omitted)
	}
}

// TestResourceThatReturnsInTimeIsNotWithdrawn checks that a resource that returns before
// omitTimeout is not withdrawn, and that a later omission starts a new omitTimeout.
func TestResourceThatReturnsInTimeIsNotWithdrawn(t *testing.T) {
	r, m, log := newTestReconciler(t, kubeletDir(t), withOmitTimeout(time.Hour), noComparison)
	with := tree(t, nil, "yellow", "1")
	m.publish(with)
	r.reconcile(t.Context(), true)
	m.publish(drop(with, "yellow"))
	start := time.Now()
	if next := r.reconcile(t.Context(), false); next.Sub(start) > time.Hour || next.Sub(start) < 59*time.Minute {
		t.Errorf("the next look is due in %v, want an hour", next.Sub(start))
	}
	m.publish(with)
	m.publish(drop(with, "yellow"))
	m.mu.Lock()
	since := m.omitted["yellow"]
	m.mu.Unlock()
	if since.Before(start) {
		t.Error("the time before the resource returned counts")
	}
	if next := r.withdrawOmitted(since.Add(time.Hour - 1)); !next.Equal(since.Add(time.Hour)) || len(r.endpoints) != 1 {
		t.Errorf("before the time is over: %d endpoints, and the next look is due at %v", len(r.endpoints), next)
	}
	if r.withdrawOmitted(since.Add(time.Hour)); len(r.endpoints) != 0 || log.count("Withdrawing a resource") != 1 {
		t.Errorf("after an hour: %d endpoints, want none:\n%s", len(r.endpoints), log)
	}
}
