package qat

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// onBus finds the PF of a bank's VF.
func onBus(vf Address) (Address, bool) { return bus(vf), true }

func TestAdmissionOrder(t *testing.T) {
	a, b, c := bank{bus: 0x6b}, bank{bus: 0x70}, bank{bus: 0x75}
	tests := []struct {
		name    string
		policy  Policy
		waiting []Address
		listed  map[Address]int
		want    []Address
	}{
		{
			name:    "without a policy the lowest address is first",
			waiting: []Address{b.vf(1), a.vf(2), a.vf(1)}, want: []Address{a.vf(1), a.vf(2), b.vf(1)},
		},
		{
			name: "packed fills one PF after the other", policy: Packed,
			waiting: []Address{b.vf(1), a.vf(2), a.vf(1)}, want: []Address{a.vf(1), a.vf(2), b.vf(1)},
		},
		{
			name: "balanced goes round the PFs", policy: Balanced,
			waiting: []Address{c.vf(1), b.vf(2), b.vf(1), a.vf(3), a.vf(2), a.vf(1)},
			want:    []Address{a.vf(1), b.vf(1), c.vf(1), a.vf(2), b.vf(2), a.vf(3)},
		},
		{
			name: "balanced begins with the PF of which the fewest are listed", policy: Balanced,
			waiting: []Address{a.vf(3), a.vf(4), b.vf(2), b.vf(3), c.vf(1), c.vf(2), c.vf(3)},
			listed:  map[Address]int{a.pf(): 2, b.pf(): 1},
			want:    []Address{c.vf(1), b.vf(2), c.vf(2), a.vf(3), b.vf(3), c.vf(3), a.vf(4)},
		},
		{name: "nobody waits", policy: Balanced, listed: map[Address]int{a.pf(): 2}, want: nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			waiting := slices.Clone(test.waiting)
			got := admissionOrder(test.policy, waiting, onBus, test.listed)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			if !slices.Equal(waiting, test.waiting) {
				t.Errorf("the argument was changed")
			}
		})
	}
}

func TestAdmissionOrderInAGuestGoesRoundTheBuses(t *testing.T) {
	vf := func(bus, device uint8) Address { return Address{Bus: bus, Device: device} }
	noPF := func(Address) (Address, bool) { return Address{}, false }
	got := admissionOrder(Balanced, []Address{vf(0, 5), vf(0, 6), vf(1, 0), vf(1, 1)}, noPF, map[Address]int{vf(0, 0): 1})
	if want := []Address{vf(1, 0), vf(0, 5), vf(1, 1), vf(0, 6)}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// A user's report: with -max-num-devices below the number of VFs, all that was listed was of the first PF, and `balanced` gave each
// container VFs of that one.
func TestAdmissionUnderALimitLeavesThePolicySomethingToBalance(t *testing.T) {
	const limit, size = 8, 4
	pfs := []bank{{bus: 0x6b}, {bus: 0x70}}
	var waiting []Address
	for _, pf := range pfs {
		for i := 1; i <= 16; i++ {
			waiting = append(waiting, pf.vf(i))
		}
	}
	h := newHomes(slices.Values(admissionOrder(Balanced, waiting, onBus, nil)[:limit]), onBus)
	if diff := cmp.Diff(map[Address]int{pfs[0].pf(): limit / 2, pfs[1].pf(): limit / 2}, h.listed); diff != "" {
		t.Errorf("listed of each PF (-want +got):\n%s", diff)
	}
	var available []unit
	for vf, pf := range h.of {
		available = append(available, unit{id: vf.String(), address: vf, home: pf})
	}
	got, err := choose(Balanced, available, nil, size, h.listed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Concat(names(0x6b, 1, size/2), names(0x70, 1, size/2)), got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

// Whatever is listed and waits: the order has each VF once, and at every step the next is of a PF that has the fewest listed of those
// that have one waiting.
func TestAdmissionOrderIsFairAtEveryStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		listed, waits := map[Address]int{}, map[Address]int{}
		var waiting []Address
		for i := range rapid.IntRange(1, 5).Draw(t, "PFs") {
			b := bank{bus: uint8(i)}
			listed[b.pf()] = rapid.IntRange(0, 6).Draw(t, "listed")
			waits[b.pf()] = rapid.IntRange(0, 6).Draw(t, "waiting")
			for k := range waits[b.pf()] {
				waiting = append(waiting, b.vf(listed[b.pf()]+k+1))
			}
		}
		waiting = rapid.Permutation(waiting).Draw(t, "order")
		before := maps.Clone(listed)
		order := admissionOrder(Balanced, waiting, onBus, listed)
		if !maps.Equal(before, listed) {
			t.Fatal("the counts were changed")
		}
		if !slices.Equal(slices.SortedFunc(slices.Values(order), Address.Compare), slices.SortedFunc(slices.Values(waiting), Address.Compare)) {
			t.Fatalf("order %v of %v", order, waiting)
		}
		for _, vf := range order {
			pf := bus(vf)
			for other, n := range waits {
				if n > 0 && listed[other] < listed[pf] {
					t.Fatalf("PF %s gets its place number %d while PF %s, with one waiting, has %d: %v", pf, listed[pf]+1, other, listed[other], order)
				}
			}
			listed[pf]++
			waits[pf]--
		}
	})
}
