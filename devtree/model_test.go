// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// A model is the content of a Tree in plain maps: resource → device ID → the fields as text.
type model map[string]map[string]string

func (m model) clone() model {
	c := model{}
	for name, devices := range m {
		c[name] = maps.Clone(devices)
	}
	return c
}

// withoutEmpty returns a copy of m without the resources that have no devices.
func (m model) withoutEmpty() model {
	c := m.clone()
	maps.DeleteFunc(c, func(_ string, devices map[string]string) bool { return len(devices) == 0 })
	return c
}

// text returns all fields of a device, and the types of the attributes.
func text(d *devtree.Device) string {
	s := fmt.Sprintf("%+v", *d)
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		s += fmt.Sprintf(" %s: %T", name, d.Attributes[name])
	}
	return s
}

// modelOf reads the Tree with every method that reads one and checks that they agree.
func modelOf(t rapid.TB, tree *devtree.Tree) model {
	t.Helper()
	m := model{}
	var names []string
	for r := range tree.Resources() {
		names = append(names, r.Name())
		devices := map[string]string{}
		var ids []string
		for d := range r.Devices() {
			ids = append(ids, d.ID)
			devices[d.ID] = text(d)
			if r.Device(d.ID) != d {
				t.Fatalf("Device(%q) is not the one that Devices yields", d.ID)
			}
		}
		if !slices.IsSorted(ids) || r.Len() != len(ids) || len(devices) != len(ids) {
			t.Fatalf("resource %s of length %d has the devices %q", r.Name(), r.Len(), ids)
		}
		if tree.Resource(r.Name()) != r {
			t.Fatalf("Resource(%q) is not the one that Resources yields", r.Name())
		}
		m[r.Name()] = devices
	}
	if !slices.IsSorted(names) || len(m) != len(names) {
		t.Fatalf("the resources are %q", names)
	}
	return m
}

var (
	resourceNames  = rapid.SampledFrom([]string{"cy", "dc", "generic", "sym-dc"})
	deviceIDs      = rapid.SampledFrom([]string{"0000:6b:00.1", "0000:6b:00.2", "0000:6b:01.0", "0000:6c:00.1", "z"})
	variationNames = rapid.SampledFrom(append(slices.Sorted(maps.Keys(variations)), "none"))
)

// drawDevice draws one of few devices, so that equal devices and devices that differ in
// one field are put often.
func drawDevice(t *rapid.T) *devtree.Device {
	d := full(deviceIDs.Draw(t, "id"))
	if vary, ok := variations[variationNames.Draw(t, "variation")]; ok {
		vary(d)
	}
	if d.Health == devtree.Healthy {
		d.Reason, d.Cause = "", ""
	}
	return d
}

// edit applies the same random edits to the Builder and the model.
func edit(t *rapid.T, b *devtree.Builder, m model) {
	for range rapid.IntRange(0, 6).Draw(t, "edits") {
		name := resourceNames.Draw(t, "resource")
		switch rapid.SampledFrom([]string{"put", "put", "remove", "keep", "drop", "invalid"}).Draw(t, "edit") {
		case "put":
			d := drawDevice(t)
			if err := b.Put(name, d); err != nil {
				t.Fatal(err)
			}
			if m[name] == nil {
				m[name] = map[string]string{}
			}
			m[name][d.ID] = text(d)
			d.Env["A"] = "changed by the caller after Put"
			if d.Attributes != nil {
				d.Attributes["family"] = "changed by the caller after Put"
			}
		case "remove":
			id := deviceIDs.Draw(t, "id")
			b.Remove(name, id)
			delete(m[name], id)
		case "keep":
			if err := b.Keep(name); err != nil {
				t.Fatal(err)
			}
			if m[name] == nil {
				m[name] = map[string]string{}
			}
		case "drop":
			b.Drop(name)
			delete(m, name)
		case "invalid":
			if b.Put(name, &devtree.Device{}) == nil || b.Put("a b", vf("a")) == nil || b.Keep("a b") == nil {
				t.Fatal("an invalid device or name was accepted")
			}
		}
	}
}

// TestTreeMatchesModel checks that any sequence of edits over several generations yields
// Trees that match plain maps, share what did not change with the previous Tree, and
// never change once they are built.
func TestTreeMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type generation struct {
			tree *devtree.Tree
			want model
		}
		now := model{}
		history := []generation{{&devtree.Tree{}, model{}}}
		b := history[0].tree.Edit()
		for range rapid.IntRange(1, 8).Draw(t, "generations") {
			last := history[len(history)-1]
			if rapid.Bool().Draw(t, "new Builder") {
				b = last.tree.Edit()
			}
			edit(t, b, now)
			next := generation{b.Build(), now.clone()}
			if diff := cmp.Diff(next.want, modelOf(t, next.tree)); diff != "" {
				t.Fatalf("the Tree differs from the model (-want +got):\n%s", diff)
			}
			requireShared(t, last.tree, next.tree)
			requireDiff(t, last.tree, next.tree)
			history = append(history, next)
		}
		for _, old := range history {
			if diff := cmp.Diff(old.want, modelOf(t, old.tree)); diff != "" {
				t.Fatalf("the Tree of generation %d changed after it was built (-want +got):\n%s",
					old.tree.Generation(), diff)
			}
		}
		// Diff also works between distant generations and backwards.
		requireDiff(t, history[0].tree, history[len(history)-1].tree)
		requireDiff(t, history[len(history)-1].tree, history[len(history)/2].tree)
	})
}

// requireShared checks that two Trees share pointers exactly where their content is equal.
func requireShared(t *rapid.T, old, next *devtree.Tree) {
	t.Helper()
	a, b := modelOf(t, old), modelOf(t, next)
	equal := cmp.Equal(a, b)
	if equal != (old == next) {
		t.Fatalf("Trees: equal content: %t, same pointer: %t", equal, old == next)
	}
	if want := old.Generation() + 1; !equal && next.Generation() != want {
		t.Fatalf("generation %d, want %d", next.Generation(), want)
	}
	for name, devices := range b {
		before, exists := a[name]
		equal := exists && maps.Equal(before, devices)
		if same := old.Resource(name) == next.Resource(name); same != equal {
			t.Fatalf("resource %s: equal content: %t, same pointer: %t", name, equal, same)
		}
		for id, d := range devices {
			equal := before[id] == d
			if same := old.Resource(name).Device(id) == next.Resource(name).Device(id); same != equal {
				t.Fatalf("device %s of %s: equal content: %t, same pointer: %t", id, name, equal, same)
			}
		}
	}
}
