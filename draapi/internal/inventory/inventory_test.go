// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func healthy(id string) *devtree.Device { return &devtree.Device{ID: id, Health: devtree.Healthy} }

// tree returns a Tree of Healthy devices, each given as "resource/ID".
func tree(t testing.TB, devices ...string) *devtree.Tree {
	t.Helper()
	b := new(devtree.Tree).Edit()
	for _, d := range devices {
		resource, id, _ := strings.Cut(d, "/")
		if err := b.Put(resource, healthy(id)); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

// held returns the devices that claims hold.
func held(ids ...string) map[string]*devtree.Device {
	devices := map[string]*devtree.Device{}
	for _, id := range ids {
		devices[id] = healthy(id)
	}
	return devices
}

// text returns the Inventory as one line for each device and each error.
func text(i *Inventory) string {
	var b strings.Builder
	for _, d := range i.Devices {
		fmt.Fprintf(&b, "%s: %s/%s", d.Name, d.Resource, d.Device.ID)
		if d.Gone {
			b.WriteString(" gone")
		}
		b.WriteByte('\n')
	}
	for _, err := range i.Skipped {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

func TestNameIsDNSLabelMadeFromID(t *testing.T) {
	for id, want := range map[string]string{
		"0000:6b:00.1":                 "0000-6b-00-1",
		"SHIM_dev0_1":                  "shim-dev0-1",
		"_a_":                          "a",
		"grün":                         "gr-n",
		"::":                           "",
		strings.Repeat("a", 62) + "::": strings.Repeat("a", 62),
		strings.Repeat("b", 70):        strings.Repeat("b", 63),
	} {
		if got := deviceName(id); got != want {
			t.Errorf("deviceName(%q) is %q, want %q", id, got, want)
		}
	}
}

func TestInventoryOfTree(t *testing.T) {
	const same = " has the same name in the pool, "
	for _, tt := range []struct {
		name string
		tree []string
		held []string
		want string
	}{
		{"no devices", nil, nil, ""},
		{"sorted by name over all resources", []string{"dc/0000:6b:00.1", "cy/0000:6b:00.2"}, nil,
			"0000-6b-00-1: dc/0000:6b:00.1\n0000-6b-00-2: cy/0000:6b:00.2\n"},
		{"held device that has gone", []string{"cy/a"}, []string{"a", "b"}, "a: cy/a\nb: /b gone\n"},
		{"ID in two resources", []string{"cy/a", "dc/a"}, nil,
			"a: cy/a\n" +
				`skip device "a" of resource "dc": device "a" of resource "cy"` + same + `"a"` + "\n"},
		{"IDs with equal names", []string{"cy/a:b", "cy/a.b"}, nil,
			"a-b: cy/a.b\n" +
				`skip device "a:b" of resource "cy": device "a.b" of resource "cy"` + same + `"a-b"` + "\n"},
		{"held one of equal names", []string{"cy/a:b", "cy/a.b"}, []string{"a:b"},
			"a-b: cy/a:b\n" +
				`skip device "a.b" of resource "cy": device "a:b" of resource "cy"` + same + `"a-b"` + "\n"},
		{"held one that has gone, of equal names", []string{"cy/a.b"}, []string{"a:b"},
			"a-b: /a:b gone\n" +
				`skip device "a.b" of resource "cy": device "a:b" of resource ""` + same + `"a-b"` + "\n"},
		{"ID without a letter or digit", []string{"cy/::"}, nil,
			`skip device "::" of resource "cy": its ID has no letter or digit to name it by` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := text(New(nil, tree(t, tt.tree...), held(tt.held...)))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHeldDeviceThatHasGoneKeepsItsLastState(t *testing.T) {
	b := new(devtree.Tree).Edit()
	last := &devtree.Device{ID: "a", Health: devtree.Unhealthy, Reason: "in reset"}
	if err := b.Put("cy", last); err != nil {
		t.Fatal(err)
	}
	with := New(nil, b.Build(), held("a"))
	without := New(with, tree(t), held("a"))
	again := New(without, tree(t), held("a"))
	if again != without {
		t.Error("an equal Inventory is another one")
	}
	d := without.Find("a")
	if d == nil || !d.Gone || d.Resource != "cy" || !d.Device.Equal(last) {
		t.Errorf("the device is %+v, want the last state", d)
	}
	back := New(again, b.Build(), held("a")).Find("a")
	if back == nil || back.Gone || !back.Device.Equal(last) {
		t.Errorf("the device that has returned is %+v", back)
	}
	if d := New(without, tree(t), nil).Find("a"); d != nil {
		t.Errorf("after the claim, the device is %+v", d)
	}
}

func TestHeldDeviceOfUnknownStateHasOnlyAName(t *testing.T) {
	i := New(nil, nil, map[string]*devtree.Device{"a": nil})
	if diff := cmp.Diff("a: /a gone\n", text(i)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOfferedDeviceKeepsItsName(t *testing.T) {
	first := New(nil, tree(t, "dc/a:b"), nil)
	second := New(first, tree(t, "cy/a.b", "dc/a:b"), nil)
	want := "a-b: dc/a:b\n" +
		`skip device "a.b" of resource "cy": device "a:b" of resource "dc" has the same name in the pool, "a-b"` + "\n"
	if diff := cmp.Diff(want, text(second)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUnchangedDevicesAreShared(t *testing.T) {
	first := New(nil, tree(t, "cy/a", "cy/b", "dc/c"), nil)
	second := New(first, tree(t, "cy/a", "dc/b", "dc/c", "dc/d"), nil)
	for name, want := range map[string]bool{"a": true, "b": false, "c": true} {
		if got := first.Find(name) == second.Find(name); got != want {
			t.Errorf("device %s is the same pointer: %t, want %t", name, got, want)
		}
	}
	if again := New(second, tree(t, "cy/a", "dc/b", "dc/c", "dc/d"), nil); again != second {
		t.Error("an equal Inventory is another one")
	}
}

// TestInventoryProperties checks what holds after any history: each device of the Tree and of a
// claim is offered or skipped, names are valid and unique, and the held one of equal names is
// offered.
func TestInventoryProperties(t *testing.T) {
	ids := rapid.SampledFrom([]string{"a", "A", "b:c", "b.c", "b-c", "d", "..", "0000:6b:00.1"})
	rapid.Check(t, func(rt *rapid.T) {
		var last *Inventory
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			b := new(devtree.Tree).Edit()
			devices := map[string]bool{} // "resource/ID"
			for range rapid.IntRange(0, 8).Draw(rt, "devices") {
				resource := rapid.SampledFrom([]string{"cy", "dc"}).Draw(rt, "resource")
				id := ids.Draw(rt, "id")
				if err := b.Put(resource, healthy(id)); err != nil {
					rt.Fatal(err)
				}
				devices[resource+"/"+id] = true
			}
			claimed := held(rapid.SliceOfNDistinct(ids, 0, 3, rapid.ID).Draw(rt, "held")...)
			all := maps.Clone(devices)
			for id := range claimed {
				if !devices["cy/"+id] && !devices["dc/"+id] {
					all["?/"+id] = true
				}
			}
			next := New(last, b.Build(), claimed)
			if len(next.Devices)+len(next.Skipped) != len(all) {
				rt.Fatalf("%d devices make\n%s", len(all), text(next))
			}
			names := map[string]bool{}
			for _, d := range next.Devices {
				if errs := validation.IsDNS1123Label(d.Name); len(errs) > 0 || names[d.Name] {
					rt.Fatalf("name %q is invalid or not unique: %v", d.Name, errs)
				}
				names[d.Name] = true
				if d.Gone == (devices["cy/"+d.Device.ID] || devices["dc/"+d.Device.ID]) {
					rt.Fatalf("device %s is gone: %t", d.Device.ID, d.Gone)
				}
			}
			byName := func(a, b *Device) int { return strings.Compare(a.Name, b.Name) }
			if !slices.IsSortedFunc(next.Devices, byName) {
				rt.Fatalf("not sorted:\n%s", text(next))
			}
			for id := range claimed {
				if name := deviceName(id); name != "" && claimed[next.Find(name).Device.ID] == nil {
					rt.Fatalf("the held device %s is not offered:\n%s", id, text(next))
				}
			}
			if again := New(next, b.Build(), claimed); again != next {
				rt.Fatalf("an equal Inventory is another one:\n%s", text(again))
			}
			last = next
		}
	})
}
