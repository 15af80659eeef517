// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// placeTime is how long an unhealthy VF keeps its place under the limit although a healthy VF could
// have it. It is longer than a reset of a PF takes, which makes its VFs unhealthy for a moment.
const placeTime = time.Minute

// An assignment is which VFs are listed, which are to be bound, and why the others are not listed.
type assignment struct {
	limit  int // of listed VFs; 0: no limit
	policy policy.Policy

	listed  map[pci.Address]place    // VFs that are listed
	waiting map[pci.Address]decision // VFs that could be listed, now or once bound, but for the limit
	skipped map[string]string        // VF → why it is not listed
	tree    *devtree.Tree
	next    time.Time // when the next unhealthy VF loses its place; zero: none does
}

// A place is what a VF that is listed takes.
type place struct {
	decision       decision
	unhealthySince time.Time // zero: it is healthy
}

// hasExpired reports whether the VF has been unhealthy for so long that a healthy one may have its
// place.
func (p *place) hasExpired(now time.Time) bool {
	return !p.unhealthySince.IsZero() && now.Sub(p.unhealthySince) >= placeTime
}

// bindings is what an assignment needs to know about VFs that are not bound. [bind.Binder] is one.
type bindings interface {
	// Pending returns the VFs that are being bound.
	Pending() []pci.Address
	// HasFailed reports whether the last try to bind a VF failed.
	HasFailed(vf pci.Address, incarnation uint64) bool
}

// apply brings the lists in line with new decisions. It returns the VFs that are to be bound:
// without a limit all that the decisions name, else those that will have a place. pfOf finds the PF
// of a VF.
func (s *assignment) apply(decisions []decision, b bindings, pfOf policy.PFOf, now time.Time) (bind []decision) {
	tree := s.tree.Edit()
	for _, d := range decisions {
		s.applyOne(tree, d, now)
		if d.action == actionBind && s.limit == 0 {
			bind = append(bind, d)
		}
	}
	s.next = time.Time{}
	if len(s.waiting) > 0 {
		f := filling{assignment: s, tree: tree, bindings: b, pfOf: pfOf, now: now}
		bind = f.run()
	}
	s.tree = tree.Build()
	return bind
}

func (s *assignment) applyOne(b *devtree.Builder, d decision, now time.Time) {
	a, id := d.vf, d.vf.String()
	delete(s.waiting, a)
	delete(s.skipped, id)
	p, listed := s.listed[a]
	if listed && d.resource != p.decision.resource {
		b.Remove(p.decision.resource, id)
	}
	if listed && d.action != actionList {
		delete(s.listed, a)
	}
	switch {
	case d.action == actionList && (listed || s.limit == 0):
		s.list(b, d, now)
	case d.action == actionList, d.action == actionBind && s.limit > 0:
		s.waiting[a] = d
	case d.reason != "":
		s.skipped[id] = d.reason
	}
}

func (s *assignment) list(b *devtree.Builder, d decision, now time.Time) {
	a, id := d.vf, d.vf.String()
	delete(s.skipped, id)
	if err := b.Put(d.resource, d.device); err != nil {
		klog.ErrorS(err, "Cannot list a device", "device", a)
		b.Remove(d.resource, id)
		delete(s.listed, a)
		s.skipped[id] = err.Error()
		return
	}
	p := place{decision: d}
	if d.unhealthy {
		p.unhealthySince = s.listed[a].unhealthySince
		if p.unhealthySince.IsZero() {
			p.unhealthySince = now
		}
	}
	s.listed[a] = p
}

// skip says why a VF is not listed.
func (s *assignment) skip(a pci.Address, reason string) { s.skipped[a.String()] = reason }

// A rank orders the VFs that wait for a place.
type rank uint8

const (
	rankBound     rank = iota // healthy and bound already, perhaps since before a restart
	rankUnbound               // healthy, to be bound
	rankUnhealthy             // bound and unhealthy
	rankDoubtful              // unhealthy and not bound
	rankFailed                // could not be bound the last time
)

