// SPDX-License-Identifier: Apache-2.0

package devtree

import (
	"context"
	"sync"
)

// Publisher holds the newest Tree and wakes the subscribers of each resource that
// changes. The zero value holds an empty Tree and is ready to use. All methods may be
// called from any goroutine, and none waits for a subscriber.
type Publisher struct {
	mu   sync.Mutex
	tree *Tree
	subs map[*Subscription]struct{}
}

// Publish makes t the newest Tree and wakes the subscribers of the resources that differ
// from the previous Tree. It compares pointers: unless t is a successor of the previous
// Tree (by Edit or After), all resources differ. The last call wins: all readers agree on
// which of two Trees that are published at the same time is the newest.
func (p *Publisher) Publish(t *Tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.tree
	p.tree = t
	for s := range p.subs {
		if old.Resource(s.resource) == t.Resource(s.resource) {
			continue
		}
		select {
		case s.wake <- struct{}{}:
		default: // the pending signal covers this change
		}
	}
}

// Tree returns the newest Tree. It is never nil.
func (p *Publisher) Tree() *Tree {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tree == nil {
		return &Tree{}
	}
	return p.tree
}

// Subscribe returns a Subscription to the resource, which need not exist yet. The caller
// must call [Subscription.Close] when it is done.
func (p *Publisher) Subscribe(resource string) *Subscription {
	s := &Subscription{publisher: p, resource: resource, wake: make(chan struct{}, 1), first: true}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.subs == nil {
		p.subs = map[*Subscription]struct{}{}
	}
	p.subs[s] = struct{}{}
	return s
}

// Subscription follows one resource. Its methods must not be called concurrently.
type Subscription struct {
	publisher *Publisher
	resource  string
	wake      chan struct{} // buffers one signal: the resource may have changed
	first     bool          // Next has not returned a state yet
	last      *Resource     // what Next returned last; nil if the Tree did not have it
}

// Next returns the newest state of the resource. The first call returns at once; each
// further call waits until the resource differs, by pointer, from what the previous call
// returned. Intermediate states may be skipped, the newest never is. If the Tree does not
// have the resource, Next returns an empty one, not nil. When ctx ends, Next
// returns ctx.Err(). Close does not end a waiting Next.
func (s *Subscription) Next(ctx context.Context) (*Resource, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := s.publisher.Tree().Resource(s.resource)
		if s.first || r != s.last {
			s.first, s.last = false, r
			if r == nil {
				r = &Resource{name: s.resource}
			}
			return r, nil
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	p := s.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.subs, s)
}
