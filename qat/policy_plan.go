package qat

import (
	"cmp"
	"maps"
	"slices"
)

// A pool is what one home has to give on one NUMA node. All VFs of a PF are on its node, so that is one pool for each PF.
type pool struct {
	home Address
	node int
	free []unit // what may be chosen, ascending; those that must be included are not among them
	must int    // how many of its devices must be included
	used bool   // some of its home's devices are handed out, or must be included: it is open, whatever is chosen
	take int    // how many of free are chosen, the first ones
}

func (p *pool) left() int { return len(p.free) - p.take }

// newPools sorts what is available into pools, ascending by home and node, so that the first of equals is the one with the lowest address.
func newPools(available []unit, included map[string]bool, listed map[Address]int) []pool {
	var pools []pool
	sorted := slices.SortedFunc(slices.Values(available), func(a, b unit) int {
		return cmp.Or(a.home.Compare(b.home), compareNodes(a.node, b.node), a.compare(b))
	})
	idle := map[Address]int{} // home → what of it is available and need not be included
	for _, u := range sorted {
		last := len(pools) - 1
		if last < 0 || pools[last].home != u.home || pools[last].node != u.node {
			pools = append(pools, pool{home: u.home, node: u.node})
			last++
		}
		if included[u.id] {
			pools[last].must++
			continue
		}
		pools[last].free = append(pools[last].free, u)
		idle[u.home]++
	}
	for i := range pools {
		pools[i].used = listed[pools[i].home] > idle[pools[i].home]
	}
	return pools
}

// compareNodes orders NUMA nodes, with the unknown one, -1, last.
func compareNodes(a, b int) int { return cmp.Compare(uint(a), uint(b)) }

// plan returns the pools of as few NUMA nodes as hold need devices, with what to take of each. The nodes of devices that must be
// included are among them. The pools together must have that many.
func (policy Policy) plan(pools []pool, need int) []pool {
	free := map[int]int{} // NUMA node → devices to choose from
	near := map[int]bool{}
	for _, p := range pools {
		free[p.node] += len(p.free)
		if p.must > 0 {
			near[p.node] = true
		}
	}
	rest := need
	for n := range near {
		rest -= free[n]
	}
	nodes := slices.SortedFunc(maps.Keys(free), compareNodes)
	for rest > 0 {
		nodes = slices.DeleteFunc(nodes, func(n int) bool { return near[n] })
		if best := policy.best(pools, near, nodes, free, rest, need); best != nil {
			return best
		}
		if len(nodes) == 0 {
			break
		}
		// No node has all of the rest. With the one that has most of it, the fewest more are needed.
		widest := slices.MaxFunc(nodes, func(a, b int) int { return cmp.Compare(free[a], free[b]) })
		near[widest] = true
		rest -= free[widest]
	}
	chosen := poolsOf(pools, near)
	policy.take(chosen, need)
	return chosen
}

// best tries each node that has all of the rest, together with the nodes that are near already; nil when none has. The first of equals wins.
func (policy Policy) best(pools []pool, near map[int]bool, nodes []int, free map[int]int, rest, need int) (best []pool) {
	var least cost
	for _, n := range nodes {
		if free[n] < rest {
			continue
		}
		with := maps.Clone(near)
		with[n] = true
		trial := poolsOf(pools, with)
		policy.take(trial, need)
		if c := policy.cost(trial); best == nil || slices.Compare(c[:], least[:]) < 0 {
			best, least = trial, c
		}
	}
	return best
}

func poolsOf(pools []pool, nodes map[int]bool) (chosen []pool) {
	for _, p := range pools {
		if nodes[p.node] {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

func (policy Policy) take(pools []pool, need int) {
	if policy == Balanced {
		takeBalanced(pools, need)
	} else {
		takePacked(pools, need)
	}
}

func takeBalanced(pools []pool, need int) {
	for ; need > 0; need-- {
		var most *pool
		for i := range pools {
			if p := &pools[i]; most == nil || p.left() > most.left() {
				most = p
			}
		}
		if most == nil || most.left() == 0 {
			return
		}
		most.take++
	}
}

// takePacked takes what it can where the container is anyway, then of PFs that are in use, and opens others for the rest only.
func takePacked(pools []pool, need int) {
	need = takeFewest(pools, need, func(p *pool) bool { return p.must > 0 })
	need = takeFewest(pools, need, func(p *pool) bool { return p.used })
	takeFewest(pools, need, func(*pool) bool { return true })
}

// takeFewest takes of as few of these pools as can be, and returns what they do not have. All but the last are emptied. While none has
// all that is needed, the largest is taken, which leaves the fewest to come; then the smallest that has it, so that little stays behind.
func takeFewest(pools []pool, need int, of func(*pool) bool) (rest int) {
	for need > 0 {
		var best *pool
		for i := range pools {
			if p := &pools[i]; p.left() > 0 && of(p) && (best == nil || fits(p.left(), best.left(), need)) {
				best = p
			}
		}
		if best == nil {
			return need
		}
		n := min(need, best.left())
		best.take += n
		need -= n
	}
	return 0
}

// fits tells whether a is better than b to take need devices of.
func fits(a, b, need int) bool {
	if a >= need && b >= need {
		return a < b
	}
	return a > b
}

// A cost compares two plans for the same question; the first number that differs decides, and less is better.
type cost [3]int

func (policy Policy) cost(pools []pool) (c cost) {
	for _, p := range pools {
		if policy == Balanced {
			// The sum of squares of what stays free is least when that is most even; here, by how much this plan changes it.
			c[0] += p.left()*p.left() - len(p.free)*len(p.free)
			continue
		}
		if p.take == 0 {
			continue
		}
		if !p.used {
			c[0]++ // opened
		}
		if p.must == 0 {
			c[1]++ // touched
		}
		c[2] += p.left() // left behind
	}
	return c
}
