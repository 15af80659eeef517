package qat

import (
	"context"
	"maps"
	"slices"
	"testing"

	"qatplugin/devtree"
)

// A bank is one PF, 0000:<bus>:00.0, and its VFs.
type bank struct {
	bus    uint8
	node   int
	listed int
	used   int // the first ones are handed out
}

func (b bank) pf() Address { return Address{Bus: b.bus} }

// vf is the i-th VF, from 1: 0000:<bus>:00.1 and on, as the QAT families place them.
func (b bank) vf(i int) Address {
	return Address{Bus: b.bus, Device: uint8(i / 8), Function: uint8(i % 8)}
}

// names are the IDs of VFs first to last of the PF on that bus.
func names(bus uint8, first, last int) (ids []string) {
	for i := first; i <= last; i++ {
		ids = append(ids, bank{bus: bus}.vf(i).String())
	}
	return ids
}

// prefer asks a preference of these PFs, as the kubelet does.
func prefer(policy Policy, banks []bank, must []string, size int) ([]string, error) {
	var available, included []*devtree.Device
	pfOf := map[Address]Address{}
	for _, b := range banks {
		for i := 1; i <= b.listed; i++ {
			vf := b.vf(i)
			pfOf[vf] = b.pf()
			d := &devtree.Device{ID: vf.String(), Health: devtree.Healthy}
			if b.node >= 0 {
				d.NUMANodes = []int{b.node}
			}
			wanted := slices.Contains(must, d.ID)
			if wanted {
				included = append(included, d)
			}
			if i > b.used || wanted { // what must be included is handed out already, and named as available
				available = append(available, d)
			}
		}
	}
	slices.Reverse(available)
	p := &preference{policy: policy}
	p.homes.Store(newHomes(maps.Keys(pfOf), func(vf Address) (Address, bool) { pf, ok := pfOf[vf]; return pf, ok }))
	return p.PreferredAllocation(context.Background(), "cy", available, included, size)
}

// A rack is PFs whose VFs are handed out and come back.
type rack struct {
	available []unit
	listed    map[Address]int
}

func newRack(banks []bank) *rack {
	h := &rack{listed: map[Address]int{}}
	for _, b := range banks {
		h.listed[b.pf()] = b.listed
		for i := b.used + 1; i <= b.listed; i++ {
			h.available = append(h.available, unit{id: b.vf(i).String(), address: b.vf(i), home: b.pf(), node: b.node})
		}
	}
	return h
}

// free counts what is available of each home; one that has nothing is there too.
func (h *rack) free() map[Address]int {
	n := map[Address]int{}
	for pf := range h.listed {
		n[pf] = 0
	}
	for _, u := range h.available {
		n[u.home]++
	}
	return n
}

func (h *rack) find(id string) unit {
	return h.available[slices.IndexFunc(h.available, func(u unit) bool { return u.id == id })]
}

func (h *rack) allocate(t testing.TB, policy Policy, size int) {
	t.Helper()
	ids, err := choose(policy, h.available, nil, size, h.listed)
	if err != nil {
		t.Fatal(err)
	}
	h.available = slices.DeleteFunc(slices.Clone(h.available), func(u unit) bool { return slices.Contains(ids, u.id) })
}
