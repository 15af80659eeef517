package qat

import (
	"cmp"
	"slices"
)

// admissionOrder is the order in which VFs that wait for one get the places that a limit leaves. It is that of their addresses; with the
// policy Balanced it goes round the PFs, and begins with those of which the fewest are listed. Else a limit would list the VFs of the
// first PFs alone, and leave the policy nothing to balance. What is listed keeps its place in either case. listed tells how many VFs of
// each home are (see homes).
//
// A VF that is about to be usable should wait here too, and hold its place: VFs that the plugin binds come one by one, and the PF
// that is bound first would otherwise have filled the limit before the others come.
func admissionOrder(policy Policy, waiting []Address, pfOf func(vf Address) (Address, bool), listed map[Address]int) []Address {
	order := slices.SortedFunc(slices.Values(waiting), Address.Compare)
	if policy != Balanced {
		return order
	}
	// The turn of a VF is how many of its home are listed before it.
	type ticket struct {
		turn     int
		home, vf Address
	}
	tickets := make([]ticket, 0, len(order))
	before := make(map[Address]int, len(listed))
	for _, vf := range order {
		at := home(vf, pfOf)
		tickets = append(tickets, ticket{turn: listed[at] + before[at], home: at, vf: vf})
		before[at]++
	}
	slices.SortFunc(tickets, func(a, b ticket) int {
		return cmp.Or(cmp.Compare(a.turn, b.turn), a.home.Compare(b.home), a.vf.Compare(b.vf))
	})
	for i, t := range tickets {
		order[i] = t.vf
	}
	return order
}
