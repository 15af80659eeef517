package qat

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

func TestPolicyChoices(t *testing.T) {
	list := slices.Concat[[]string]
	tests := []struct {
		name   string
		policy Policy
		banks  []bank
		must   []string
		size   int
		want   []string
	}{
		{
			name: "balanced takes of equal PFs in turn, of the lowest address first", policy: Balanced, size: 3,
			banks: []bank{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}},
			want:  list(names(0x6b, 1, 2), names(0x70, 1, 1)),
		},
		{
			name: "balanced takes of the PF with the most free VFs until it has no more than others", policy: Balanced, size: 4,
			banks: []bank{{bus: 0x6b, listed: 16, used: 14}, {bus: 0x70, listed: 16, used: 12}, {bus: 0x75, listed: 16, used: 11}},
			want:  list(names(0x70, 13, 14), names(0x75, 12, 13)),
		},
		{
			name: "balanced counts what must be included as taken, and does not stop at its PF", policy: Balanced, size: 4,
			banks: []bank{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}}, must: names(0x6b, 2, 3),
			want: list(names(0x6b, 2, 3), names(0x70, 1, 2)),
		},
		{
			name: "what must be included is, though neither policy would take it", policy: Balanced, size: 1,
			banks: []bank{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4, used: 3}}, must: names(0x70, 4, 4), want: names(0x70, 4, 4),
		},
		{
			name: "balanced stays on one NUMA node though there is a PF to spread to on the other", policy: Balanced, size: 4,
			banks: []bank{{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 3}}, want: names(0x6b, 1, 4),
		},
		{
			name: "balanced takes the NUMA node with more PFs to spread over", policy: Balanced, size: 4,
			banks: []bank{{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 4}, {bus: 0x75, node: 1, listed: 4}},
			want:  list(names(0x70, 1, 2), names(0x75, 1, 2)),
		},
		{
			name: "balanced takes the NUMA node that leaves the PFs most even", policy: Balanced, size: 4,
			banks: []bank{{bus: 0x6b, node: 0, listed: 8}, {bus: 0x70, node: 0, listed: 8}, {bus: 0x75, node: 1, listed: 16}},
			want:  names(0x75, 1, 4),
		},
		{
			name: "packed takes all of one PF", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}}, want: names(0x6b, 1, 3),
		},
		{
			name: "packed fills the PF that is open before it opens the next", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4, used: 3}},
			want:  list(names(0x6b, 1, 2), names(0x70, 4, 4)),
		},
		{
			name: "packed takes an open PF that has all before two open ones that have all together", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, listed: 8, used: 6}, {bus: 0x70, listed: 8, used: 6}, {bus: 0x75, listed: 8, used: 3}},
			want:  names(0x75, 4, 6),
		},
		{
			name: "packed takes the open PF that just has all", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, listed: 8, used: 2}, {bus: 0x70, listed: 8, used: 5}, {bus: 0x75, listed: 8, used: 3}},
			want:  names(0x70, 6, 8),
		},
		{
			name: "packed goes on at the PF of what must be included", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}}, must: names(0x70, 2, 2),
			want: list(names(0x70, 1, 3)),
		},
		{
			name: "packed goes on where the container is before it touches another PF that is open", policy: Packed, size: 5,
			banks: []bank{{bus: 0x6b, listed: 8, used: 6}, {bus: 0x70, listed: 8, used: 6}, {bus: 0x75, listed: 8, used: 6}},
			must:  names(0x75, 1, 1),
			want:  list(names(0x6b, 7, 8), []string{"0000:75:00.1"}, names(0x75, 7, 8)),
		},
		{
			name: "packed stays on one NUMA node though a PF of the other is open", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, node: 0, listed: 4, used: 2}, {bus: 0x70, node: 1, listed: 4}}, want: names(0x70, 1, 3),
		},
		{
			name: "packed takes the NUMA node where no PF has to be opened", policy: Packed, size: 2,
			banks: []bank{{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 4, used: 2}}, want: names(0x70, 3, 4),
		},
		{
			name: "packed takes the NUMA node where no PF has to be opened though more are touched there", policy: Packed, size: 2,
			banks: []bank{
				{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 4, used: 3}, {bus: 0x75, node: 1, listed: 4, used: 3},
			},
			want: list(names(0x70, 4, 4), names(0x75, 4, 4)),
		},
		{
			name: "packed takes the NUMA node whose PF has less to spare", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, node: 0, listed: 8}, {bus: 0x70, node: 1, listed: 4}}, want: names(0x70, 1, 3),
		},
		{
			name: "packed takes the NUMA node where fewer PFs are touched", policy: Packed, size: 2,
			banks: []bank{
				{bus: 0x6b, node: 0, listed: 4, used: 3}, {bus: 0x70, node: 0, listed: 4, used: 3}, {bus: 0x75, node: 1, listed: 4, used: 1},
			},
			want: names(0x75, 2, 3),
		},
		{
			name: "a NUMA node is pinned by what must be included", policy: Packed, size: 3,
			banks: []bank{{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 4}, {bus: 0x75, node: 1, listed: 4}},
			must:  names(0x75, 4, 4), want: list(names(0x75, 1, 2), names(0x75, 4, 4)),
		},
		{
			name: "what one NUMA node cannot give, as few as can give", policy: Balanced, size: 7,
			banks: []bank{{bus: 0x6b, node: 0, listed: 2}, {bus: 0x70, node: 1, listed: 4}, {bus: 0x75, node: 2, listed: 3}},
			want:  list(names(0x70, 1, 4), names(0x75, 1, 3)),
		},
		{
			name: "VFs of an unknown NUMA node come last", policy: Balanced, size: 2,
			banks: []bank{{bus: 0x6b, node: -1, listed: 2}, {bus: 0x70, node: 1, listed: 2}}, want: names(0x70, 1, 2),
		},
		{
			name: "the platform says nothing of NUMA", policy: Balanced, size: 2,
			banks: []bank{{bus: 0x6b, node: -1, listed: 2}, {bus: 0x70, node: -1, listed: 2}},
			want:  list(names(0x6b, 1, 1), names(0x70, 1, 1)),
		},
		{
			name: "all that there is", policy: Packed, size: 4,
			banks: []bank{{bus: 0x6b, listed: 2}, {bus: 0x70, listed: 2}}, want: list(names(0x6b, 1, 2), names(0x70, 1, 2)),
		},
		{name: "nothing is asked for", policy: Balanced, banks: []bank{{bus: 0x6b, listed: 2}}, want: []string{}},
		{name: "without a policy there is no advice", banks: []bank{{bus: 0x6b, listed: 2}}, size: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := prefer(test.policy, test.banks, test.must, test.size)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChooseSaysWhatCannotBe(t *testing.T) {
	units := func(ids ...string) []unit {
		var devices []*devtree.Device
		for _, id := range ids {
			devices = append(devices, &devtree.Device{ID: id})
		}
		return (&homes{}).units(devices)
	}
	const a, b, c = "0000:6b:00.1", "0000:6b:00.2", "0000:6b:00.3"
	tests := []struct {
		name            string
		available, must []unit
		size            int
		want            string
	}{
		{name: "more than there is", available: units(a, b), size: 3, want: "3 devices are asked for and 2 are available"},
		{name: "of nothing", size: 1, want: "1 devices are asked for and 0 are available"},
		{name: "fewer than none", available: units(a), size: -1, want: "-1 devices are asked for"},
		{name: "one to include that is not available", available: units(a), must: units(c), size: 1, want: `device "0000:6b:00.3" must be included and is not available`},
		{name: "more to include than asked for", available: units(a, b), must: units(a, b), size: 1, want: "2 devices must be included where 1 are asked for"},
		{name: "one to include twice", available: units(a, b), must: units(a, a), size: 2, want: `device "0000:6b:00.1" is named twice as one to include`},
		{name: "one available twice", available: units(a, b, a), size: 3, want: `device "0000:6b:00.1" is named twice as available`},
	}
	for _, test := range tests {
		for _, policy := range Policies() {
			t.Run(test.name+", "+policy, func(t *testing.T) {
				got, err := choose(Policy(policy), test.available, test.must, test.size, nil)
				if err == nil || err.Error() != test.want {
					t.Errorf("error %v, want %s", err, test.want)
				}
				if got != nil {
					t.Errorf("chosen with an error: %q", got)
				}
			})
		}
	}
}

// A guest sees VFs and no PF. On one bus there is nothing to tell them apart, on several they may be of several PFs.
func TestPolicyInAGuestGoesByTheBus(t *testing.T) {
	ids := []string{"0000:00:07.0", "0000:00:05.0", "0000:00:06.0", "0000:01:00.0", "0000:01:01.0", "0001:00:05.0", "qat_dev0"}
	var devices []*devtree.Device
	for _, id := range ids {
		devices = append(devices, &devtree.Device{ID: id})
	}
	for policy, want := range map[Policy][]string{
		Balanced: {"0000:00:05.0", "0000:00:06.0", "0000:01:00.0"},
		Packed:   {"0000:00:05.0", "0000:00:06.0", "0000:00:07.0"},
	} {
		for _, published := range []bool{false, true} {
			p := &preference{policy: policy}
			if published {
				p.homes.Store(newHomes(func(yield func(Address) bool) {
					for _, id := range ids {
						if a, ok := ParseAddress(id); ok && !yield(a) {
							return
						}
					}
				}, func(Address) (Address, bool) { return Address{}, false }))
			}
			got, err := p.PreferredAllocation(context.Background(), Generic, devices[:6], nil, 3)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, homes published: %t (-want +got):\n%s", policy, published, diff)
			}
		}
		// A device of another kind is still a device.
		all, err := (&preference{policy: policy}).PreferredAllocation(context.Background(), Generic, devices, nil, len(devices))
		if err != nil || !slices.Contains(all, "qat_dev0") {
			t.Errorf("%s of all: %q, %v", policy, all, err)
		}
	}
}

