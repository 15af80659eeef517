// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// members returns n devices of a group, the first of which has the number from.
func members(group string, from, n int) (all []member) {
	for i := range n {
		all = append(all, member{name: fmt.Sprintf("%s-%03d", group, from+i), group: group})
	}
	return all
}

func join(parts ...[]member) (all []member) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// counts returns how many devices of each group are in which slice, such as "0:a=16".
func counts(l layout, all []member) map[string]int {
	n := map[string]int{}
	for _, m := range all {
		n[fmt.Sprintf("%d:%s", l.number[m.name], m.group)]++
	}
	return n
}

func TestLayout(t *testing.T) {
	four := join(members("a", 0, 16), members("b", 0, 16), members("c", 0, 16), members("d", 0, 16))
	for _, tt := range []struct {
		name   string
		before []member
		after  []member
		count  int
		want   map[string]int
	}{
		{"no devices", nil, nil, 0, map[string]int{}},
		{"groups share a slice", nil, four, 1, map[string]int{"0:a": 16, "0:b": 16, "0:c": 16, "0:d": 16}},
		{"group that does not fit", members("a", 0, 60), join(members("a", 0, 60), members("b", 0, 5)), 2,
			map[string]int{"0:a": 60, "1:b": 5}},
		{"group that fits after another one", nil,
			join(members("a", 0, 60), members("b", 0, 5), members("c", 0, 4)), 2,
			map[string]int{"0:a": 60, "1:b": 5, "0:c": 4}},
		{"group that grows where it is", members("a", 0, 4), members("a", 0, 64), 1, map[string]int{"0:a": 64}},
		{"group that grows out of its slice", four, join(four, members("b", 16, 1)), 2,
			map[string]int{"0:a": 16, "1:b": 17, "0:c": 16, "0:d": 16}},
		{"group that becomes too large", four, join(four, members("a", 16, 60)), 3,
			map[string]int{"1:a": 64, "2:a": 12, "0:b": 16, "0:c": 16, "0:d": 16}},
		{"large group of its own that grows", members("a", 0, 60), members("a", 0, 130), 3,
			map[string]int{"0:a": 64, "1:a": 64, "2:a": 2}},
		{"slices of a large group are not shared", members("a", 0, 66),
			join(members("a", 0, 66), members("b", 0, 1)), 3,
			map[string]int{"0:a": 64, "1:a": 2, "2:b": 1}},
		{"large group that becomes small", members("a", 0, 66), members("a", 2, 64), 2,
			map[string]int{"0:a": 64}},
		{"devices without a group", nil, []member{{name: "x"}, {name: "y"}}, 1, map[string]int{"0:": 2}},
		{"slice that becomes empty", join(members("a", 0, 60), members("b", 0, 5)), members("a", 0, 60), 2,
			map[string]int{"0:a": 60}},
		{"place that becomes free", join(members("a", 0, 60), members("b", 0, 5)),
			join(members("b", 0, 5), members("c", 0, 60)), 2, map[string]int{"1:b": 5, "0:c": 60}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := layout{}.place(tt.before).place(tt.after)
			if diff := cmp.Diff(tt.want, counts(got, tt.after)); diff != "" || got.count != tt.count {
				t.Errorf("%d slices, want %d (-want +got):\n%s", got.count, tt.count, diff)
			}
		})
	}
}

func TestGroupsShareSlicesOnceThereAreEnough(t *testing.T) {
	a, b, c := members("a", 0, 16), members("b", 0, 16), members("c", 0, 16)
	for _, tt := range []struct {
		name   string
		before []member
		after  []member
		count  int
		want   map[string]int
	}{
		{"a slice for each group", nil, join(a, b), 2, map[string]int{"0:a": 16, "1:b": 16}},
		{"groups share", nil, join(a, b, c), 2, map[string]int{"0:a": 16, "1:b": 16, "0:c": 16}},
		{"full slices", nil, join(members("a", 0, 60), members("b", 0, 60), c), 3,
			map[string]int{"0:a": 60, "1:b": 60, "2:c": 16}},
		{"empty slice", join(a, b), join(b, c), 2, map[string]int{"1:b": 16, "0:c": 16}},
		{"group that grows stays", join(a, b), join(members("a", 0, 20), b), 2, map[string]int{"0:a": 20, "1:b": 16}},
		{"devices without a group share", nil, []member{{name: "x"}, {name: "y"}, {name: "z"}}, 1,
			map[string]int{"0:": 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := layout{separate: 2}.place(tt.before).place(tt.after)
			if diff := cmp.Diff(tt.want, counts(got, tt.after)); diff != "" || got.count != tt.count {
				t.Errorf("%d slices, want %d (-want +got):\n%s", got.count, tt.count, diff)
			}
		})
	}
}

