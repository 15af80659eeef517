// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestDiffListsChangesInOrder(t *testing.T) {
	b := treeOf(t, "cy", vf("a"), vf("b"), vf("c")).Edit()
	mustPut(t, b, "generic", vf("d"))
	old := b.Build()
	b.Remove("generic", "d")
	b.Remove("cy", "a")
	mustPut(t, b, "cy", unhealthy("c"), vf("e"))
	mustPut(t, b, "dc", vf("a"))
	want := []devtree.Change{
		{Resource: "cy", Old: vf("a")},
		{Resource: "cy", Old: vf("c"), New: unhealthy("c")},
		{Resource: "cy", New: vf("e")},
		{Resource: "dc", New: vf("a")},
		{Resource: "generic", Old: vf("d")},
	}
	if diff := gocmp.Diff(want, devtree.Diff(old, b.Build())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiffWithNilTree(t *testing.T) {
	tree := treeOf(t, "cy", vf("a"))
	for _, tt := range []struct {
		name     string
		old, new *devtree.Tree
		want     []devtree.Change
	}{
		{"from nil", nil, tree, []devtree.Change{{Resource: "cy", New: vf("a")}}},
		{"to nil", tree, nil, []devtree.Change{{Resource: "cy", Old: vf("a")}}},
		{"from nil to nil", nil, nil, nil},
	} {
		if diff := gocmp.Diff(tt.want, devtree.Diff(tt.old, tt.new)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestUnrelatedTreesWithEqualDevicesAreEqual(t *testing.T) {
	one, other := treeOf(t, "cy", vf("a"), vf("b")), treeOf(t, "cy", vf("b"), vf("a"))
	if got := devtree.Diff(one, other); len(got) > 0 || !one.Equal(other) {
		t.Errorf("they differ in %v", got)
	}
	if one.Equal(treeOf(t, "cy", vf("a"), unhealthy("b"))) || one.Equal(treeOf(t, "dc", vf("a"), vf("b"))) {
		t.Error("Trees with different devices are equal")
	}
}

func TestDiffIgnoresEmptyResource(t *testing.T) {
	b := treeOf(t, "cy", vf("a")).Edit()
	old := b.Build()
	if err := b.Keep("dc"); err != nil {
		t.Fatal(err)
	}
	next := b.Build()
	if old == next || !old.Equal(next) || !next.Equal(old) {
		t.Errorf("same Tree: %t, Equal: %t; want another Tree that is Equal", old == next, old.Equal(next))
	}
}

// requireDiff checks that the changes from old to next are in order, that each one is a
// change, and that old becomes next if they are applied to it.
func requireDiff(t *rapid.T, old, next *devtree.Tree) {
	t.Helper()
	changes := devtree.Diff(old, next)
	if old.Equal(next) != (len(changes) == 0) {
		t.Fatalf("Equal is %t, the changes are %v", old.Equal(next), changes)
	}
	id := func(c devtree.Change) string {
		if c.Old != nil {
			return c.Old.ID
		}
		return c.New.ID
	}
	if !slices.IsSortedFunc(changes, func(a, b devtree.Change) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(id(a), id(b)))
	}) {
		t.Fatalf("the changes are out of order: %v", changes)
	}
	got := modelOf(t, old)
	for _, c := range changes {
		before, exists := got[c.Resource][id(c)]
		if exists != (c.Old != nil) || exists && before != text(c.Old) {
			t.Fatalf("Old of change %v is not what the old Tree has: %s", c, before)
		}
		if c.New == nil {
			delete(got[c.Resource], id(c))
			continue
		}
		if text(c.New) == before {
			t.Fatalf("%v is not a change", c)
		}
		if got[c.Resource] == nil {
			got[c.Resource] = map[string]string{}
		}
		got[c.Resource][c.New.ID] = text(c.New)
	}
	if want := modelOf(t, next).withoutEmpty(); !maps.EqualFunc(want, got.withoutEmpty(), maps.Equal) {
		t.Fatalf("old with the changes is not next (-want +got):\n%s", gocmp.Diff(want, got.withoutEmpty()))
	}
}
