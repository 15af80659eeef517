// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// fakeBindings implements bindings with the VFs that are being bound and those that failed to bind.
type fakeBindings struct {
	pending []pci.Address
	failed  map[pci.Address]bool
}

func (b *fakeBindings) Pending() []pci.Address { return b.pending }

func (b *fakeBindings) HasFailed(vf pci.Address, _ uint64) bool { return b.failed[vf] }
func (b *fakeBindings) IsBlocked(pci.Address) bool              { return false }

// assignmentVF returns the address and the IOMMU group of VF n of 12. Each of three PFs has four
// VFs. VFs 0 and 1 share a group, as do VFs 2 and 5, and VFs 8, 9 and 10. The other VFs share none.
func assignmentVF(n int) (a pci.Address, group *int) {
	groups := map[int]int{0: 0, 1: 0, 2: 1, 5: 1, 8: 2, 9: 2, 10: 2}
	if g, ok := groups[n]; ok {
		group = &g
	}
	return pci.Address{Bus: uint8(n / 4), Function: uint8(n % 4)}, group
}

// drawDecision draws a decision about VF n.
func drawDecision(t *rapid.T, n int) decision {
	a, group := assignmentVF(n)
	d := decision{vf: a, group: group, function: &function{Function: &device.Function{Address: a}}}
	switch rapid.SampledFrom([]string{"list", "list", "bind", "bind", "await", "skip"}).Draw(t, "decision") {
	case "list":
		d.action = actionList
		d.resource = rapid.SampledFrom([]string{"cy", "dc"}).Draw(t, "resource")
		d.device = &devtree.Device{ID: a.String(), Health: devtree.Healthy}
		if d.unhealthy = rapid.Bool().Draw(t, "unhealthy"); d.unhealthy {
			d.device.Health, d.device.Reason = devtree.Unhealthy, "x"
		}
	case "bind":
		d.action, d.unhealthy = actionBind, rapid.Bool().Draw(t, "unhealthy")
	case "await":
		d.action, d.reason.Text = actionAwaitNode, "no node"
	case "skip":
		d.action, d.reason.Text = actionSkip, "x"
	}
	return d
}

// For any decisions, the list has at most as many VFs as the limit allows and at most one VF of
// each IOMMU group. A listed VF that can still be listed keeps its place, unless it has been
// unhealthy for placeTime. The VFs that are in use get their places first. No more VFs are bound
// than there are places.
func TestAssignmentKeepsTheLimitAndTheGroups(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(0, 6).Draw(t, "limit")
		s := &assignment{
			limit:   limit,
			policy:  rapid.SampledFrom([]policy.Policy{policy.None, policy.Balanced}).Draw(t, "policy"),
			listed:  map[pci.Address]*place{},
			inUse:   map[pci.Address]bool{},
			waiting: map[pci.Address]decision{},
			skipped: map[string]string{},
			classes: map[pci.Address]string{},
			tree:    &devtree.Tree{},
		}
		for _, n := range rapid.SliceOfDistinct(rapid.IntRange(0, 11), rapid.ID[int]).Draw(t, "in use") {
			a, _ := assignmentVF(n)
			s.inUse[a] = true
		}
		pfOf := func(vf pci.Address) (pci.Address, bool) { return pci.Address{Bus: vf.Bus}, true }
		b := &fakeBindings{failed: map[pci.Address]bool{}}
		latest := map[pci.Address]decision{}
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, placeTime}).Draw(t, "time"))
			var decisions []decision
			for n := range 12 {
				if rapid.Bool().Draw(t, "decided") {
					d := drawDecision(t, n)
					decisions, latest[d.vf] = append(decisions, d), d
					b.failed[d.vf] = d.action == actionBind && rapid.Bool().Draw(t, "failed")
				}
			}
			isBound := func(a pci.Address) bool { return latest[a].action != actionBind }
			b.pending = slices.DeleteFunc(b.pending, func(a pci.Address) bool { return isBound(a) || b.failed[a] })
			before, inUse := s.listed, maps.Clone(s.inUse)
			s.listed = map[pci.Address]*place{}
			for a, p := range before {
				s.listed[a] = p
			}
			bind := s.apply(decisions, b, pfOf, now)
			checkAssignment(t, s, before, latest, now)
			checkInUse(t, s, before, inUse)
			checkBinds(t, s, latest, bind, b.pending, now)
			for _, d := range bind {
				if !b.failed[d.vf] && !slices.Contains(b.pending, d.vf) {
					b.pending = append(b.pending, d.vf)
				}
			}
		}
	})
}

