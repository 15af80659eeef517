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

// A model is what a Tree says, in plain maps of plain text: resource → device ID → the device's fields.
type model map[string]map[string]string

func (m model) clone() model {
	c := model{}
	for name, devices := range m {
		c[name] = maps.Clone(devices)
	}
	return c
}

// withoutEmpty is the model without the resources that have no devices.
func (m model) withoutEmpty() model {
	c := m.clone()
	maps.DeleteFunc(c, func(_ string, devices map[string]string) bool { return len(devices) == 0 })
	return c
}

func text(d *devtree.Device) string { return fmt.Sprintf("%+v", *d) }

// modelOf reads a Tree through every method that reads one.
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
				t.Fatalf("Device(%q) is another one than in Devices", d.ID)
			}
		}
		if !slices.IsSorted(ids) || r.Len() != len(ids) || len(devices) != len(ids) {
			t.Fatalf("resource %s of length %d has the devices %q", r.Name(), r.Len(), ids)
		}
		if tree.Resource(r.Name()) != r {
			t.Fatalf("Resource(%q) is another one than in Resources", r.Name())
		}
		m[r.Name()] = devices
	}
	if !slices.IsSorted(names) || len(m) != len(names) {
		t.Fatalf("the resources are %q", names)
	}
	return m
}

var (
	resourceNames = rapid.SampledFrom([]string{"cy", "dc", "generic", "sym-dc"})
	deviceIDs     = rapid.SampledFrom([]string{"0000:6b:00.1", "0000:6b:00.2", "0000:6b:01.0", "0000:6c:00.1", "z"})
	variants      = rapid.SampledFrom(append(slices.Sorted(maps.Keys(variations)), "none"))
)

// drawDevice is one of few devices, so that the same one is put again and again; each differs from the others in one field.
func drawDevice(t *rapid.T) *devtree.Device {
	d := everything(deviceIDs.Draw(t, "id"))
	if vary, ok := variations[variants.Draw(t, "what differs")]; ok {
		vary(d)
	}
	if d.Health == devtree.Healthy {
		d.Reason = ""
	}
	return d
}

// edit does a few random things to the Builder and the model alike.
func edit(t *rapid.T, b *devtree.Builder, m model) {
	for range rapid.IntRange(0, 6).Draw(t, "edits") {
		name := resourceNames.Draw(t, "resource")
		switch rapid.SampledFrom([]string{"put", "put", "remove", "keep", "broken"}).Draw(t, "edit") {
		case "put":
			d := drawDevice(t)
			if err := b.Put(name, d); err != nil {
				t.Fatal(err)
			}
			if m[name] == nil {
				m[name] = map[string]string{}
			}
			m[name][d.ID] = text(d)
			d.Env["A"] = "the caller's later change"
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
		case "broken":
			if b.Put(name, &devtree.Device{}) == nil || b.Put("a b", vf("a")) == nil || b.Keep("a b") == nil {
				t.Fatal("a broken rule was taken")
			}
		}
	}
}

// Any sequence of edits over several generations leaves a Tree that equals plain maps, shares all that it can with the one before it, and
// changes none that was built before.
func TestTreeIsAMapThatShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type built struct {
			tree *devtree.Tree
			says model
		}
		now := model{}
		history := []built{{&devtree.Tree{}, model{}}}
		b := history[0].tree.Edit()
		for range rapid.IntRange(1, 8).Draw(t, "generations") {
			last := history[len(history)-1]
			if rapid.Bool().Draw(t, "a new Builder") {
				b = last.tree.Edit()
			}
			edit(t, b, now)
			next := built{b.Build(), now.clone()}
			if diff := cmp.Diff(next.says, modelOf(t, next.tree)); diff != "" {
				t.Fatalf("the Tree is not what was put into it (-want +got):\n%s", diff)
			}
			requireShared(t, last.tree, next.tree)
			requireDiff(t, last.tree, next.tree)
			history = append(history, next)
		}
		for _, old := range history {
			if diff := cmp.Diff(old.says, modelOf(t, old.tree)); diff != "" {
				t.Fatalf("a Tree of generation %d changed after it was built (-want +got):\n%s", old.tree.Generation(), diff)
			}
		}
		// Trees far apart, and in the wrong order, have a difference too.
		requireDiff(t, history[0].tree, history[len(history)-1].tree)
		requireDiff(t, history[len(history)-1].tree, history[len(history)/2].tree)
	})
}

// requireShared holds that pointers are the same exactly where the words are.
func requireShared(t *rapid.T, old, next *devtree.Tree) {
	t.Helper()
	a, b := modelOf(t, old), modelOf(t, next)
	same := cmp.Equal(a, b)
	if same != (old == next) {
		t.Fatalf("says the same: %t, is the same: %t", same, old == next)
	}
	if want := old.Generation() + 1; !same && next.Generation() != want {
		t.Fatalf("generation %d, want %d", next.Generation(), want)
	}
	for name, devices := range b {
		was, there := a[name]
		if same := there && maps.Equal(was, devices); same != (old.Resource(name) == next.Resource(name)) {
			t.Fatalf("resource %s: says the same: %t, is the same: %t", name, same, !same)
		}
		for id, d := range devices {
			if same := was[id] == d; same != (old.Resource(name).Device(id) == next.Resource(name).Device(id)) {
				t.Fatalf("device %s of %s: says the same: %t, is the same: %t", id, name, same, !same)
			}
		}
	}
}
