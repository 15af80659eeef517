// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// recorder records the operations of the host and counts its uevents and the kubelet's lists.
type recorder struct {
	mu      sync.Mutex // guards the following fields
	ops     []lookalike.Operation
	uevents int
	lists   int
	started time.Time     // the kubelet, just before it created its socket
	changed chan struct{} // closed and replaced at each change
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{})} }

func (r *recorder) record(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) operation(o lookalike.Operation) {
	r.record(func() { r.ops = append(r.ops, o) })
}

func (r *recorder) uevent([]byte) { r.record(func() { r.uevents++ }) }

func (r *recorder) list(kubelettest.List) { r.record(func() { r.lists++ }) }

func (r *recorder) clean([]string) {
	now := time.Now()
	r.record(func() { r.started = now })
}

// len returns the number of operations so far.
func (r *recorder) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// since returns the operations after the first n.
func (r *recorder) since(n int) []lookalike.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops[n:])
}

func (r *recorder) kubeletStarted() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started
}

func (r *recorder) counts() (uevents, lists int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uevents, r.lists
}

// nextChange returns a channel that is closed at the next change.
func (r *recorder) nextChange() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// wait waits until cond is true for the operations so far.
func (r *recorder) wait(ctx context.Context, cond func(ops []lookalike.Operation) bool) error {
	for {
		changed := r.nextChange()
		if cond(r.since(0)) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