func checkAssignment(
	t *rapid.T, s *assignment, before map[pci.Address]*place, latest map[pci.Address]decision, now time.Time,
) {
	t.Helper()
	if s.limit > 0 && len(s.listed) > s.limit {
		t.Fatalf("%d VFs are listed, the limit is %d", len(s.listed), s.limit)
	}
	holders := map[int]pci.Address{}
	inTree := 0
	for r := range s.tree.Resources() {
		inTree += r.Len()
	}
	if inTree != len(s.listed) {
		t.Fatalf("%d VFs are in the Tree, %d are listed", inTree, len(s.listed))
	}
	for a := range s.listed {
		if latest[a].action != actionList {
			t.Fatalf("%s is listed, the decision is %v", a, latest[a].action)
		}
		if g := latest[a].group; g != nil {
			if other, ok := holders[*g]; ok {
				t.Fatalf("%s and %s of IOMMU group %d are listed", a, other, *g)
			}
			holders[*g] = a
		}
	}
	for a, p := range before {
		_, listed := s.listed[a]
		mayLose := s.limit > 0 && latest[a].unhealthy && p.hasExpired(now)
		if latest[a].action == actionList && !listed && !mayLose {
			t.Fatalf("%s was listed, can be listed, and is not: %q", a, s.skipped[a.String()])
		}
	}
	for a, d := range latest {
		_, listed := s.listed[a]
		if d.action == actionList && !listed && s.skipped[a.String()] == "" {
			t.Fatalf("%s is not listed, without a reason", a)
		}
	}
}

// checkInUse fails the test if a VF that is in use waits for a place and another VF got one.
func checkInUse(t *rapid.T, s *assignment, before map[pci.Address]*place, inUse map[pci.Address]bool) {
	t.Helper()
	for a := range s.listed {
		if _, listed := before[a]; listed || inUse[a] {
			continue
		}
		for waiting, d := range s.waiting {
			if inUse[waiting] && d.action == actionList && !d.unhealthy && d.group == nil {
				t.Fatalf("%s got a place, and %s, which is in use, waits for one", a, waiting)
			}
		}
	}
}

// checkBinds fails the test if more VFs are bound than there are places. All VFs of an IOMMU group
// count as one.
func checkBinds(
	t *rapid.T, s *assignment, latest map[pci.Address]decision, bind []decision, pending []pci.Address, now time.Time,
) {
	t.Helper()
	held, places, starts := map[int]bool{}, 0, 0
	for _, p := range s.listed {
		if p.decision.group != nil {
			held[*p.decision.group] = true
		}
		if !p.hasExpired(now) {
			places++
		}
	}
	count := func(d decision) (holdsPlace bool) {
		if d.group != nil && held[*d.group] {
			return false
		}
		if d.group != nil {
			held[*d.group] = true
		}
		places++
		return true
	}
	for _, a := range pending {
		count(latest[a])
	}
	for _, d := range bind {
		if d.action != actionBind || latest[d.vf].action != actionBind {
			t.Fatalf("%s is to be bound, the decision is %v", d.vf, latest[d.vf].action)
		}
		if !slices.Contains(pending, d.vf) && count(d) {
			starts++
		}
	}
	if s.limit > 0 && starts > 0 && places > s.limit {
		t.Fatalf("%d VFs are listed or being bound after %d starts, the limit is %d", places, starts, s.limit)
	}
}
