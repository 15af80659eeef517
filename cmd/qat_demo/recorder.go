// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// record is what has happened so far.
type record struct {
	ops     []lookalike.Operation // of the host; only appended to
	uevents int                   // sent by the host
	lists   int                   // received by the kubelet
	started time.Time             // the kubelet, just before it created its socket
	changed chan struct{}         // closed when something happens
}

// recorder keeps the record.
type recorder struct {
	mu     sync.Mutex
	record record
}

func newRecorder() *recorder { return &recorder{record: record{changed: make(chan struct{})}} }

func (r *recorder) get() record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record
}

func (r *recorder) update(f func(*record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.record)
	close(r.record.changed)
	r.record.changed = make(chan struct{})
}

func (r *recorder) operation(o lookalike.Operation) {
	r.update(func(rec *record) { rec.ops = append(rec.ops, o) })
}

func (r *recorder) uevent([]byte) { r.update(func(rec *record) { rec.uevents++ }) }

func (r *recorder) list(kubelettest.List) { r.update(func(rec *record) { rec.lists++ }) }

func (r *recorder) clean([]string) {
	now := time.Now()
	r.update(func(rec *record) { rec.started = now })
}

// wait waits until cond holds for the operations after the first n.
func (r *recorder) wait(ctx context.Context, n int, cond func(ops []lookalike.Operation) bool) error {
	for {
		rec := r.get()
		if cond(rec.ops[n:]) {
			return nil
		}
		select {
		case <-rec.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
