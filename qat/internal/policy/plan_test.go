// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"qatplugin/qat/internal/pci"
)

// request is a random valid request and the devices chosen for it.
type request struct {
	*testHost
	policy      Policy
	mustInclude []candidate
	size        int
	chosen      []candidate
}

// newRequest draws a request and has it answered.
func newRequest(t *rapid.T, pfs []testPF, policy Policy, include bool) *request {
	r := &request{testHost: newTestHost(pfs), policy: policy}
	if len(r.available) > 0 && include {
		id := func(c candidate) string { return c.id }
		r.mustInclude = rapid.SliceOfNDistinct(rapid.SampledFrom(r.available), 0, len(r.available), id).
			Draw(t, "must include")
	}
	r.size = rapid.IntRange(len(r.mustInclude), len(r.available)).Draw(t, "size")
	chosen, err := policy.choose(r.available, r.mustInclude, r.size, r.listed)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range chosen {
		if !slices.ContainsFunc(r.available, func(c candidate) bool { return c.id == id }) {
			t.Fatalf("%s is chosen but not available", id)
		}
		r.chosen = append(r.chosen, r.find(id))
	}
	return r
}

func count[K comparable](candidates []candidate, key func(candidate) K) map[K]int {
	n := map[K]int{}
	for _, c := range candidates {
		n[key(c)]++
	}
	return n
}

func pfOf(c candidate) pci.Address { return c.pf }
func nodeOf(c candidate) int       { return c.node }

var anyPolicy = rapid.SampledFrom([]Policy{Balanced, Packed})

// anyPFs generates PFs in any state, each on one of the NUMA nodes.
func anyPFs(nodes ...int) *rapid.Generator[[]testPF] {
	return rapid.Custom(func(t *rapid.T) []testPF {
		pfs := make([]testPF, rapid.IntRange(1, 5).Draw(t, "PFs"))
		for i := range pfs {
			pf := &pfs[i]
			pf.bus = uint8(0x10 + i)
			pf.node = rapid.SampledFrom(nodes).Draw(t, "node")
			pf.listed = rapid.IntRange(1, 5).Draw(t, "listed")
			pf.used = rapid.IntRange(0, pf.listed).Draw(t, "used")
		}
		return pfs
	})
}

func TestChoiceIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(t, anyPFs(-1, 0, 1, 2).Draw(t, "pfs"), anyPolicy.Draw(t, "policy"), true)
		if !slices.IsSortedFunc(r.chosen, candidate.compare) {
			t.Fatalf("not in ascending order: %v", r.chosen)
		}
		if n := len(slices.Compact(slices.Clone(r.chosen))); n != r.size {
			t.Fatalf("%d different devices chosen, want %d", n, r.size)
		}
		for _, c := range r.mustInclude {
			if !slices.Contains(r.chosen, c) {
				t.Fatalf("%s must be included but is not in %v", c.id, r.chosen)
			}
		}
	})
}

func TestChoiceDoesNotDependOnTheOrderOfTheRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(t, anyPFs(-1, 0, 1).Draw(t, "pfs"), anyPolicy.Draw(t, "policy"), true)
		available := rapid.Permutation(r.available).Draw(t, "available")
		mustInclude := rapid.Permutation(r.mustInclude).Draw(t, "must include, permuted")
		before := slices.Clone(available)
		again, err := r.policy.choose(available, mustInclude, r.size, r.listed)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(again, r.chosen, func(id string, c candidate) bool { return id == c.id }) {
			t.Fatalf("chosen in one order %v, in another %q", r.chosen, again)
		}
		if !slices.Equal(available, before) {
			t.Fatal("the request was modified")
		}
	})
}

// fewestNodes returns the lowest number of NUMA nodes that have enough devices, including the
// nodes of the devices that must be included. It tries all sets of nodes.
func (r *request) fewestNodes() int {
	free, must := count(r.available, nodeOf), count(r.mustInclude, nodeOf)
	nodes := slices.Collect(maps.Keys(free))
	fewest := len(nodes)
	for set := range 1 << len(nodes) {
		n, devices, valid := 0, 0, true
		for i, node := range nodes {
			if set>>i&1 == 1 {
				n, devices = n+1, devices+free[node]
			} else if must[node] > 0 {
				valid = false
			}
		}
		if valid && devices >= r.size {
			fewest = min(fewest, n)
		}
	}
	return fewest
}

func TestChoiceUsesTheFewestNUMANodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(t, anyPFs(-1, 0, 1, 2).Draw(t, "pfs"), anyPolicy.Draw(t, "policy"), true)
		if got, want := len(count(r.chosen, nodeOf)), r.fewestNodes(); got != want {
			t.Fatalf("the choice is on %d NUMA nodes, want %d: %v", got, want, r.chosen)
		}
	})
}

// On one NUMA node, no chosen VF could have come from a PF that has more VFs left, so PFs that
// start equal end with a difference of one at most.
func TestBalancedTakesFromThePFWithTheMostVFs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(t, anyPFs(0).Draw(t, "pfs"), Balanced, true)
		free, taken, must := r.free(), count(r.chosen, pfOf), count(r.mustInclude, pfOf)
		for pf := range free {
			for other := range free {
				left, otherLeft := free[pf]-taken[pf], free[other]-taken[other]
				if taken[pf] > must[pf] && left+1 < otherLeft {
					t.Fatalf("VFs are taken from PF %s, which has %d left, while PF %s has %d",
						pf, left, other, otherLeft)
				}
			}
		}
	})
}

