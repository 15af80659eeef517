// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/qat/internal/pci"
)

func TestChoose(t *testing.T) {
	concat := slices.Concat[[]string]
	tests := []struct {
		name        string
		policy      Policy
		pfs         []testPF
		mustInclude []string
		size        int
		want        []string
	}{
		{
			name:   "balanced alternates between equal PFs, lowest address first",
			policy: Balanced,
			pfs:    []testPF{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}},
			size:   3,
			want:   concat(ids(0x6b, 1, 2), ids(0x70, 1, 1)),
		},
		{
			name:   "balanced takes from the PF with the most free VFs until another has as many",
			policy: Balanced,
			pfs: []testPF{
				{bus: 0x6b, listed: 16, used: 14},
				{bus: 0x70, listed: 16, used: 12},
				{bus: 0x75, listed: 16, used: 11},
			},
			size: 4,
			want: concat(ids(0x70, 13, 14), ids(0x75, 12, 13)),
		},
		{
			name:        "balanced counts included VFs as taken and moves on from their PF",
			policy:      Balanced,
			pfs:         []testPF{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}},
			mustInclude: ids(0x6b, 2, 3),
			size:        4,
			want:        concat(ids(0x6b, 2, 3), ids(0x70, 1, 2)),
		},
		{
			name:        "VFs that must be included are, even if the policy prefers others",
			policy:      Balanced,
			pfs:         []testPF{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4, used: 3}},
			mustInclude: ids(0x70, 4, 4),
			size:        1,
			want:        ids(0x70, 4, 4),
		},
		{
			name:   "balanced stays on one NUMA node even if another has a PF to spread to",
			policy: Balanced,
			pfs:    []testPF{{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 3}},
			size:   4,
			want:   ids(0x6b, 1, 4),
		},
		{
			name:   "balanced uses the NUMA node with more PFs to spread over",
			policy: Balanced,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 4},
				{bus: 0x70, node: 1, listed: 4},
				{bus: 0x75, node: 1, listed: 4},
			},
			size: 4,
			want: concat(ids(0x70, 1, 2), ids(0x75, 1, 2)),
		},
		{
			name:   "balanced uses the NUMA node that leaves the PFs most even",
			policy: Balanced,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 8},
				{bus: 0x70, node: 0, listed: 8},
				{bus: 0x75, node: 1, listed: 16},
			},
			size: 4,
			want: ids(0x75, 1, 4),
		},
		{
			name:   "packed takes all VFs from one PF",
			policy: Packed,
			pfs:    []testPF{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}},
			size:   3,
			want:   ids(0x6b, 1, 3),
		},
		{
			name:   "packed fills a used PF before it opens an unused one",
			policy: Packed,
			pfs:    []testPF{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4, used: 3}},
			size:   3,
			want:   concat(ids(0x6b, 1, 2), ids(0x70, 4, 4)),
		},
		{
			name:   "packed prefers one used PF with enough VFs to two with enough together",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, listed: 8, used: 6},
				{bus: 0x70, listed: 8, used: 6},
				{bus: 0x75, listed: 8, used: 3},
			},
			size: 3,
			want: ids(0x75, 4, 6),
		},
		{
			name:   "packed prefers the used PF with just enough VFs",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, listed: 8, used: 2},
				{bus: 0x70, listed: 8, used: 5},
				{bus: 0x75, listed: 8, used: 3},
			},
			size: 3,
			want: ids(0x70, 6, 8),
		},
		{
			name:        "packed continues on the PF of the included VFs",
			policy:      Packed,
			pfs:         []testPF{{bus: 0x6b, listed: 4}, {bus: 0x70, listed: 4}},
			mustInclude: ids(0x70, 2, 2),
			size:        3,
			want:        ids(0x70, 1, 3),
		},
		{
			name:   "packed fills the PF of the included VFs before other used PFs",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, listed: 8, used: 6},
				{bus: 0x70, listed: 8, used: 6},
				{bus: 0x75, listed: 8, used: 6},
			},
			mustInclude: ids(0x75, 1, 1),
			size:        5,
			want:        concat(ids(0x6b, 7, 8), ids(0x75, 1, 1), ids(0x75, 7, 8)),
		},
		{
			name:   "packed stays on one NUMA node even if another has a used PF",
			policy: Packed,
			pfs:    []testPF{{bus: 0x6b, node: 0, listed: 4, used: 2}, {bus: 0x70, node: 1, listed: 4}},
			size:   3,
			want:   ids(0x70, 1, 3),
		},
		{
			name:   "packed uses the NUMA node where no PF has to be opened",
			policy: Packed,
			pfs:    []testPF{{bus: 0x6b, node: 0, listed: 4}, {bus: 0x70, node: 1, listed: 4, used: 2}},
			size:   2,
			want:   ids(0x70, 3, 4),
		},
		{
			name:   "packed takes from two used PFs rather than open one on another NUMA node",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 4},
				{bus: 0x70, node: 1, listed: 4, used: 3},
				{bus: 0x75, node: 1, listed: 4, used: 3},
			},
			size: 2,
			want: concat(ids(0x70, 4, 4), ids(0x75, 4, 4)),
		},
		{
			name:   "packed does not count unused PFs that it takes nothing from",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 4},
				{bus: 0x70, node: 1, listed: 4, used: 2},
				{bus: 0x75, node: 1, listed: 4},
				{bus: 0x7a, node: 1, listed: 4},
			},
			size: 2,
			want: ids(0x70, 3, 4),
		},
		{
			name:   "packed uses the NUMA node whose PF has fewer VFs left over",
			policy: Packed,
			pfs:    []testPF{{bus: 0x6b, node: 0, listed: 8}, {bus: 0x70, node: 1, listed: 4}},
			size:   3,
			want:   ids(0x70, 1, 3),
		},
		{
			name:   "packed uses the NUMA node where it takes from fewer PFs",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 4, used: 3},
				{bus: 0x70, node: 0, listed: 4, used: 3},
				{bus: 0x75, node: 1, listed: 4, used: 1},
			},
			size: 2,
			want: ids(0x75, 2, 3),
		},
		{
			name:   "the NUMA node of the included VFs is used",
			policy: Packed,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 4},
				{bus: 0x70, node: 1, listed: 4},
				{bus: 0x75, node: 1, listed: 4},
			},
			mustInclude: ids(0x75, 4, 4),
			size:        3,
			want:        concat(ids(0x75, 1, 2), ids(0x75, 4, 4)),
		},
		{
			name:   "as few NUMA nodes as possible if one is not enough",
			policy: Balanced,
			pfs: []testPF{
				{bus: 0x6b, node: 0, listed: 2},
				{bus: 0x70, node: 1, listed: 4},
				{bus: 0x75, node: 2, listed: 3},
			},
			size: 7,
			want: concat(ids(0x70, 1, 4), ids(0x75, 1, 3)),
		},
		{
			name:   "VFs without a NUMA node come last",
			policy: Balanced,
			pfs:    []testPF{{bus: 0x6b, node: -1, listed: 2}, {bus: 0x70, node: 1, listed: 2}},
			size:   2,
			want:   ids(0x70, 1, 2),
		},
		{
			name:   "no VF has a NUMA node",
			policy: Balanced,
			pfs:    []testPF{{bus: 0x6b, node: -1, listed: 2}, {bus: 0x70, node: -1, listed: 2}},
			size:   2,
			want:   concat(ids(0x6b, 1, 1), ids(0x70, 1, 1)),
		},
		{
			name:   "all available VFs",
			policy: Packed,
			pfs:    []testPF{{bus: 0x6b, listed: 2}, {bus: 0x70, listed: 2}},
			size:   4,
			want:   concat(ids(0x6b, 1, 2), ids(0x70, 1, 2)),
		},
		{
			name:   "no VFs requested",
			policy: Balanced,
			pfs:    []testPF{{bus: 0x6b, listed: 2}},
			want:   []string{},
		},
		{
			name: "no policy, no preference",
			pfs:  []testPF{{bus: 0x6b, listed: 2}},
			size: 1,
			want: nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := choose(test.policy, test.pfs, test.mustInclude, test.size)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChooseRejectsImpossibleRequests(t *testing.T) {
	const a, b, c = "0000:6b:00.1", "0000:6b:00.2", "0000:6b:00.3"
	tests := []struct {
		name        string
		available   []string
		mustInclude []string
		size        int
		want        string
	}{
		{
			name:      "more than available",
			available: []string{a, b},
			size:      3,
			want:      "3 devices are requested but only 2 are available",
		},
		{
			name: "none available",
			size: 1,
			want: "1 devices are requested but only 0 are available",
		},
		{
			name:      "negative size",
			available: []string{a},
			size:      -1,
			want:      "invalid number of requested devices: -1",
		},
		{
			name:        "included but not available",
			available:   []string{a},
			mustInclude: []string{c},
			size:        1,
			want:        `device "0000:6b:00.3" must be included but is not available`,
		},
		{
			name:        "more included than requested",
			available:   []string{a, b},
			mustInclude: []string{a, b},
			size:        1,
			want:        "2 devices must be included but only 1 are requested",
		},
		{
			name:        "included twice",
			available:   []string{a, b},
			mustInclude: []string{a, a},
			size:        2,
			want:        `device "0000:6b:00.1" appears twice among the devices that must be included`,
		},
		{
			name:      "available twice",
			available: []string{a, b, a},
			size:      3,
			want:      `device "0000:6b:00.1" appears twice among the available devices`,
		},
	}
	for _, test := range tests {
		for _, policy := range []Policy{Balanced, Packed} {
			t.Run(test.name+", "+string(policy), func(t *testing.T) {
				p := NewPreference(policy)
				got, err := p.Choose(devices(test.available...), devices(test.mustInclude...), test.size)
				if err == nil || err.Error() != test.want {
					t.Errorf("error %v, want %s", err, test.want)
				}
				if got != nil {
					t.Errorf("chosen despite the error: %q", got)
				}
			})
		}
	}
}

func TestChooseGroupsVFsOfUnknownPFsByBus(t *testing.T) {
	guest := []string{
		"0000:00:07.0", "0000:00:05.0", "0000:00:06.0", "0000:01:00.0", "0000:01:01.0", "0001:00:05.0",
	}
	var listed []pci.Address
	for _, id := range guest {
		a, ok := pci.Parse(id)
		if !ok {
			t.Fatalf("%s is not an address", id)
		}
		listed = append(listed, a)
	}
	for policy, want := range map[Policy][]string{
		Balanced: {"0000:00:05.0", "0000:00:06.0", "0000:01:00.0"},
		Packed:   {"0000:00:05.0", "0000:00:06.0", "0000:00:07.0"},
	} {
		for _, updated := range []bool{false, true} {
			p := NewPreference(policy)
			if updated {
				p.Update(slices.Values(listed), unknownPF)
			}
			got, err := p.Choose(devices(guest...), nil, 3)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, updated %t (-want +got):\n%s", policy, updated, diff)
			}
		}
	}
}

