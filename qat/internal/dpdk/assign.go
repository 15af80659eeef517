// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// This file decides which VFs are listed when not all of them can be. Each listed VF has a place.
// The device limit (-max-num-devices) is the number of places. Without a limit there is a place for
// every VF, but VFs that share an IOMMU group have only one place between them. The rules are:
//
//  1. A listed VF keeps its place while it can be listed. If two listed VFs turn out to share an
//     IOMMU group, the one with the lower address keeps the place of the group.
//  2. A VF that is being bound has a reserved place. Without the reservation, the VFs of the PF
//     that is bound first would take all places.
//  3. The other places go to the waiting VFs in the order of their ranks, see [rank]. The bound
//     VFs that containers have when the mode starts come first: they were probably listed before.
//     Within a rank [policy.Order] decides. A waiting VF that is not bound gets a reserved place
//     and is bound.
//  4. If no place is free, a healthy VF replaces a listed VF that has been unhealthy for placeTime.
//     The unhealthy VF stays listed until the healthy one can be listed. A VF that is unhealthy
//     because its PF is withdrawn keeps its place, because the workload that has it may go on.
//  5. The first VF of an IOMMU group that gets a place holds the place of the group. The other VFs
//     of the group are not listed, because the kernel gives a group to one process at a time. They
//     are bound nevertheless, because VFIO cannot use a group in which a function has a driver for
//     the host (Documentation/driver-api/vfio.rst).

// placeTime is how long a listed VF can be unhealthy before a healthy VF may replace it. It is
// longer than the reset of a PF, which makes the VFs of the PF unhealthy for a moment.
const placeTime = time.Minute

// An assignment is the state of the lists: which VFs are listed, which wait for a place, and why
// the others are not listed.
type assignment struct {
	limit  int // maximum number of listed VFs; 0: no limit
	policy policy.Policy
	inUse  map[pci.Address]bool // VFs that containers had when the mode started, until they are listed

	listed  map[pci.Address]*place   // listed VFs
	changed []pci.Address            // VFs whose entries the last call of apply has changed
	waiting map[pci.Address]decision // VFs that need a place and are not listed; some are being bound
	skipped map[string]string        // VF → why it is not listed
	classes map[pci.Address]string   // VF → class of that reason; "" while it is being bound
	tree    *devtree.Tree
	next    time.Time // when a waiting VF can next replace an unhealthy one; zero: never
}

// A place is the entry of a listed VF.
type place struct {
	decision       decision
	unhealthySince time.Time // zero: the VF is healthy
}

// hasExpired reports whether the VF has been unhealthy for so long that a healthy VF may replace
// it.
func (p *place) hasExpired(now time.Time) bool {
	return !p.unhealthySince.IsZero() && now.Sub(p.unhealthySince) >= placeTime
}

// bindings reports which VFs are being bound and which could not be bound. [bind.Binder]
// implements it.
type bindings interface {
	// Pending returns the VFs that are being bound.
	Pending() []pci.Address
	// HasFailed reports whether the last attempt to bind a VF failed.
	HasFailed(vf pci.Address, incarnation uint64) bool
	// IsBlocked reports whether no VF of a PF can be bound now, because the kernel blocks the
	// writes to several of them.
	IsBlocked(pf pci.Address) bool
}

// apply updates the lists according to new decisions. It returns the VFs that must be bound. With
// a limit these are only VFs that have a place or share an IOMMU group with a VF that has one. pfOf
// returns the PF of a VF.
func (s *assignment) apply(decisions []decision, b bindings, pfOf policy.PFOf, now time.Time) (bind []decision) {
	tree := s.tree.Edit()
	s.changed = s.changed[:0]
	shared := false
	for _, d := range decisions {
		s.applyOne(tree, d, now)
		shared = shared || d.group != nil
		if d.action == actionBind && !s.needsPlace(d) {
			bind = append(bind, d)
		}
	}
	s.next = time.Time{}
	if len(s.waiting) > 0 || shared {
		r := assigner{
			assignment:   s,
			tree:         tree,
			bindings:     b,
			pfOf:         pfOf,
			now:          now,
			groupHolders: map[int]pci.Address{},
			pending:      map[pci.Address]bool{},
		}
		bind = append(bind, r.run()...)
	}
	s.tree = tree.Build()
	s.shareDevices()
	return bind
}

// shareDevices replaces the devices of the VFs that apply has listed by their copies in the tree,
// so that only one of the two stays in memory.
func (s *assignment) shareDevices() {
	for _, a := range s.changed {
		if p := s.listed[a]; p != nil {
			p.decision.device = s.tree.Resource(p.decision.resource).Device(a.String())
		}
	}
}

// applyOne applies one decision. It lists the VF if the VF is listed already or needs no place. A
// VF that needs a place is added to the waiting VFs.
func (s *assignment) applyOne(b *devtree.Builder, d decision, now time.Time) {
	a, id := d.vf, d.vf.String()
	delete(s.waiting, a)
	s.unskip(a, id)
	p, listed := s.listed[a]
	if listed && d.resource != p.decision.resource {
		b.Remove(p.decision.resource, id)
	}
	if listed && d.action != actionList {
		delete(s.listed, a)
		s.changed = append(s.changed, a)
	}
	switch {
	case d.action == actionList && (listed || !s.needsPlace(d)):
		s.list(b, d, now)
	case d.action == actionList, d.action == actionBind && s.needsPlace(d):
		s.waiting[a] = d
	case d.reason.Text != "":
		s.skip(a, d.reason)
	}
}