func TestBalancedUsesTheNUMANodeThatLeavesPFsMostEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRequest(t, anyPFs(0, 1, 2).Draw(t, "pfs"), Balanced, false)
		if r.size == 0 || r.fewestNodes() != 1 {
			return
		}
		squares := func(taken map[pci.Address]int) (sum int) {
			for pf, n := range r.free() {
				sum += (n - taken[pf]) * (n - taken[pf])
			}
			return sum
		}
		for node, n := range count(r.available, nodeOf) {
			if n < r.size {
				continue
			}
			onNode := slices.DeleteFunc(slices.Clone(r.available), func(c candidate) bool { return c.node != node })
			alternative, err := Balanced.choose(onNode, nil, r.size, r.listed)
			if err != nil {
				t.Fatal(err)
			}
			taken := map[pci.Address]int{}
			for _, id := range alternative {
				taken[r.find(id).pf]++
			}
			if squares(taken) < squares(count(r.chosen, pfOf)) {
				t.Fatalf("on node %d, %q would leave the PFs more even than %v", node, alternative, r.chosen)
			}
		}
	})
}

// share is the number of VFs taken from each PF.
type share map[pci.Address]int

// shares returns all possible ways to answer the request.
func (r *request) shares() (all []share) {
	free, must := r.free(), count(r.mustInclude, pfOf)
	pfs := slices.SortedFunc(maps.Keys(free), pci.Address.Compare)
	var extend func(s share, i, rest int)
	extend = func(s share, i, rest int) {
		if i == len(pfs) {
			if rest == 0 {
				all = append(all, maps.Clone(s))
			}
			return
		}
		for n := must[pfs[i]]; n <= min(rest, free[pfs[i]]); n++ {
			s[pfs[i]] = n
			extend(s, i+1, rest-n)
		}
	}
	extend(share{}, 0, r.size)
	return all
}

// rate counts the PFs that VFs are taken from and the unused ones among them. wasteful reports
// whether an unused PF is opened although a used one has a VF left.
func (r *request) rate(s share) (touched, opened int, wasteful bool) {
	free, must := r.free(), count(r.mustInclude, pfOf)
	left := false
	for pf, n := range s {
		used := free[pf] < r.listed[pf] || must[pf] > 0
		if n > 0 {
			touched++
		}
		if n > 0 && !used {
			opened++
		}
		left = left || used && n < free[pf]
	}
	return touched, opened, left && opened > 0
}

// On one NUMA node, compared to all other ways to take as many VFs.
func TestPackedOpensAndTouchesTheFewestPFs(t *testing.T) {
	unused := rapid.Map(anyPFs(0), func(pfs []testPF) []testPF {
		for i := range pfs {
			pfs[i].used = 0
		}
		return pfs
	})
	for _, test := range []struct {
		name   string
		pfs    *rapid.Generator[[]testPF]
		unused bool
	}{
		{name: "any PFs", pfs: anyPFs(0)},
		{name: "unused PFs", pfs: unused, unused: true},
	} {
		t.Run(test.name, rapid.MakeCheck(func(t *rapid.T) {
			r := newRequest(t, test.pfs.Draw(t, "pfs"), Packed, !test.unused)
			touched, opened, wasteful := r.rate(count(r.chosen, pfOf))
			if wasteful {
				t.Fatalf("an unused PF is opened while a used one has a free VF: %v", r.chosen)
			}
			for _, other := range r.shares() {
				otherTouched, otherOpened, otherWasteful := r.rate(other)
				if otherOpened < opened {
					t.Fatalf("%d PFs are opened, %v opens %d: %v", opened, other, otherOpened, r.chosen)
				}
				// Used PFs are filled first, even if starting with an unused one would touch
				// fewer PFs in total.
				if otherTouched < touched && (!otherWasteful || test.unused) {
					t.Fatalf("%d PFs are touched, %v touches %d: %v", touched, other, otherTouched, r.chosen)
				}
			}
		}))
	}
}

// Containers are added one after the other and none ends. After each of them, packed has at
// most one PF partly used, and with balanced the free VFs of the PFs differ by at most one.
func TestPoliciesOverManyContainers(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		for _, policy := range []Policy{Balanced, Packed} {
			h := newTestHost([]testPF{
				{bus: 0x6b, listed: 16},
				{bus: 0x70, listed: 16},
				{bus: 0x75, listed: 16},
				{bus: 0x7a, listed: 16},
			})
			for len(h.available) >= size {
				h.allocate(t, policy, size)
				partlyUsed, most, least := 0, 0, 16
				for pf, n := range h.free() {
					if n > 0 && n < h.listed[pf] {
						partlyUsed++
					}
					most, least = max(most, n), min(least, n)
				}
				if policy == Packed && partlyUsed > 1 {
					t.Fatalf("packed, size %d: %d PFs are partly used: %v", size, partlyUsed, h.free())
				}
				if policy == Balanced && most-least > 1 {
					t.Fatalf("balanced, size %d: free VFs differ by %d: %v", size, most-least, h.free())
				}
			}
		}
	}
}
