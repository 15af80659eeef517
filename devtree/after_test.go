package devtree_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestAWholeTreeThatSaysTheSameIsTheOneBefore(t *testing.T) {
	whole := func() *devtree.Tree { return treeOf(t, "cy", vf("a"), sick("b")) }
	before := whole().After(nil)
	if after := whole().After(before); after != before {
		t.Errorf("got another Tree, generation %d:\n%s", after.Generation(), after)
	}
	if after := (*devtree.Tree)(nil).After(nil); after == nil || after.Generation() != 0 {
		t.Errorf("nothing after nothing is %v", after)
	}
}

func TestAResourceThatAWholeTreeLacksStaysAndIsEmpty(t *testing.T) {
	before := treeOf(t, "cy", vf("a"))
	after := treeOf(t, "dc", vf("b")).After(before)
	if diff := cmp.Diff("cy: 0\ndc: 1\n  b Healthy\n", after.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := treeOf(t, "dc", vf("b")).After(after); again != after {
		t.Error("the resource that stays makes another Tree each time")
	}
	if none := (*devtree.Tree)(nil).After(after); none.String() != "cy: 0\ndc: 0\n" {
		t.Errorf("no Tree at all leaves:\n%s", none)
	}
}

// Whole Trees, each after the one before, share all that edits would share, and say what they said alone.
func TestWholeTreesShareAsEditsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last, kept := &devtree.Tree{}, model{}
		for range rapid.IntRange(1, 8).Draw(t, "looks") {
			now, b := model{}, new(devtree.Tree).Edit()
			edit(t, b, now)
			whole := b.Build()
			alone := modelOf(t, whole)
			next := whole.After(last)
			for name := range kept {
				if now[name] == nil {
					now[name] = map[string]string{}
				}
			}
			if diff := cmp.Diff(now, modelOf(t, next)); diff != "" {
				t.Fatalf("the Tree is not what was found (-want +got):\n%s", diff)
			}
			requireShared(t, last, next)
			requireDiff(t, last, next)
			if diff := cmp.Diff(alone, modelOf(t, whole)); diff != "" {
				t.Fatalf("the whole Tree changed (-want +got):\n%s", diff)
			}
			last, kept = next, now
		}
	})
}

func BenchmarkWholeTreeThatSaysTheSame(b *testing.B) {
	before, whole := host(b, 1024), host(b, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if whole.After(before) != before {
			b.Fatal("something changed")
		}
	}
}