func TestTrimRemovesEmptySlicesAtTheEnd(t *testing.T) {
	l := layout{}.place(join(members("a", 0, 60), members("b", 0, 60), members("c", 0, 60)))
	if got := l.place(members("b", 0, 60)).trim().count; got != 2 {
		t.Errorf("%d slices, want 2", got)
	}
	if got := l.place(nil).trim().count; got != 0 {
		t.Errorf("%d slices without devices, want 0", got)
	}
}

// TestLayoutProperties checks the rules of place after any history of devices that come and go.
func TestLayoutProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		last, lastNames := layout{separate: rapid.IntRange(0, 4).Draw(rt, "separate")}, map[string]map[string]bool{}
		exists := map[member]bool{}
		for range rapid.IntRange(1, 10).Draw(rt, "steps") {
			for range rapid.IntRange(0, 4).Draw(rt, "edits") {
				group := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e"}).Draw(rt, "group")
				from := rapid.IntRange(0, 90).Draw(rt, "from")
				n := rapid.SampledFrom([]int{1, 8, 16, 40, 64, 70}).Draw(rt, "n")
				add := rapid.Bool().Draw(rt, "add")
				for _, m := range members(group, from, n) {
					if add {
						exists[m] = true
					} else {
						delete(exists, m)
					}
				}
			}
			var all []member
			names := map[string]map[string]bool{} // by group
			for m := range exists {               // in any order
				all = append(all, m)
				if names[m.group] == nil {
					names[m.group] = map[string]bool{}
				}
				names[m.group][m.name] = true
			}
			next := last.place(all)

			inSlice, groupsIn, slicesOf := map[int]int{}, map[int]map[string]bool{}, map[string]map[int]bool{}
			if len(next.number) != len(all) {
				rt.Fatalf("%d devices are placed, want %d", len(next.number), len(all))
			}
			for _, m := range all {
				s, ok := next.number[m.name]
				if !ok || s < 0 || s >= next.count {
					rt.Fatalf("device %s is in slice %d of %d", m.name, s, next.count)
				}
				if inSlice[s]++; inSlice[s] > maxDevices {
					rt.Fatalf("slice %d has more than %d devices", s, maxDevices)
				}
				if groupsIn[s] == nil {
					groupsIn[s] = map[string]bool{}
				}
				groupsIn[s][m.group] = true
				if slicesOf[m.group] == nil {
					slicesOf[m.group] = map[int]bool{}
				}
				slicesOf[m.group][s] = true
				old, placed := last.number[m.name]
				same := maps.Equal(lastNames[m.group], names[m.group]) && len(names[m.group]) <= maxDevices
				if placed && old != s && (m.group == "" || same) {
					rt.Fatalf("device %s moved from slice %d to %d without need", m.name, old, s)
				}
			}
			for group, in := range slicesOf {
				if group != "" && len(names[group]) <= maxDevices && len(in) != 1 {
					rt.Fatalf("group %s of %d is in slices %v", group, len(names[group]), in)
				}
				for s := range in {
					if len(names[group]) > maxDevices && group != "" && len(groupsIn[s]) != 1 {
						rt.Fatalf("slice %d of the large group %s has %v", s, group, groupsIn[s])
					}
				}
			}
			if next.count < last.count {
				rt.Fatalf("%d slices after %d", next.count, last.count)
			}
			if again := next.place(all); !maps.Equal(again.number, next.number) || again.count != next.count {
				rt.Fatal("the same devices are placed differently")
			}
			last, lastNames = next, names
		}
	})
}

func TestSliceNamesFitAndDiffer(t *testing.T) {
	long := fmt.Sprintf("%0249d.a", 1) // as long as names of Nodes may be
	if got, want := sliceNames("n1", "qat.intel.com"), "n1-qat.intel.com-"; got != want {
		t.Errorf("names of slices begin with %q, want %q", got, want)
	}
	one, other := sliceNames(long+"b", "qat.intel.com"), sliceNames(long+"c", "qat.intel.com")
	if len(one)+len("123456") > maxName || one == other {
		t.Errorf("names of slices begin with %q and %q", one, other)
	}
}
