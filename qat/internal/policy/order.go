// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"iter"
	"slices"

	"qatplugin/qat/internal/pci"
)

// Order returns the waiting VFs in the order in which they are listed when only some of them
// fit under the device limit. VFs that are listed already keep their slots.
//
// The order is by address, except with [Balanced], which takes one VF of each PF in turn and
// starts with the PFs that have the fewest VFs listed. Otherwise the limit could leave only
// VFs of the first PFs in the list, and nothing to balance.
//
// The waiting VFs should include those that are still being bound, so that they keep a slot.
// VFs become ready one at a time, and the PF that is bound first would otherwise fill the
// list before the VFs of the others are ready.
func Order(policy Policy, waiting []pci.Address, pfOf PFOf,
	listed iter.Seq[pci.Address]) []pci.Address {
	order := slices.SortedFunc(slices.Values(waiting), pci.Address.Compare)
	if policy != Balanced {
		return order
	}
	ahead := map[pci.Address]int{} // PF → its VFs that are listed or have been given a turn
	for vf := range listed {
		ahead[pfOrBus(vf, pfOf)]++
	}
	type turn struct {
		round  int // number of VFs of the same PF that come first
		pf, vf pci.Address
	}
	turns := make([]turn, 0, len(order))
	for _, vf := range order {
		pf := pfOrBus(vf, pfOf)
		turns = append(turns, turn{round: ahead[pf], pf: pf, vf: vf})
		ahead[pf]++
	}
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.round, b.round), a.pf.Compare(b.pf), a.vf.Compare(b.vf))
	})
	for i, t := range turns {
		order[i] = t.vf
	}
	return order
}