// rank returns the rank of a VF that waits.
func (f *filling) rank(d decision) rank {
	switch {
	case d.action == actionBind && f.bindings.HasFailed(d.vf, d.function.Incarnation):
		return rankFailed
	case d.action == actionBind && d.unhealthy:
		return rankDoubtful
	case d.unhealthy:
		return rankUnhealthy
	case d.action == actionBind:
		return rankUnbound
	}
	return rankBound
}

// A filling gives the places that the limit leaves to VFs that wait for one. A VF that is being
// bound holds a place, too: otherwise the VFs of the PF that is bound first would take all of them.
type filling struct {
	*assignment
	tree     *devtree.Builder
	bindings bindings
	pfOf     policy.PFOf
	now      time.Time

	free    int           // places that nobody has
	expired []pci.Address // VFs that lose their place to a healthy one, the first one first
	counted []pci.Address // VFs that have a place or get one
	bind    []decision
}

// run returns the VFs that are to be bound.
func (f *filling) run() []decision {
	ranks := map[rank][]pci.Address{}
	f.countListed()
	f.countPending()
	for a, d := range f.waiting {
		if !slices.Contains(f.counted, a) {
			r := f.rank(d)
			ranks[r] = append(ranks[r], a)
		}
	}
	for r := rankBound; r <= rankFailed; r++ {
		for _, a := range policy.Order(f.policy, ranks[r], f.pfOf, slices.Values(f.counted)) {
			f.place(a, f.waiting[a], r)
		}
	}
	return f.bind
}

// countListed counts the VFs that are listed.
func (f *filling) countListed() {
	f.free = f.limit - len(f.listed)
	for a, p := range f.listed {
		if p.hasExpired(f.now) {
			f.expired = append(f.expired, a)
		} else {
			f.counted = append(f.counted, a)
		}
	}
	slices.SortFunc(f.expired, func(a, b pci.Address) int {
		return cmp.Or(f.listed[a].unhealthySince.Compare(f.listed[b].unhealthySince), b.Compare(a))
	})
}

// countPending counts the VFs that are being bound, and has their binding continued. They may have
// the place of a VF that has expired and is listed until they are bound.
func (f *filling) countPending() {
	for _, a := range f.bindings.Pending() {
		if _, listed := f.listed[a]; listed {
			continue
		}
		if d, ok := f.waiting[a]; ok && d.action == actionList {
			continue // it is bound, and this is noticed first here
		}
		f.counted = append(f.counted, a)
		f.reserve()
		if d, ok := f.waiting[a]; ok {
			f.bind = append(f.bind, d)
		}
	}
}

// reserve takes a free place if there is one, or else that of a VF that has expired. Such a VF
// stays listed until the place is needed.
func (f *filling) reserve() {
	switch {
	case f.free > 0:
		f.free--
	case len(f.expired) > 0:
		f.expired = f.expired[1:]
	}
}

// place gives a VF a place, if there is one for its rank.
func (f *filling) place(a pci.Address, d decision, r rank) {
	displaces := !d.unhealthy && len(f.expired) > 0
	if f.free <= 0 && !displaces {
		f.skip(a, fmt.Sprintf("hidden by -max-num-devices=%d", f.limit))
		if !d.unhealthy {
			f.next = f.firstExpiry()
		}
		return
	}
	f.counted = append(f.counted, a)
	if d.action == actionBind {
		f.reserve()
		f.bind = append(f.bind, d)
		return
	}
	if f.free <= 0 {
		f.unlist(f.expired[0])
		f.expired = f.expired[1:]
		f.free++
	}
	f.free--
	delete(f.waiting, a)
	f.list(f.tree, d, f.now)
}

// unlist takes a VF's place away.
func (f *filling) unlist(a pci.Address) {
	d := f.listed[a].decision
	f.tree.Remove(d.resource, a.String())
	delete(f.listed, a)
	f.waiting[a] = d
	f.skip(a, fmt.Sprintf("hidden by -max-num-devices=%d, unhealthy: %s", f.limit, d.device.Reason))
}

// firstExpiry returns when the next unhealthy VF loses its place.
func (f *filling) firstExpiry() (next time.Time) {
	for _, p := range f.listed {
		if !p.unhealthySince.IsZero() && !p.hasExpired(f.now) {
			next = hostwatch.Earlier(next, p.unhealthySince.Add(placeTime))
		}
	}
	return next
}