// The bus of a guest may have VFs of several NUMA nodes.
func TestChooseKeepsToOneNUMANodeOfABus(t *testing.T) {
	onNode := func(node int, ids ...string) []*devtree.Device {
		list := devices(ids...)
		for _, d := range list {
			d.NUMANodes = []int{node}
		}
		return list
	}
	available := slices.Concat(
		onNode(0, "0000:00:01.0", "0000:00:02.0"),
		onNode(1, "0000:00:03.0", "0000:00:04.0", "0000:01:01.0"),
	)
	for _, policy := range []Policy{Balanced, Packed} {
		got, err := NewPreference(policy).Choose(available, nil, 3)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"0000:00:03.0", "0000:00:04.0", "0000:01:01.0"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", policy, diff)
		}
	}
}

func TestPackedCountsABusAsUnusedWhenAllItsNUMANodesAre(t *testing.T) {
	unused := []*devtree.Device{device("0000:00:01.0"), device("0000:00:02.0")}
	unused[1].NUMANodes = []int{0}
	used := []*devtree.Device{device("0000:01:01.0"), device("0000:01:02.0")}
	used[0].NUMANodes = []int{0}
	var listed []pci.Address
	for _, d := range slices.Concat(unused, used) {
		a, _ := pci.Parse(d.ID)
		listed = append(listed, a)
	}
	p := NewPreference(Packed)
	p.Update(slices.Values(listed), unknownPF)
	got, err := p.Choose(slices.Concat(unused, used[:1]), nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{used[0].ID}, got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

func TestChooseAcceptsIDsThatAreNoAddress(t *testing.T) {
	for _, policy := range []Policy{Balanced, Packed} {
		got, err := NewPreference(policy).Choose(devices("qat_dev1", "0000:00:05.0", "qat_dev0"), nil, 3)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"qat_dev0", "qat_dev1", "0000:00:05.0"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", policy, diff)
		}
	}
}

// VFs may be on other buses than their PF, and VFs of two PFs on the same bus.
func TestChooseGroupsVFsByPFAcrossBuses(t *testing.T) {
	pfOf := map[pci.Address]pci.Address{}
	var available []string
	for vf, pf := range map[string]string{
		"0000:6c:00.1": "0000:6b:00.0",
		"0000:6d:00.1": "0000:6b:00.0",
		"0000:6c:00.2": "0000:6b:01.0",
		"0000:6c:00.3": "0000:6b:01.0",
	} {
		a, _ := pci.Parse(vf)
		pfOf[a], _ = pci.Parse(pf)
		available = append(available, vf)
	}
	p := NewPreference(Packed)
	p.Update(maps.Keys(pfOf), lookup(pfOf))
	got, err := p.Choose(devices(available...), nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0000:6c:00.1", "0000:6d:00.1"}, got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

func TestUpdateReplacesTheListedVFs(t *testing.T) {
	first, second := testPF{bus: 0x6b}, testPF{bus: 0x70}
	allocated := first.vf(2)
	listed := []pci.Address{allocated, first.vf(1), second.vf(1), second.vf(2), second.vf(3)}
	available := devices(first.vf(1).String(), second.vf(1).String(), second.vf(2).String())
	p := NewPreference(Packed)
	p.Update(slices.Values(listed), onBus)     // both PFs are used, and the first has fewer VFs left
	p.Update(slices.Values(listed[1:]), onBus) // the first PF is unused
	got, err := p.Choose(available, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ids(0x70, 1, 1), got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

func TestUpdateDoesNothingWithoutAPolicy(t *testing.T) {
	NewPreference(None).Update(func(func(pci.Address) bool) { t.Error("the VFs are read") }, onBus)
}

func TestPreferenceMayBeUsedConcurrently(t *testing.T) {
	pf := testPF{bus: 0x6b, listed: 2}
	p := NewPreference(Balanced)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() { p.Update(slices.Values([]pci.Address{pf.vf(1), pf.vf(2)}), onBus) })
		callers.Go(func() {
			if got, err := p.Choose(devices(ids(0x6b, 1, 2)...), nil, 2); err != nil || len(got) != 2 {
				t.Errorf("Choose = %q, %v; want both devices", got, err)
			}
		})
	}
	callers.Wait()
}
