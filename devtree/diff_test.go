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

func TestDiffListsWhatChangedInOrder(t *testing.T) {
	b := treeOf(t, "cy", vf("a"), vf("b"), vf("c")).Edit()
	mustPut(t, b, "generic", vf("d"))
	old := b.Build()
	b.Remove("generic", "d")
	b.Remove("cy", "a")
	mustPut(t, b, "cy", sick("c"), vf("e"))
	mustPut(t, b, "dc", vf("a"))
	want := []devtree.Change{
		{Resource: "cy", Old: vf("a")},
		{Resource: "cy", Old: vf("c"), New: sick("c")},
		{Resource: "cy", New: vf("e")},
		{Resource: "dc", New: vf("a")},
		{Resource: "generic", Old: vf("d")},
	}
	if diff := gocmp.Diff(want, devtree.Diff(old, b.Build())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiffWithNoTreeIsTheWholeTree(t *testing.T) {
	tree := treeOf(t, "cy", vf("a"))
	for _, tt := range []struct {
		name     string
		old, new *devtree.Tree
		want     []devtree.Change
	}{
		{"from none", nil, tree, []devtree.Change{{Resource: "cy", New: vf("a")}}},
		{"to none", tree, nil, []devtree.Change{{Resource: "cy", Old: vf("a")}}},
		{"from none to none", nil, nil, nil},
	} {
		if diff := gocmp.Diff(tt.want, devtree.Diff(tt.old, tt.new)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestTreesMadeApartAreEqualWhenTheySayTheSame(t *testing.T) {
	one, other := treeOf(t, "cy", vf("a"), vf("b")), treeOf(t, "cy", vf("b"), vf("a"))
	if got := devtree.Diff(one, other); len(got) > 0 || !one.Equal(other) {
		t.Errorf("they differ in %v", got)
	}
	if one.Equal(treeOf(t, "cy", vf("a"), sick("b"))) || one.Equal(treeOf(t, "dc", vf("a"), vf("b"))) {
		t.Error("Trees that say different things are equal")
	}
}

func TestAnEmptyResourceIsNoDifference(t *testing.T) {
	b := treeOf(t, "cy", vf("a")).Edit()
	old := b.Build()
	if err := b.Keep("dc"); err != nil {
		t.Fatal(err)
	}
	next := b.Build()
	if old == next || !old.Equal(next) || !next.Equal(old) {
		t.Errorf("same Tree: %t, Equal: %t; want another one that is Equal", old == next, old.Equal(next))
	}
}

// requireDiff holds that the difference, applied to old, gives next, that it is in order, and that nothing in it is no change.
func requireDiff(t *rapid.T, old, next *devtree.Tree) {
	t.Helper()
	changes := devtree.Diff(old, next)
	if old.Equal(next) != (len(changes) == 0) {
		t.Fatalf("Equal is %t, the difference is %v", old.Equal(next), changes)
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
		t.Fatalf("the difference is out of order: %v", changes)
	}
	got := modelOf(t, old)
	for _, c := range changes {
		was, there := got[c.Resource][id(c)]
		if there != (c.Old != nil) || there && was != text(c.Old) {
			t.Fatalf("the change %v begins with another device than the old Tree's %s", c, was)
		}
		if c.New == nil {
			delete(got[c.Resource], id(c))
			continue
		}
		if text(c.New) == was {
			t.Fatalf("%v is no change", c)
		}
		if got[c.Resource] == nil {
			got[c.Resource] = map[string]string{}
		}
		got[c.Resource][c.New.ID] = text(c.New)
	}
	if want := modelOf(t, next).withoutEmpty(); !maps.EqualFunc(want, got.withoutEmpty(), maps.Equal) {
		t.Fatalf("old plus difference is not new (-want +got):\n%s", gocmp.Diff(want, got.withoutEmpty()))
	}
}
