// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/qat/internal/pci"
)

func TestOrder(t *testing.T) {
	a, b, c := testPF{bus: 0x6b}, testPF{bus: 0x70}, testPF{bus: 0x75}
	tests := []struct {
		name    string
		policy  Policy
		waiting []pci.Address
		listed  []pci.Address
		want    []pci.Address
	}{
		{
			name:    "no policy goes by address",
			waiting: []pci.Address{b.vf(1), a.vf(2), a.vf(1)},
			want:    []pci.Address{a.vf(1), a.vf(2), b.vf(1)},
		},
		{
			name:    "packed goes by address",
			policy:  Packed,
			waiting: []pci.Address{b.vf(1), a.vf(2), a.vf(1)},
			want:    []pci.Address{a.vf(1), a.vf(2), b.vf(1)},
		},
		{
			name:    "balanced takes one VF of each PF in turn",
			policy:  Balanced,
			waiting: []pci.Address{c.vf(1), b.vf(2), b.vf(1), a.vf(3), a.vf(2), a.vf(1)},
			want:    []pci.Address{a.vf(1), b.vf(1), c.vf(1), a.vf(2), b.vf(2), a.vf(3)},
		},
		{
			name:    "balanced starts with the PF with the fewest listed VFs",
			policy:  Balanced,
			waiting: []pci.Address{a.vf(3), a.vf(4), b.vf(2), b.vf(3), c.vf(1), c.vf(2), c.vf(3)},
			listed:  []pci.Address{a.vf(1), b.vf(1), a.vf(2)},
			want:    []pci.Address{c.vf(1), b.vf(2), c.vf(2), a.vf(3), b.vf(3), c.vf(3), a.vf(4)},
		},
		{
			name:   "no VF waits",
			policy: Balanced,
			listed: []pci.Address{a.vf(1), a.vf(2)},
			want:   nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			waiting := slices.Clone(test.waiting)
			got := Order(test.policy, waiting, onBus, slices.Values(test.listed))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			if !slices.Equal(waiting, test.waiting) {
				t.Errorf("the argument was modified")
			}
		})
	}
}

func TestOrderGroupsVFsOfUnknownPFsByBus(t *testing.T) {
	vf := func(bus, device uint8) pci.Address { return pci.Address{Bus: bus, Device: device} }
	waiting := []pci.Address{vf(0, 5), vf(0, 6), vf(1, 0), vf(1, 1)}
	got := Order(Balanced, waiting, unknownPF, slices.Values([]pci.Address{vf(0, 4)}))
	if want := []pci.Address{vf(1, 0), vf(0, 5), vf(1, 1), vf(0, 6)}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// With a device limit below the number of VFs, only VFs of the first PF used to be listed, so
// that balanced gave each container VFs of that PF only.
func TestOrderLeavesBalancedVFsOfAllPFsUnderALimit(t *testing.T) {
	const limit, size = 8, 4
	a, b := testPF{bus: 0x6b}, testPF{bus: 0x70}
	var waiting []pci.Address
	for _, pf := range []testPF{a, b} {
		for n := 1; n <= 16; n++ {
			waiting = append(waiting, pf.vf(n))
		}
	}
	listed := Order(Balanced, waiting, onBus, slices.Values[[]pci.Address](nil))[:limit]
	var available []string
	for _, vf := range listed {
		available = append(available, vf.String())
	}
	p := NewPreference(Balanced)
	p.Update(slices.Values(listed), onBus)
	got, err := p.Choose(devices(available...), nil, size)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Concat(ids(0x6b, 1, size/2), ids(0x70, 1, size/2)), got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

// The order contains each waiting VF once, and each VF in it belongs to a PF with the fewest
// VFs listed by then, among the PFs that still have VFs waiting.
func TestBalancedOrderIsFairAtEveryStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts, waits := map[pci.Address]int{}, map[pci.Address]int{}
		var listed, waiting []pci.Address
		for i := range rapid.IntRange(1, 5).Draw(t, "PFs") {
			pf := testPF{bus: uint8(i)}
			counts[pf.address()] = rapid.IntRange(0, 6).Draw(t, "listed")
			waits[pf.address()] = rapid.IntRange(0, 6).Draw(t, "waiting")
			for n := range counts[pf.address()] {
				listed = append(listed, pf.vf(n+1))
			}
			for n := range waits[pf.address()] {
				waiting = append(waiting, pf.vf(counts[pf.address()]+n+1))
			}
		}
		waiting = rapid.Permutation(waiting).Draw(t, "order")
		order := Order(Balanced, waiting, onBus, slices.Values(listed))
		sorted := func(list []pci.Address) []pci.Address {
			return slices.SortedFunc(slices.Values(list), pci.Address.Compare)
		}
		if !slices.Equal(sorted(order), sorted(waiting)) {
			t.Fatalf("order %v of %v", order, waiting)
		}
		for _, vf := range order {
			pf := bus(vf)
			for other := range maps.Keys(waits) {
				if waits[other] > 0 && counts[other] < counts[pf] {
					t.Fatalf("PF %s with %d VFs listed comes before PF %s with %d: %v",
						pf, counts[pf], other, counts[other], order)
				}
			}
			counts[pf]++
			waits[pf]--
		}
	})
}
