// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

func TestBuildReturnsSameTreeIfNothingChanged(t *testing.T) {
	base := treeOf(t, "cy", vf("a"), vf("b"))
	for _, tt := range []struct {
		name string
		edit func(b *devtree.Builder)
	}{
		{"no edit", func(*devtree.Builder) {}},
		{"put equal device", func(b *devtree.Builder) { mustPut(t, b, "cy", vf("a")) }},
		{"keep existing resource", func(b *devtree.Builder) { _ = b.Keep("cy") }},
		{"remove missing device", func(b *devtree.Builder) { b.Remove("cy", "c") }},
		{"remove from missing resource", func(b *devtree.Builder) { b.Remove("dc", "a") }},
		{"add and remove", func(b *devtree.Builder) { mustPut(t, b, "cy", vf("c")); b.Remove("cy", "c") }},
		{"remove and add", func(b *devtree.Builder) { b.Remove("cy", "a"); mustPut(t, b, "cy", vf("a")) }},
		{"drop missing resource", func(b *devtree.Builder) { b.Drop("dc") }},
		{"drop and put", func(b *devtree.Builder) { b.Drop("cy"); mustPut(t, b, "cy", vf("a"), vf("b")) }},
		{"change and change back", func(b *devtree.Builder) { mustPut(t, b, "cy", unhealthy("a"), vf("a")) }},
		{"put invalid device", func(b *devtree.Builder) { _ = b.Put("cy", &devtree.Device{ID: "a"}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := base.Edit()
			tt.edit(b)
			if got := b.Build(); got != base {
				t.Errorf("got another Tree, generation %d:\n%s", got.Generation(), got)
			}
		})
	}
}

func TestGenerationGrowsByOneWithEachChangedTree(t *testing.T) {
	var tree *devtree.Tree
	for want := range uint64(3) {
		if got := tree.Generation(); got != want {
			t.Fatalf("generation %d, want %d", got, want)
		}
		b := tree.Edit()
		mustPut(t, b, "cy", vf(bdf(int(want))), vf("another"))
		tree = b.Build()
	}
}

func TestBuilderContinuesFromBuiltTree(t *testing.T) {
	b := new(devtree.Tree).Edit()
	mustPut(t, b, "cy", vf("a"))
	first := b.Build()
	mustPut(t, b, "cy", vf("b"))
	second := b.Build()
	if first.Resource("cy").Len() != 1 || second.Resource("cy").Len() != 2 ||
		second.Generation() != first.Generation()+1 {
		t.Errorf("first Tree, generation %d:\n%ssecond Tree, generation %d:\n%s",
			first.Generation(), first, second.Generation(), second)
	}
}

func TestBuildSharesUnchangedDevicesAndResources(t *testing.T) {
	b := treeOf(t, "cy", vf("a"), vf("b")).Edit()
	mustPut(t, b, "dc", vf("c"))
	before := b.Build()
	mustPut(t, b, "cy", unhealthy("b"))
	after := b.Build()

	if before.Resource("dc") != after.Resource("dc") {
		t.Error("the unchanged resource is not shared")
	}
	if before.Resource("cy").Device("a") != after.Resource("cy").Device("a") {
		t.Error("the unchanged device is not shared")
	}
	if before.Resource("cy") == after.Resource("cy") ||
		before.Resource("cy").Device("b") == after.Resource("cy").Device("b") {
		t.Error("the changed resource or device is shared")
	}
}

func TestRemovingLastDeviceLeavesEmptyResource(t *testing.T) {
	b := treeOf(t, "cy", vf("a")).Edit()
	b.Remove("cy", "a")
	if got, want := b.Build().String(), "cy: 0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDroppedResourceIsNotInTheTree(t *testing.T) {
	b := treeOf(t, "cy", vf("a")).Edit()
	mustPut(t, b, "dc", vf("b"))
	b.Drop("cy")
	if got, want := b.Build().String(), "dc: 1\n  b Healthy\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRejectedEditLeavesBuilderUnchanged(t *testing.T) {
	b := new(devtree.Tree).Edit()
	mustPut(t, b, "cy", vf("a"))
	if b.Put("dc", &devtree.Device{ID: "b"}) == nil || b.Put("sym;dc", vf("b")) == nil || b.Keep("sym;dc") == nil {
		t.Fatal("an invalid device or name was accepted")
	}
	if diff := cmp.Diff("cy: 1\n  a Healthy\n", b.Build().String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPutStoresCopy(t *testing.T) {
	d := full("a")
	tree := treeOf(t, "cy", d)
	d.NUMANodes[0] = 7
	d.DeviceNodes[0].HostPath = "/dev/null"
	d.Mounts[0].HostPath = "/"
	d.Env["A"] = "changed"
	d.Annotations["a"] = "changed"
	d.CDINames[0] = "x.com/y=z"
	if diff := cmp.Diff(full("a"), tree.Resource("cy").Device("a")); diff != "" {
		t.Errorf("the Tree changed with the caller's Device (-want +got):\n%s", diff)
	}
}

func TestMissingResourceAndDeviceAreNil(t *testing.T) {
	var none *devtree.Tree
	for name, tree := range map[string]*devtree.Tree{
		"nil":              none,
		"zero":             {},
		"another resource": treeOf(t, "dc", vf("a")),
	} {
		r := tree.Resource("cy")
		if r != nil || r.Name() != "" || r.Len() != 0 || r.Device("a") != nil {
			t.Errorf("%s Tree: resource %v with %d devices", name, r, r.Len())
		}
		for d := range r.Devices() {
			t.Errorf("%s Tree: device %v", name, d)
		}
	}
	if got := treeOf(t, "cy", vf("a")).Resource("cy").Device("b"); got != nil {
		t.Errorf("device %v, want nil", got)
	}
}

func TestIterationStopsEarly(t *testing.T) {
	b := treeOf(t, "cy", vf("a"), vf("b")).Edit()
	mustPut(t, b, "dc", vf("c"))
	seen := 0
	for r := range b.Build().Resources() {
		for range r.Devices() {
			seen++
			break
		}
		break
	}
	if seen != 1 {
		t.Errorf("saw %d devices, want 1", seen)
	}
}
