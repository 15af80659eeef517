// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"maps"
	"slices"

	"qatplugin/qat/internal/pci"
)

// pool holds the available devices of one PF on one NUMA node. On a host there is one pool per
// PF, because all VFs of a PF are on its node. In a guest, a bus may have VFs of several nodes.
type pool struct {
	pf   pci.Address
	node int
	free []candidate // devices to choose from, ascending, without those that must be included
	must int         // number of devices that must be included
	used bool        // devices of the PF are allocated or must be included: the PF is in use anyway
	take int         // number of devices chosen from the front of free
}

func (p *pool) left() int { return len(p.free) - p.take }

// compareNodes orders NUMA nodes, with the unknown node, -1, last.
func compareNodes(a, b int) int { return cmp.Compare(uint(a), uint(b)) }

// newPools groups the available devices into pools, ordered by PF and node, so that the first
// of several equal pools is the one with the lowest address.
func newPools(available []candidate, included map[string]bool, listed map[pci.Address]int) []pool {
	sorted := slices.SortedFunc(slices.Values(available), func(a, b candidate) int {
		return cmp.Or(a.pf.Compare(b.pf), compareNodes(a.node, b.node), a.compare(b))
	})
	var pools []pool
	free := map[pci.Address]int{} // PF → available devices that need not be included
	for _, c := range sorted {
		if n := len(pools); n == 0 || pools[n-1].pf != c.pf || pools[n-1].node != c.node {
			pools = append(pools, pool{pf: c.pf, node: c.node})
		}
		p := &pools[len(pools)-1]
		if included[c.id] {
			p.must++
			continue
		}
		p.free = append(p.free, c)
		free[c.pf]++
	}
	for i := range pools {
		pools[i].used = listed[pools[i].pf] > free[pools[i].pf]
	}
	return pools
}

// plan chooses need devices from the pools and returns the pools of the NUMA nodes that it uses,
// with take set in each. It uses as few nodes as possible, and always those with devices that must
// be included. The pools must hold at least need devices.
func (policy Policy) plan(pools []pool, need int) []pool {
	free := map[int]int{} // NUMA node → devices to choose from
	used := map[int]bool{}
	for _, p := range pools {
		free[p.node] += len(p.free)
		if p.must > 0 {
			used[p.node] = true
		}
	}
	missing := need
	for node := range used {
		missing -= free[node]
	}
	nodes := slices.SortedFunc(maps.Keys(free), compareNodes)
	for missing > 0 {
		nodes = slices.DeleteFunc(nodes, func(node int) bool { return used[node] })
		var plans [][]pool
		for _, node := range nodes {
			if free[node] >= missing { // with this node there are enough
				with := maps.Clone(used)
				with[node] = true
				plans = append(plans, policy.planOn(with, pools, need))
			}
		}
		if len(plans) > 0 {
			compare := func(a, b []pool) int { return slices.Compare(policy.cost(a), policy.cost(b)) }
			return slices.MinFunc(plans, compare) // the first of equally cheap ones
		}
		// Using the node with the most devices leaves the fewest further nodes to add.
		largest := slices.MaxFunc(nodes, func(a, b int) int { return cmp.Compare(free[a], free[b]) })
		used[largest] = true
		missing -= free[largest]
	}
	return policy.planOn(used, pools, need)
}

// planOn chooses need devices from the pools of some nodes and returns these pools.
func (policy Policy) planOn(nodes map[int]bool, pools []pool, need int) (chosen []pool) {
	for _, p := range pools {
		if nodes[p.node] {
			chosen = append(chosen, p)
		}
	}
	if policy == Balanced {
		takeBalanced(chosen, need)
	} else {
		takePacked(chosen, need)
	}
	return chosen
}

// takeBalanced takes one device at a time from the pool with the most devices left.
func takeBalanced(pools []pool, need int) {
	for range need {
		largest := &pools[0]
		for i := range pools {
			if pools[i].left() > largest.left() {
				largest = &pools[i]
			}
		}
		largest.take++
	}
}

// takePacked first takes from PFs with devices that must be included, then from other PFs in
// use, and from unused PFs only what is still missing.
func takePacked(pools []pool, need int) {
	need = takeFewest(pools, need, func(p *pool) bool { return p.must > 0 })
	need = takeFewest(pools, need, func(p *pool) bool { return p.used })
	takeFewest(pools, need, func(*pool) bool { return true })
}

// takeFewest takes devices from as few of the matching pools as possible and returns how many
// are still missing. It empties the largest pool until one pool has all of the rest, then
// takes that from the smallest such pool, so that large pools stay whole.
func takeFewest(pools []pool, need int, match func(*pool) bool) (missing int) {
	for need > 0 {
		var best *pool
		for i := range pools {
			p := &pools[i]
			if p.left() > 0 && match(p) && (best == nil || fitsBetter(p.left(), best.left(), need)) {
				best = p
			}
		}
		if best == nil {
			break
		}
		n := min(need, best.left())
		best.take += n
		need -= n
	}
	return need
}

// fitsBetter reports whether a pool with a devices is better than one with b devices for
// taking need devices.
func fitsBetter(a, b, need int) bool {
	if a >= need && b >= need {
		return a < b
	}
	return a > b
}

// cost compares plans for the same request: the first number that differs decides, and the lower
// one is better.
func (policy Policy) cost(pools []pool) []int {
	var c [3]int
	for _, p := range pools {
		switch {
		case policy == Balanced:
			// The free devices are spread most evenly when the sum of the squares of what is
			// left is lowest. This is the part of the sum that the plan changes.
			c[0] += p.left()*p.left() - len(p.free)*len(p.free)
		case p.take > 0:
			if !p.used {
				c[0]++ // unused PFs that are opened
			}
			c[1]++           // PFs that are taken from
			c[2] += p.left() // devices left in them
		}
	}
	return c[:]
}