// needsPlace reports whether a VF must get a place before it is listed or bound: there is a limit,
// or the VF shares an IOMMU group with another VF.
func (s *assignment) needsPlace(d decision) bool { return s.limit > 0 || d.group != nil }

// list lists a VF, or replaces its entry. A VF that the Tree rejects is skipped.
func (s *assignment) list(b *devtree.Builder, d decision, now time.Time) {
	a, id := d.vf, d.vf.String()
	s.unskip(a, id)
	if err := b.Put(d.resource, d.device); err != nil {
		klog.ErrorS(err, "Cannot list a device", "device", a)
		b.Remove(d.resource, id)
		delete(s.listed, a)
		s.changed = append(s.changed, a)
		s.skip(a, status.Reason{Class: status.ClassOther, Text: err.Error()})
		return
	}
	p := &place{decision: d}
	if d.unhealthy {
		p.unhealthySince = now
		if old := s.listed[a]; old != nil && !old.unhealthySince.IsZero() {
			p.unhealthySince = old.unhealthySince
		}
	}
	s.listed[a] = p
	s.changed = append(s.changed, a)
	delete(s.inUse, a)
}

// skip records why a VF is not listed.
func (s *assignment) skip(a pci.Address, reason status.Reason) {
	s.skipped[a.String()] = reason.Text
	s.classes[a] = reason.Class
}

// unskip drops the reason why the VF a with this ID is not listed.
func (s *assignment) unskip(a pci.Address, id string) {
	delete(s.skipped, id)
	delete(s.classes, a)
}

// A rank orders the waiting VFs. VFs of a lower rank get their places first.
type rank uint8

const (
	rankInUse            rank = iota // bound, and a container had it when the mode started; healthy or not
	rankBound                        // bound, healthy; may have been listed before a restart
	rankUnbound                      // not bound, healthy
	rankUnhealthy                    // bound, unhealthy
	rankUnboundUnhealthy             // not bound, unhealthy
	rankBindFailed                   // not bound, and the last attempt to bind it failed, or its PF is blocked
)

// An assigner assigns places by the rules above. It is used for one call of apply.
type assigner struct {
	*assignment
	tree     *devtree.Builder
	bindings bindings
	pfOf     policy.PFOf
	now      time.Time

	free         int                  // number of free places
	expired      []pci.Address        // listed VFs that a healthy VF may replace, unhealthy for longest first
	placed       []pci.Address        // the other listed VFs, and VFs with a reserved place
	groupHolders map[int]pci.Address  // IOMMU group → VF that holds the place of the group
	pending      map[pci.Address]bool // VFs that are being bound
	bind         []decision           // VFs that must be bound
}

// run assigns all places and returns the VFs that must be bound.
func (r *assigner) run() []decision {
	r.unlistGroupDuplicates()
	r.countListed()
	r.reserveForPending()
	r.assignWaiting()
	return r.bind
}

// unlistGroupDuplicates removes listed VFs from the lists until no two of them share an IOMMU
// group. Such VFs were listed before the plugin knew that they share a group.
func (r *assigner) unlistGroupDuplicates() {
	var grouped []pci.Address
	for a, p := range r.listed {
		if p.decision.group != nil {
			grouped = append(grouped, a)
		}
	}
	slices.SortFunc(grouped, pci.Address.Compare)
	for _, a := range grouped {
		if r.holdGroup(r.listed[a].decision) != a {
			r.unlist(a)
		}
	}
}

// countListed counts the places that the listed VFs leave free.
func (r *assigner) countListed() {
	for a, p := range r.listed {
		if p.hasExpired(r.now) {
			r.expired = append(r.expired, a)
		} else {
			r.placed = append(r.placed, a)
		}
	}
	slices.SortFunc(r.expired, func(a, b pci.Address) int {
		return cmp.Or(r.listed[a].unhealthySince.Compare(r.listed[b].unhealthySince), b.Compare(a))
	})
	r.free = r.limit - len(r.listed)
	if r.limit == 0 {
		r.free = math.MaxInt32
	}
}

// reserveForPending reserves places for the VFs that are being bound, and continues to bind them.
func (r *assigner) reserveForPending() {
	for _, a := range slices.SortedFunc(slices.Values(r.bindings.Pending()), pci.Address.Compare) {
		if _, listed := r.listed[a]; listed {
			continue
		}
		d, waits := r.waiting[a]
		if waits && d.action == actionList {
			continue // bound by now, although the binder still reports it as pending
		}
		r.pending[a] = true
		r.placed = append(r.placed, a)
		if waits {
			r.bind = append(r.bind, d)
		}
		if !waits || r.holdGroup(d) == a {
			r.reserve()
		}
	}
}

