// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestAfterReturnsPreviousTreeIfEqual(t *testing.T) {
	scan := func() *devtree.Tree { return treeOf(t, "cy", vf("a"), unhealthy("b")) }
	before := scan().After(nil)
	if after := scan().After(before); after != before {
		t.Errorf("got another Tree, generation %d:\n%s", after.Generation(), after)
	}
	if after := (*devtree.Tree)(nil).After(nil); after == nil || after.Generation() != 0 {
		t.Errorf("nil after nil is %v, want an empty Tree of generation 0", after)
	}
}

func TestAfterSharesUnchangedDevices(t *testing.T) {
	before := treeOf(t, "cy", vf("a"), vf("b"), vf("d"))
	after := treeOf(t, "cy", vf("a"), unhealthy("b"), vf("c"), vf("d")).After(before)
	for _, id := range []string{"a", "b", "c", "d"} {
		same := before.Resource("cy").Device(id) == after.Resource("cy").Device(id)
		if want := id == "a" || id == "d"; same != want {
			t.Errorf("device %s is the same pointer: %t, want %t", id, same, want)
		}
	}
}

func TestAfterKeepsMissingResourceEmpty(t *testing.T) {
	before := treeOf(t, "cy", vf("a"))
	after := treeOf(t, "dc", vf("b")).After(before)
	if diff := cmp.Diff("cy: 0\ndc: 1\n  b Healthy\n", after.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := treeOf(t, "dc", vf("b")).After(after); again != after {
		t.Error("an equal scan made another Tree")
	}
	if none := (*devtree.Tree)(nil).After(after); none.String() != "cy: 0\ndc: 0\n" {
		t.Errorf("after a scan without resources:\n%s", none)
	}
}

// TestAfterSharesLikeBuilder checks that Trees built from nothing, each made the successor of
// the previous one, share as much as edited Trees do and keep what was scanned.
func TestAfterSharesLikeBuilder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last, known := &devtree.Tree{}, model{}
		for range rapid.IntRange(1, 8).Draw(t, "scans") {
			scanned, b := model{}, new(devtree.Tree).Edit()
			edit(t, b, scanned)
			scan := b.Build()
			before := modelOf(t, scan)
			next := scan.After(last)
			for name := range known {
				if scanned[name] == nil {
					scanned[name] = map[string]string{}
				}
			}
			if diff := cmp.Diff(scanned, modelOf(t, next)); diff != "" {
				t.Fatalf("the Tree differs from the scan (-want +got):\n%s", diff)
			}
			requireShared(t, last, next)
			requireDiff(t, last, next)
			if diff := cmp.Diff(before, modelOf(t, scan)); diff != "" {
				t.Fatalf("After modified the scanned Tree (-want +got):\n%s", diff)
			}
			last, known = next, scanned
		}
	})
}

func BenchmarkAfterEqualTree(b *testing.B) {
	before, scan := host(b, 1024), host(b, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if scan.After(before) != before {
			b.Fatal("the Tree changed")
		}
	}
}
