// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"maps"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// holdersMaxAge is how old the answer of the kubelet may be before it is asked again.
	holdersMaxAge = 10 * time.Second

	// holdersWait is how long a reader waits for the answer, if there is none that is less than two
	// times holdersMaxAge old. The kubelet answers within milliseconds.
	holdersWait = 250 * time.Millisecond
)

// A holderCache keeps the kubelet's answer about which pod holds which device. It asks the kubelet
// only for a reader, and at most once in holdersMaxAge.
type holderCache struct {
	ask     func(context.Context) (map[string]string, error)
	changed func() // is called when another answer has arrived
	ctx     context.Context
	cancel  context.CancelFunc // ends ctx, and with it a question to the kubelet

	mu       sync.Mutex        // guards all following fields
	holders  map[string]string // device → "namespace/pod"; nil after an error
	at       time.Time         // of the last answer or error
	answered chan struct{}     // closed when the kubelet answers; nil if it is not being asked
	asking   sync.WaitGroup
}

// newHolderCache returns a holderCache that knows nothing yet. The caller must close it.
func newHolderCache(ask func(context.Context) (map[string]string, error), changed func()) *holderCache {
	ctx, cancel := context.WithCancel(context.Background())
	return &holderCache{ask: ask, changed: changed, ctx: ctx, cancel: cancel}
}

// get returns the pods by device. The caller must not change the map.
func (h *holderCache) get(ctx context.Context) map[string]string {
	h.mu.Lock()
	age := time.Since(h.at)
	if age > holdersMaxAge && h.answered == nil && h.ctx.Err() == nil {
		h.answered = make(chan struct{})
		h.asking.Go(h.refresh)
	}
	holders, answered := h.holders, h.answered
	h.mu.Unlock()
	if age <= 2*holdersMaxAge || answered == nil {
		return holders
	}
	ctx, cancel := context.WithTimeout(ctx, holdersWait)
	defer cancel()
	select {
	case <-answered:
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.holders
}

// refresh asks the kubelet. The function ask limits how long that takes.
func (h *holderCache) refresh() {
	holders, err := h.ask(h.ctx)
	if err != nil {
		holders = nil
		klog.V(2).InfoS("Cannot show which pods hold VFs", "err", err)
	}
	h.mu.Lock()
	differ := !maps.Equal(h.holders, holders)
	h.holders, h.at = holders, time.Now()
	close(h.answered)
	h.answered = nil
	h.mu.Unlock()
	if differ {
		h.changed()
	}
}

// close waits until the kubelet is not being asked. It is not asked again.
func (h *holderCache) close() {
	h.mu.Lock()
	h.cancel() // with mu, so that no question begins after it
	h.mu.Unlock()
	h.asking.Wait()
}