// rankOf returns the rank of a waiting VF.
func (r *assigner) rankOf(d decision) rank {
	b, isBound := r.bindings, d.action == actionList
	switch {
	case !isBound && (b.HasFailed(d.vf, d.function.Incarnation) || b.IsBlocked(policy.PFOrBus(d.vf, r.pfOf))):
		return rankBindFailed
	case isBound && r.inUse[d.vf]:
		return rankInUse
	case !isBound && d.unhealthy:
		return rankUnboundUnhealthy
	case d.unhealthy:
		return rankUnhealthy
	case !isBound:
		return rankUnbound
	}
	return rankBound
}

// assignWaiting assigns places to the waiting VFs in the order of their ranks.
func (r *assigner) assignWaiting() {
	byRank := map[rank][]pci.Address{}
	for a, d := range r.waiting {
		if !r.pending[a] {
			ofVF := r.rankOf(d)
			byRank[ofVF] = append(byRank[ofVF], a)
		}
	}
	for next := rankInUse; next <= rankBindFailed; next++ {
		for _, a := range policy.Order(r.policy, byRank[next], r.pfOf, slices.Values(r.placed)) {
			r.assign(a, r.waiting[a])
		}
	}
}

// assign assigns a place to a waiting VF if there is one for it.
func (r *assigner) assign(a pci.Address, d decision) {
	if d.group != nil {
		if holder, held := r.groupHolders[*d.group]; held {
			r.assignToGroup(a, d, holder)
			return
		}
	}
	canReplace := !d.unhealthy && len(r.expired) > 0
	if r.free <= 0 && !canReplace {
		r.skip(a, status.Reason{
			Class: status.ClassLimit,
			Text:  fmt.Sprintf("hidden by -max-num-devices=%d", r.limit),
		})
		if !d.unhealthy {
			r.next = r.nextExpiry()
		}
		return
	}
	r.placed = append(r.placed, a)
	r.holdGroup(d)
	if d.action == actionBind {
		r.reserve()
		r.bind = append(r.bind, d)
		return
	}
	if r.free <= 0 {
		r.unlistFirstExpired()
	}
	r.free--
	delete(r.waiting, a)
	r.list(r.tree, d, r.now)
}

// assignToGroup handles a waiting VF of an IOMMU group whose place another VF holds. The VF is
// bound if necessary, but not listed.
func (r *assigner) assignToGroup(a pci.Address, d decision, holder pci.Address) {
	if d.action == actionBind {
		r.bind = append(r.bind, d)
		return
	}
	r.skip(a, status.Reason{
		Class: status.ClassGroupShared,
		Text:  fmt.Sprintf("it shares IOMMU group %d with %s, which is listed", *d.group, holder),
	})
}

// reserve reserves a free place, or else the place of an expired VF. The expired VF stays listed
// until the VF with the reservation is bound and can be listed.
func (r *assigner) reserve() {
	switch {
	case r.free > 0:
		r.free--
	case len(r.expired) > 0:
		r.expired = r.expired[1:]
	}
}

// holdGroup makes a VF the holder of its IOMMU group, unless the group has a holder. It returns the
// holder, which is the VF itself if it shares no group.
func (r *assigner) holdGroup(d decision) pci.Address {
	if d.group == nil {
		return d.vf
	}
	if _, held := r.groupHolders[*d.group]; !held {
		r.groupHolders[*d.group] = d.vf
	}
	return r.groupHolders[*d.group]
}

// unlistFirstExpired frees the place of the VF that has been unhealthy for longest.
func (r *assigner) unlistFirstExpired() {
	first := r.expired[0]
	r.expired = r.expired[1:]
	r.unlist(first)
	r.free++
}

// unlist removes a VF from the lists. The VF waits for a place again.
func (r *assigner) unlist(a pci.Address) {
	d := r.listed[a].decision
	r.tree.Remove(d.resource, a.String())
	delete(r.listed, a)
	r.changed = append(r.changed, a)
	if d.group != nil && r.groupHolders[*d.group] == a {
		r.releaseGroup(*d.group)
	}
	r.waiting[a] = d
	r.skip(a, status.Reason{
		Class: status.ClassLimit,
		Text:  fmt.Sprintf("hidden by -max-num-devices=%d, unhealthy: %s", r.limit, d.device.Reason),
	})
}

// releaseGroup ends the hold of a VF on its IOMMU group. If another VF of the group is being bound,
// that VF becomes the holder. It reserves a place even if none is left.
func (r *assigner) releaseGroup(group int) {
	delete(r.groupHolders, group)
	for _, a := range slices.SortedFunc(maps.Keys(r.pending), pci.Address.Compare) {
		if d := r.waiting[a]; d.group != nil && *d.group == group {
			r.groupHolders[group] = a
			r.reserve()
			return
		}
	}
}

// nextExpiry returns when the next listed VF expires, or zero if none is unhealthy.
func (r *assigner) nextExpiry() (next time.Time) {
	for _, p := range r.listed {
		if !p.unhealthySince.IsZero() && !p.hasExpired(r.now) {
			next = hostwatch.Earlier(next, p.unhealthySince.Add(placeTime))
		}
	}
	return next
}
