// SPDX-License-Identifier: Apache-2.0

// Package policy decides which of the free VFs a container should get, and in which order
// VFs are listed when their number is limited.
//
// A decision depends only on the VFs that are free and listed, never on the order in which
// the kubelet or the host names them.
//
// Policies work on PFs. A VF whose PF is unknown, as in a guest, is grouped by its bus
// instead, with the address of device 0 in place of the PF's: the bus is all that a guest
// shows, and on a host it is the best guess while the physfn link is missing.
package policy

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"qatplugin/qat/internal/pci"
)

// Policy is a rule for choosing among the free VFs.
//
// Both policies first use as few NUMA nodes as possible. The nodes of the VFs that must be
// included are always among them, and VFs without a NUMA node count as one more node, which
// is used last. Only then do they look at PFs. Ties go to the lowest address.
type Policy string

const (
	// None leaves the choice to the kubelet.
	None Policy = ""
	// Balanced spreads VFs over PFs: each VF comes from the PF with the most free VFs at that
	// moment. Among equally good NUMA nodes it uses the one that leaves the free VFs spread
	// most evenly.
	Balanced Policy = "balanced"
	// Packed fills one PF before it uses the next: it takes no VF of an unused PF while one
	// in use has free VFs. Within that rule it takes VFs from as few PFs as possible and
	// prefers a PF with just enough free VFs. Among equally good NUMA nodes it uses the one
	// where fewer unused PFs have to be opened.
	Packed Policy = "packed"
)

// Names returns the names of the policies other than [None].
func Names() []string { return []string{string(Balanced), string(Packed)} }

// Check returns an error if there is no such policy.
func (policy Policy) Check() error {
	if policy == None || slices.Contains(Names(), string(policy)) {
		return nil
	}
	return fmt.Errorf("invalid allocation policy %q: must be %s", string(policy), strings.Join(Names(), " or "))
}

// PFOf returns the PF of a VF. ok is false if the PF is unknown.
type PFOf func(vf pci.Address) (pf pci.Address, ok bool)

// PFOrBus returns the VF's PF. If the PF is unknown, it returns the address of device 0 on the VF's
// bus in place of the PF's.
func PFOrBus(vf pci.Address, pfOf PFOf) pci.Address {
	if pf, ok := pfOf(vf); ok {
		return pf
	}
	return bus(vf)
}

func bus(a pci.Address) pci.Address { return pci.Address{Domain: a.Domain, Bus: a.Bus} }

// Order returns the waiting VFs in the order in which they are listed when only some of them
// fit under the device limit. VFs that are listed already keep their places.
//
// The order is by address, except with [Balanced], which takes one VF of each PF in turn and
// starts with the PFs that have the fewest VFs listed. Otherwise the limit could leave only
// VFs of the first PFs in the list, and nothing to balance.
//
// VFs that are being bound should count as listed. VFs become ready one at a time, and the PF that
// is bound first would otherwise fill the list before the VFs of the others are ready.
func Order(policy Policy, waiting []pci.Address, pfOf PFOf, listed iter.Seq[pci.Address]) []pci.Address {
	order := slices.SortedFunc(slices.Values(waiting), pci.Address.Compare)
	if policy != Balanced {
		return order
	}
	ahead := map[pci.Address]int{} // PF → its VFs that are listed or have been given a turn
	for vf := range listed {
		ahead[PFOrBus(vf, pfOf)]++
	}
	type turn struct {
		round  int // number of VFs of the same PF that come first
		pf, vf pci.Address
	}
	turns := make([]turn, 0, len(order))
	for _, vf := range order {
		pf := PFOrBus(vf, pfOf)
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
