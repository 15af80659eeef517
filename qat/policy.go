package qat

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"qatplugin/devtree"
)

// Policy says which of the VFs that are free a container should get.
//
// Both policies first keep to as few NUMA nodes as hold what is asked for, those of the VFs that must be included among them; only then
// they look at PFs. A VF without a NUMA node counts as one of a node of its own, which is taken last. What is left to choose after that goes
// to the lowest address, so an answer depends on what is free and never on the order in which the kubelet names it.
type Policy string

const (
	// NoPolicy leaves the choice to the kubelet.
	NoPolicy Policy = ""
	// Balanced spreads over PFs: each VF comes from the PF that has the most free ones at that moment. Of two NUMA nodes that would
	// each do, the one is taken that leaves the free VFs most even over the PFs.
	Balanced Policy = "balanced"
	// Packed fills a PF before it opens the next: no VF is taken of an untouched PF while one that is in use has a free VF. Within
	// that, a container is on as few PFs as can be; a PF that just holds it goes before one that has more to spare. Of two NUMA
	// nodes that would each do, the one is taken where fewer PFs are opened.
	Packed Policy = "packed"
)

// Policies are the words for a Policy. Without one there is [NoPolicy].
func Policies() []string { return []string{string(Balanced), string(Packed)} }

// check is an error for a word that is no policy, and names those that are.
func (policy Policy) check() error {
	if policy == NoPolicy || slices.Contains(Policies(), string(policy)) {
		return nil
	}
	return fmt.Errorf("allocation policy %q: allowed are %s", string(policy), strings.Join(Policies(), ", "))
}

// homes tells which listed VFs belong together. The home of a VF is its PF. A VF without one, as in a guest, is at home on its bus, of
// which home is then the address of device 0: the bus is all that a guest shows, and on a host it is the right guess for the moment in
// which the physfn link is missing. homes never change once they were made.
type homes struct {
	of     map[Address]Address // listed VF → home
	listed map[Address]int     // home → how many of its VFs are listed, whatever their health
}

func newHomes(listed iter.Seq[Address], pfOf func(vf Address) (Address, bool)) *homes {
	h := &homes{of: map[Address]Address{}, listed: map[Address]int{}}
	for vf := range listed {
		at := home(vf, pfOf)
		h.of[vf] = at
		h.listed[at]++
	}
	return h
}

func home(vf Address, pfOf func(vf Address) (Address, bool)) Address {
	if pf, ok := pfOf(vf); ok {
		return pf
	}
	return bus(vf)
}

func bus(a Address) Address { return Address{Domain: a.Domain, Bus: a.Bus} }

// A preference answers the kubelet that asks which VFs to take. The fold sets homes; the kubelet's calls come from any goroutine.
type preference struct {
	policy Policy
	homes  atomic.Pointer[homes]
}

// PreferredAllocation chooses size of the available devices by the policy, all of mustInclude among them, ascending by address. It is an
// error when that cannot be; without a policy it has no advice.
func (p *preference) PreferredAllocation(_ context.Context, _ string, available, mustInclude []*devtree.Device, size int) ([]string, error) {
	if p.policy == NoPolicy {
		return nil, nil
	}
	h := p.homes.Load()
	if h == nil {
		h = &homes{}
	}
	return choose(p.policy, h.units(available), h.units(mustInclude), size, h.listed)
}

// A unit is a device as a policy sees it.
type unit struct {
	id      string
	address Address // the id, read; the zero Address when it is none
	home    Address
	node    int // NUMA node, -1 when the platform does not say; a PCI function has one at most (numa_node)
}

func (u unit) compare(other unit) int {
	return cmp.Or(u.address.Compare(other.address), strings.Compare(u.id, other.id))
}

func (h *homes) units(devices []*devtree.Device) []unit {
	units := make([]unit, 0, len(devices))
	for _, d := range devices {
		u := unit{id: d.ID, node: -1}
		u.address, _ = ParseAddress(d.ID)
		if at, ok := h.of[u.address]; ok {
			u.home = at
		} else {
			u.home = bus(u.address) // it left the list since the kubelet saw it
		}
		if len(d.NUMANodes) > 0 {
			u.node = d.NUMANodes[0]
		}
		units = append(units, u)
	}
	return units
}

// choose answers with the IDs of size available devices, all of must among them, ascending by address. listed tells of each home how many
// devices it has, handed out or not: one that has more than are available is in use. (An unhealthy device counts as handed out: mostly, a
// workload holds it.) What listed does not name counts as unused.
func choose(policy Policy, available, must []unit, size int, listed map[Address]int) ([]string, error) {
	included, err := checkQuestion(available, must, size)
	if err != nil {
		return nil, err
	}
	answer := slices.Clone(must)
	for _, p := range policy.plan(newPools(available, included, listed), size-len(must)) {
		answer = append(answer, p.free[:p.take]...)
	}
	slices.SortFunc(answer, unit.compare)
	ids := make([]string, len(answer))
	for i, u := range answer {
		ids[i] = u.id
	}
	return ids, nil
}

// checkQuestion says what cannot be fulfilled. included are the IDs of must.
func checkQuestion(available, must []unit, size int) (included map[string]bool, err error) {
	if size < 0 {
		return nil, fmt.Errorf("%d devices are asked for", size)
	}
	there := make(map[string]bool, len(available))
	for _, u := range available {
		if there[u.id] {
			return nil, fmt.Errorf("device %q is named twice as available", u.id)
		}
		there[u.id] = true
	}
	included = make(map[string]bool, len(must))
	for _, u := range must {
		switch {
		case included[u.id]:
			return nil, fmt.Errorf("device %q is named twice as one to include", u.id)
		case !there[u.id]:
			return nil, fmt.Errorf("device %q must be included and is not available", u.id)
		}
		included[u.id] = true
	}
	switch {
	case len(must) > size:
		return nil, fmt.Errorf("%d devices must be included where %d are asked for", len(must), size)
	case size > len(available):
		return nil, fmt.Errorf("%d devices are asked for and %d are available", size, len(available))
	}
	return included, nil
}
