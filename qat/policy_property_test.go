package qat

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A question is what the kubelet may ask of a rack, and the answer.
type question struct {
	*rack
	policy Policy
	must   []unit
	size   int
	answer []unit
}

func ask(t *rapid.T, banks []bank, policy Policy, withMust bool) *question {
	q := &question{rack: newRack(banks), policy: policy}
	if len(q.available) > 0 && withMust {
		q.must = rapid.SliceOfNDistinct(rapid.SampledFrom(q.available), 0, len(q.available), func(u unit) string { return u.id }).Draw(t, "must")
	}
	q.size = rapid.IntRange(len(q.must), len(q.available)).Draw(t, "size")
	ids, err := choose(policy, q.available, q.must, q.size, q.listed)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if !slices.ContainsFunc(q.available, func(u unit) bool { return u.id == id }) {
			t.Fatalf("%s is chosen and not available", id)
		}
		q.answer = append(q.answer, q.find(id))
	}
	return q
}

func count[K comparable](units []unit, key func(unit) K) map[K]int {
	n := map[K]int{}
	for _, u := range units {
		n[key(u)]++
	}
	return n
}

func homeOf(u unit) Address { return u.home }
func nodeOf(u unit) int     { return u.node }

var genPolicy = rapid.SampledFrom([]Policy{Balanced, Packed})

// genBanks are PFs in any state; each is on one of the NUMA nodes.
func genBanks(nodes ...int) *rapid.Generator[[]bank] {
	return rapid.Custom(func(t *rapid.T) []bank {
		banks := make([]bank, rapid.IntRange(1, 5).Draw(t, "PFs"))
		for i := range banks {
			b := &banks[i]
			b.bus = uint8(0x10 + i)
			b.node = rapid.SampledFrom(nodes).Draw(t, "node")
			b.listed = rapid.IntRange(1, 5).Draw(t, "listed")
			b.used = rapid.IntRange(0, b.listed).Draw(t, "used")
		}
		return banks
	})
}

func TestChooseAnswersTheQuestion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := ask(t, genBanks(-1, 0, 1, 2).Draw(t, "banks"), genPolicy.Draw(t, "policy"), true)
		if !slices.IsSortedFunc(q.answer, unit.compare) {
			t.Fatalf("not ascending: %v", q.answer)
		}
		if n := len(slices.Compact(slices.Clone(q.answer))); n != q.size {
			t.Fatalf("%d different devices chosen, want %d", n, q.size)
		}
		for _, u := range q.must {
			if !slices.Contains(q.answer, u) {
				t.Fatalf("%s must be included and is not in %v", u.id, q.answer)
			}
		}
	})
}

func TestChooseDoesNotHeedTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := ask(t, genBanks(-1, 0, 1).Draw(t, "banks"), genPolicy.Draw(t, "policy"), true)
		available, must := rapid.Permutation(q.available).Draw(t, "available"), rapid.Permutation(q.must).Draw(t, "must again")
		before := slices.Clone(available)
		ids, err := choose(q.policy, available, must, q.size, q.listed)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(ids, q.answer, func(id string, u unit) bool { return id == u.id }) {
			t.Fatalf("chosen of the same devices in another order: %q, and before: %v", ids, q.answer)
		}
		if !slices.Equal(available, before) {
			t.Fatal("the question was changed")
		}
	})
}

// fewest is the smallest number of NUMA nodes, those of must among them, that together have size devices: every set of nodes is tried.
func (q *question) fewest() int {
	has := count(q.available, nodeOf)
	pinned := count(q.must, nodeOf)
	nodes := slices.Collect(maps.Keys(has))
	fewest := len(nodes)
	for set := range 1 << len(nodes) {
		n, devices, all := 0, 0, true
		for i, node := range nodes {
			if set>>i&1 == 1 {
				n, devices = n+1, devices+has[node]
			} else if pinned[node] > 0 {
				all = false
			}
		}
		if all && devices >= q.size {
			fewest = min(fewest, n)
		}
	}
	return fewest
}

func TestChooseTakesTheFewestNUMANodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := ask(t, genBanks(-1, 0, 1, 2).Draw(t, "banks"), genPolicy.Draw(t, "policy"), true)
		if got, want := len(count(q.answer, nodeOf)), q.fewest(); got != want {
			t.Fatalf("the answer is on %d NUMA nodes, %d would do: %v", got, want, q.answer)
		}
	})
}

// On one NUMA node: no VF could have come from a PF that has more left, but for what must be included. So where PFs began with as many,
// they differ by one at most.
func TestBalancedPolicyLeavesNoPFBehind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := ask(t, genBanks(0).Draw(t, "banks"), Balanced, true)
		free, taken, must := q.free(), count(q.answer, homeOf), count(q.must, homeOf)
		for gave := range free {
			for other := range free {
				left, otherLeft := free[gave]-taken[gave], free[other]-taken[other]
				if taken[gave] > must[gave] && left+1 < otherLeft {
					t.Fatalf("PF %s gave and has %d left, PF %s has %d", gave, left, other, otherLeft)
				}
			}
		}
	})
}

// Over NUMA nodes: of the nodes that would each do, none leaves the PFs more even.
func TestBalancedPolicyTakesTheNodeThatLeavesPFsMostEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := ask(t, genBanks(0, 1, 2).Draw(t, "banks"), Balanced, false)
		if q.size == 0 || q.fewest() != 1 {
			return
		}
		squares := func(answer []string) (sum int) {
			taken := map[Address]int{}
			for _, id := range answer {
				taken[q.find(id).home]++
			}
			for pf, n := range q.free() {
				sum += (n - taken[pf]) * (n - taken[pf])
			}
			return sum
		}
		var ids []string
		for _, u := range q.answer {
			ids = append(ids, u.id)
		}
		for node, n := range count(q.available, nodeOf) {
			if n < q.size {
				continue
			}
			near := slices.DeleteFunc(slices.Clone(q.available), func(u unit) bool { return u.node != node })
			other, err := choose(Balanced, near, nil, q.size, q.listed)
			if err != nil {
				t.Fatal(err)
			}
			if squares(other) < squares(ids) {
				t.Fatalf("node %d: %q would leave the PFs more even than %q", node, other, ids)
			}
		}
	})
}
