// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/devtree"
	"qatplugin/qat/internal/pci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPF is the PF 0000:<bus>:00.0 and its VFs.
type testPF struct {
	bus    uint8
	node   int
	listed int // number of VFs
	used   int // the first of them are allocated
}

func (p testPF) address() pci.Address { return pci.Address{Bus: p.bus} }

// vf returns the n-th VF. The first is 0000:<bus>:00.1, as on QAT devices.
func (p testPF) vf(n int) pci.Address {
	return pci.Address{Bus: p.bus, Device: uint8(n / 8), Function: uint8(n % 8)}
}

// ids returns the IDs of the first to the last VF of the PF on a bus.
func ids(bus uint8, first, last int) (ids []string) {
	for n := first; n <= last; n++ {
		ids = append(ids, testPF{bus: bus}.vf(n).String())
	}
	return ids
}

// onBus is the PFOf of the VFs of testPFs.
func onBus(vf pci.Address) (pci.Address, bool) { return bus(vf), true }

// unknownPF is the PFOf of a guest.
func unknownPF(pci.Address) (pci.Address, bool) { return pci.Address{}, false }

// testHost is a host whose VFs are allocated one container after the other.
type testHost struct {
	available []candidate
	listed    map[pci.Address]int
}

func newTestHost(pfs []testPF) *testHost {
	h := &testHost{listed: map[pci.Address]int{}}
	for _, pf := range pfs {
		h.listed[pf.address()] = pf.listed
		for n := pf.used + 1; n <= pf.listed; n++ {
			vf := pf.vf(n)
			h.available = append(h.available, candidate{id: vf.String(), address: vf, pf: pf.address(), node: pf.node})
		}
	}
	return h
}

// free returns the number of available VFs of every PF, including those that have none.
func (h *testHost) free() map[pci.Address]int {
	free := map[pci.Address]int{}
	for pf := range h.listed {
		free[pf] = 0
	}
	for _, c := range h.available {
		free[c.pf]++
	}
	return free
}

func (h *testHost) find(id string) candidate {
	return h.available[slices.IndexFunc(h.available, func(c candidate) bool { return c.id == id })]
}

func (h *testHost) allocate(t testing.TB, policy Policy, size int) {
	t.Helper()
	chosen, err := policy.choose(h.available, nil, size, h.listed)
	if err != nil {
		t.Fatal(err)
	}
	h.available = slices.DeleteFunc(slices.Clone(h.available), func(c candidate) bool {
		return slices.Contains(chosen, c.id)
	})
}

// choose calls Preference.Choose for the VFs of these PFs as the kubelet does: VFs that must be
// included are allocated already, and are also named as available.
func choose(policy Policy, pfs []testPF, mustInclude []string, size int) ([]string, error) {
	var available, included []*devtree.Device
	pfOf := map[pci.Address]pci.Address{}
	for _, pf := range pfs {
		for n := 1; n <= pf.listed; n++ {
			vf := pf.vf(n)
			pfOf[vf] = pf.address()
			d := device(vf.String())
			if pf.node >= 0 {
				d.NUMANodes = []int{pf.node}
			}
			must := slices.Contains(mustInclude, d.ID)
			if must {
				included = append(included, d)
			}
			if n > pf.used || must {
				available = append(available, d)
			}
		}
	}
	slices.Reverse(available)
	p := NewPreference(policy)
	p.Update(maps.Keys(pfOf), lookup(pfOf))
	return p.Choose(available, included, size)
}

func lookup(pfOf map[pci.Address]pci.Address) PFOf {
	return func(vf pci.Address) (pci.Address, bool) {
		pf, ok := pfOf[vf]
		return pf, ok
	}
}

func device(id string) *devtree.Device { return &devtree.Device{ID: id, Health: devtree.Healthy} }

func devices(ids ...string) (list []*devtree.Device) {
	for _, id := range ids {
		list = append(list, device(id))
	}
	return list
}