// VFs may be on other buses than their PF, and two PFs, or VFs of two, on one bus.
func TestPolicyGoesByThePFWhereverItsVFsAre(t *testing.T) {
	pfs := map[string]string{
		"0000:6c:00.1": "0000:6b:00.0", "0000:6d:00.1": "0000:6b:00.0",
		"0000:6c:00.2": "0000:6b:01.0", "0000:6c:00.3": "0000:6b:01.0",
	}
	of := map[Address]Address{}
	var devices []*devtree.Device
	for vf, pf := range pfs {
		a, _ := ParseAddress(vf)
		of[a], _ = ParseAddress(pf)
		devices = append(devices, &devtree.Device{ID: vf})
	}
	p := &preference{policy: Packed}
	p.homes.Store(newHomes(maps.Keys(of), func(vf Address) (Address, bool) { pf, ok := of[vf]; return pf, ok }))
	got, err := p.PreferredAllocation(context.Background(), "cy", devices, nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0000:6c:00.1", "0000:6d:00.1"}, got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

func TestNoPolicyIsNoPreference(t *testing.T) {
	devices := []*devtree.Device{{ID: "0000:6b:00.1"}, {ID: "0000:6b:00.2"}}
	for policy, want := range map[Policy]int{NoPolicy: 0, Balanced: 1, Packed: 1} {
		got, err := (&preference{policy: policy}).PreferredAllocation(t.Context(), "cy", devices, devices[:1], 1)
		if err != nil || len(got) != want {
			t.Errorf("policy %q: %q, %v, want %d devices", policy, got, err, want)
		}
	}
}

func TestPolicyWords(t *testing.T) {
	for _, word := range append(Policies(), "") {
		if err := Policy(word).check(); err != nil {
			t.Error(err)
		}
	}
	for _, word := range []string{"none", "Balanced", "packed ", "balanced,packed"} {
		want := fmt.Sprintf("allocation policy %q: allowed are %s", word, strings.Join(Policies(), ", "))
		if err := Policy(word).check(); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// Containers come one after the other and none goes: after each, packed has at most one PF half full, and balanced PFs that differ by one.
func TestPolicyOverManyContainers(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		for _, policy := range []Policy{Balanced, Packed} {
			h := newRack([]bank{{bus: 0x6b, listed: 16}, {bus: 0x70, listed: 16}, {bus: 0x75, listed: 16}, {bus: 0x7a, listed: 16}})
			for len(h.available) >= size {
				h.allocate(t, policy, size)
				halfFull, most, least := 0, 0, 16
				for pf, n := range h.free() {
					if n > 0 && n < h.listed[pf] {
						halfFull++
					}
					most, least = max(most, n), min(least, n)
				}
				if policy == Packed && halfFull > 1 {
					t.Fatalf("packed, by %d: %d PFs are half full: %v", size, halfFull, h.free())
				}
				if policy == Balanced && most-least > 1 {
					t.Fatalf("balanced, by %d: the free VFs differ by %d: %v", size, most-least, h.free())
				}
			}
		}
	}
}
