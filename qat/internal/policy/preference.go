// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"qatplugin/devtree"
	"qatplugin/qat/internal/pci"
)

// Preference answers the kubelet's preferred allocation calls by a [Policy]. All methods may
// be called from any goroutine.
type Preference struct {
	policy Policy
	vfs    atomic.Pointer[listedVFs]
}

// listedVFs is an immutable index of the VFs in the lists that the kubelet has.
type listedVFs struct {
	pf    map[pci.Address]pci.Address // VF → PF
	perPF map[pci.Address]int         // PF → number of its VFs, whatever their health
}

// NewPreference returns a Preference that knows no VFs yet.
func NewPreference(policy Policy) *Preference {
	p := &Preference{policy: policy}
	p.vfs.Store(&listedVFs{})
	return p
}

// Update replaces what is known of the listed VFs and their PFs.
func (p *Preference) Update(listed iter.Seq[pci.Address], pfOf PFOf) {
	if p.policy == None {
		return
	}
	vfs := &listedVFs{pf: map[pci.Address]pci.Address{}, perPF: map[pci.Address]int{}}
	for vf := range listed {
		pf := PFOrBus(vf, pfOf)
		vfs.pf[vf] = pf
		vfs.perPF[pf]++
	}
	p.vfs.Store(vfs)
}

// Choose returns the IDs of size available devices, including all of mustInclude, in
// ascending order of their addresses. It returns an error if there is no such choice. A nil
// slice without an error means no preference, which is the answer of [None].
func (p *Preference) Choose(available, mustInclude []*devtree.Device, size int) ([]string, error) {
	if p.policy == None {
		return nil, nil
	}
	vfs := p.vfs.Load()
	return p.policy.choose(vfs.candidates(available), vfs.candidates(mustInclude), size, vfs.perPF)
}

// candidate is a device as a policy sees it.
type candidate struct {
	id      string
	address pci.Address // parsed from id; the zero Address if id is not an address
	pf      pci.Address // or the address that stands for its bus
	node    int         // NUMA node (a PCI function has at most one), -1 if unknown
}

func (c candidate) compare(other candidate) int {
	return cmp.Or(c.address.Compare(other.address), strings.Compare(c.id, other.id))
}

func (vfs *listedVFs) candidates(devices []*devtree.Device) []candidate {
	candidates := make([]candidate, 0, len(devices))
	for _, d := range devices {
		c := candidate{id: d.ID, node: -1}
		c.address, _ = pci.Parse(d.ID)
		var listed bool
		if c.pf, listed = vfs.pf[c.address]; !listed {
			c.pf = bus(c.address) // the kubelet has not been told yet
		}
		if len(d.NUMANodes) > 0 {
			c.node = d.NUMANodes[0]
		}
		candidates = append(candidates, c)
	}
	return candidates
}

// choose implements [Preference.Choose]. listed holds the number of VFs of each PF, allocated or
// not: a PF with more listed than available VFs is in use. Unhealthy VFs count as allocated,
// because mostly a workload still holds them. A PF that listed does not name counts as unused.
func (policy Policy) choose(available, mustInclude []candidate, size int,
	listed map[pci.Address]int) ([]string, error) {
	included, err := checkRequest(available, mustInclude, size)
	if err != nil {
		return nil, err
	}
	chosen := slices.Clone(mustInclude)
	for _, p := range policy.plan(newPools(available, included, listed), size-len(mustInclude)) {
		chosen = append(chosen, p.free[:p.take]...)
	}
	slices.SortFunc(chosen, candidate.compare)
	ids := make([]string, len(chosen))
	for i, c := range chosen {
		ids[i] = c.id
	}
	return ids, nil
}

// checkRequest returns the set of IDs that must be included, or an error if the request
// cannot be fulfilled.
func checkRequest(available, mustInclude []candidate, size int) (included map[string]bool, err error) {
	if size < 0 {
		return nil, fmt.Errorf("invalid number of requested devices: %d", size)
	}
	isAvailable := make(map[string]bool, len(available))
	for _, c := range available {
		if isAvailable[c.id] {
			return nil, fmt.Errorf("device %q appears twice among the available devices", c.id)
		}
		isAvailable[c.id] = true
	}
	included = make(map[string]bool, len(mustInclude))
	for _, c := range mustInclude {
		switch {
		case included[c.id]:
			return nil, fmt.Errorf("device %q appears twice among the devices that must be included", c.id)
		case !isAvailable[c.id]:
			return nil, fmt.Errorf("device %q must be included but is not available", c.id)
		}
		included[c.id] = true
	}
	switch {
	case len(mustInclude) > size:
		return nil, fmt.Errorf("%d devices must be included but only %d are requested", len(mustInclude), size)
	case size > len(available):
		return nil, fmt.Errorf("%d devices are requested but only %d are available", size, len(available))
	}
	return included, nil
}
