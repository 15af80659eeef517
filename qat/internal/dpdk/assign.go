// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"fmt"
	"math"
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
	waiting map[pci.Address]decision // VFs that could be listed, now or once bound, but have no place
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
	shared := false
	for _, d := range decisions {
		s.applyOne(tree, d, now)
		shared = shared || d.group != nil
		if d.action == actionBind && !s.mustWait(d) {
			bind = append(bind, d)
		}
	}
	s.next = time.Time{}
	if len(s.waiting) > 0 || shared {
		f := filling{
			assignment: s,
			tree:       tree,
			bindings:   b,
			pfOf:       pfOf,
			now:        now,
			holders:    map[int]pci.Address{},
			pending:    map[pci.Address]bool{},
		}
		bind = append(bind, f.run()...)
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
	case d.action == actionList && (listed || !s.mustWait(d)):
		s.list(b, d, now)
	case d.action == actionList, d.action == actionBind && s.mustWait(d):
		s.waiting[a] = d
	case d.reason != "":
		s.skipped[id] = d.reason
	}
}

// mustWait reports whether a VF waits for a place: there is a limit, or only one VF of its IOMMU
// group has a place.
func (s *assignment) mustWait(d decision) bool { return s.limit > 0 || d.group != nil }

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
//
// VFs that share an IOMMU group have one place: the kernel gives a group to one process at a time
// (Documentation/driver-api/vfio.rst). The VF that is listed first stands for the group, and the
// others follow it: they are bound with it, because a group with a driver for the host cannot be
// used, and are not listed.
type filling struct {
	*assignment
	tree     *devtree.Builder
	bindings bindings
	pfOf     policy.PFOf
	now      time.Time

	free    int                  // places that nobody has
	expired []pci.Address        // VFs that lose their place to a healthy one, the first one first
	counted []pci.Address        // VFs that have a place or get one
	holders map[int]pci.Address  // IOMMU group → the VF that has the group's place
	pending map[pci.Address]bool // VFs that are being bound
	bind    []decision
}

// run returns the VFs that are to be bound.
func (f *filling) run() []decision {
	f.countListed()
	f.countPending()
	ranks := map[rank][]pci.Address{}
	for a, d := range f.waiting {
		if !f.pending[a] {
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
	var grouped []pci.Address
	for a, p := range f.listed {
		if p.decision.group != nil {
			grouped = append(grouped, a)
		}
	}
	slices.SortFunc(grouped, pci.Address.Compare)
	for _, a := range grouped {
		if f.hold(f.listed[a].decision) != a {
			f.unlist(a) // both were listed before it was known that they share a group
		}
	}
	for a, p := range f.listed {
		if p.hasExpired(f.now) {
			f.expired = append(f.expired, a)
		} else {
			f.counted = append(f.counted, a)
		}
	}
	f.free = f.limit - len(f.listed)
	if f.limit == 0 {
		f.free = math.MaxInt32
	}
	slices.SortFunc(f.expired, func(a, b pci.Address) int {
		return cmp.Or(f.listed[a].unhealthySince.Compare(f.listed[b].unhealthySince), b.Compare(a))
	})
}

// countPending counts the VFs that are being bound, and has their binding continued. They may have
// the place of a VF that has expired and is listed until they are bound.
func (f *filling) countPending() {
	for _, a := range slices.SortedFunc(slices.Values(f.bindings.Pending()), pci.Address.Compare) {
		if _, listed := f.listed[a]; listed {
			continue
		}
		if d, ok := f.waiting[a]; ok && d.action == actionList {
			continue // it is bound, and this is noticed first here
		}
		f.pending[a] = true
		d, ok := f.waiting[a]
		if ok {
			f.bind = append(f.bind, d)
		}
		f.counted = append(f.counted, a)
		if !ok || f.hold(d) == a {
			f.reserve()
		}
	}
}

// hold gives a VF the place of its IOMMU group, and returns the VF that has the place then.
func (f *filling) hold(d decision) pci.Address {
	if d.group == nil {
		return d.vf
	}
	if _, held := f.holders[*d.group]; !held {
		f.holders[*d.group] = d.vf
	}
	return f.holders[*d.group]
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
	if d.group != nil {
		if holder, held := f.holders[*d.group]; held {
			f.follow(a, d, holder)
			return
		}
	}
	displaces := !d.unhealthy && len(f.expired) > 0
	if f.free <= 0 && !displaces {
		f.skip(a, fmt.Sprintf("hidden by -max-num-devices=%d", f.limit))
		if !d.unhealthy {
			f.next = f.firstExpiry()
		}
		return
	}
	f.counted = append(f.counted, a)
	f.hold(d)
	if d.action == actionBind {
		f.reserve()
		f.bind = append(f.bind, d)
		return
	}
	if f.free <= 0 {
		loser := f.expired[0]
		f.expired = f.expired[1:]
		f.unlist(loser)
		f.free++
	}
	f.free--
	delete(f.waiting, a)
	f.list(f.tree, d, f.now)
}

// follow handles a VF of an IOMMU group whose place another VF has.
func (f *filling) follow(a pci.Address, d decision, holder pci.Address) {
	if d.action == actionBind {
		f.bind = append(f.bind, d)
		return
	}
	f.skip(a, fmt.Sprintf("it shares IOMMU group %d with %s, which is listed", *d.group, holder))
}

// unlist takes a VF's place away.
func (f *filling) unlist(a pci.Address) {
	d := f.listed[a].decision
	f.tree.Remove(d.resource, a.String())
	delete(f.listed, a)
	if d.group != nil && f.holders[*d.group] == a {
		f.passOn(*d.group)
	}
	f.waiting[a] = d
	f.skip(a, fmt.Sprintf("hidden by -max-num-devices=%d, unhealthy: %s", f.limit, d.device.Reason))
}

// passOn frees the place of an IOMMU group, unless another VF of the group is being bound: then
// that VF has a place, even if there is none left.
func (f *filling) passOn(group int) {
	delete(f.holders, group)
	for a := range f.pending {
		if d := f.waiting[a]; d.group != nil && *d.group == group {
			f.holders[group] = a
			f.reserve()
			return
		}
	}
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
