package devtree

import (
	"context"
	"sync"
)

// Publisher holds the newest Tree and tells the subscribers of each resource that changed. The zero value is ready and holds an
// empty Tree. All methods may be called from any goroutine; none waits for a subscriber.
type Publisher struct {
	mu   sync.Mutex
	tree *Tree
	subs map[string]map[*Subscription]struct{}
}

// Publish makes t the newest Tree and wakes the subscribers of the resources that differ from the Tree before it. The last call
// wins: of two Trees that are published at the same time, one is the newest for everybody.
func (p *Publisher) Publish(t *Tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.tree
	p.tree = t
	for name, subs := range p.subs {
		if old.Resource(name) == t.Resource(name) {
			continue
		}
		for s := range subs {
			s.signal()
		}
	}
}

// Tree is the newest Tree, never nil.
func (p *Publisher) Tree() *Tree {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tree == nil {
		return &Tree{}
	}
	return p.tree
}

// Subscribe follows one resource, which need not exist yet. The caller ends it with [Subscription.Close].
func (p *Publisher) Subscribe(resource string) *Subscription {
	s := &Subscription{publisher: p, resource: resource, wake: make(chan struct{}, 1), first: true}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.subs == nil {
		p.subs = map[string]map[*Subscription]struct{}{}
	}
	if p.subs[resource] == nil {
		p.subs[resource] = map[*Subscription]struct{}{}
	}
	p.subs[resource][s] = struct{}{}
	return s
}

// Subscription follows one resource. Its methods are for one goroutine.
type Subscription struct {
	publisher *Publisher
	resource  string
	wake      chan struct{} // holds one signal: "there may be something newer"
	first     bool
	last      *Resource
}

// Next returns the newest state of the resource: at the first call at once, then as soon as it differs from what the call before
// returned. States in between may be skipped, the newest never is. A resource that the Tree lacks is an empty one; the
// result is never nil without an error. The error is ctx's.
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
	delete(p.subs[s.resource], s)
	if len(p.subs[s.resource]) == 0 {
		delete(p.subs, s.resource)
	}
}

func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // a signal is waiting already, and it stands for this change too
	}
}
