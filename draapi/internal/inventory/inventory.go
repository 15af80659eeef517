// SPDX-License-Identifier: Apache-2.0

// Package inventory combines the newest Tree with the devices that claims hold. The result is the
// pool of devices that the driver offers.
//
// # Names
//
// The name of a device in the pool is made from its ID alone, so that it stays the same when the
// device changes its resource: lower case, with '-' for each character that a DNS label does not
// allow. "0000:6b:00.1" becomes "0000-6b-00-1". If two devices have the same name, the one that a
// claim holds is offered, or else the one that was offered before, or else the first by resource
// and ID. The other one is skipped.
//
// # Devices that have gone
//
// A device that a claim holds stays in the pool when it leaves the Tree, so that its taint and its
// health reach the pods that use it. It stays until the claim is unprepared.
package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qatplugin/devtree"
)

// maxName is the length of a DNS label, in bytes
// (k8s.io/apimachinery/pkg/util/validation, DNS1123LabelMaxLength).
const maxName = 63

// An Inventory is what the driver offers at one time. It does not change.
type Inventory struct {
	Devices []*Device // sorted by Name
	Skipped []error   // devices that DRA cannot describe, and why
}

// A Device is a device of the pool. It must not be modified.
type Device struct {
	Name     string          // of the device in the pool: a DNS label
	Resource string          // of the Tree, without the namespace; of a device that has gone, the last known
	Device   *devtree.Device // unchanged devices are the same pointer; of a device that has gone, the last known state
	Gone     bool            // it has left the Tree, and a claim still holds it
}

// New returns the Inventory of a Tree. held are the devices that claims hold, by ID. They are the
// last known states, which are only used for devices that are neither in tree nor in prev: the
// resource of such a device is unknown and remains empty. prev is the previous Inventory, or nil.
// Devices that did not change are the same pointers as in prev, and if nothing changed, New returns
// prev itself.
func New(prev *Inventory, tree *devtree.Tree, held map[string]*devtree.Device) *Inventory {
	before := map[string]*Device{}
	if prev != nil {
		for _, d := range prev.Devices {
			before[d.Name] = d
		}
	}
	candidates := candidates(before, tree, held)
	chosen := make(map[string]*Device, len(candidates)) // by name
	for _, d := range candidates {
		if other := chosen[d.Name]; other == nil || rank(d, before, held) > rank(other, before, held) {
			chosen[d.Name] = d
		}
	}

	next := &Inventory{}
	for _, d := range candidates {
		winner := chosen[d.Name]
		switch {
		case d.Name == "":
			next.Skipped = append(next.Skipped, fmt.Errorf(
				"skip device %q of resource %q: its ID has no letter or digit to name it by", d.Device.ID, d.Resource))
		case d != winner:
			next.Skipped = append(next.Skipped, fmt.Errorf(
				"skip device %q of resource %q: device %q of resource %q has the same name in the pool, %q",
				d.Device.ID, d.Resource, winner.Device.ID, winner.Resource, d.Name))
		case before[d.Name].equal(d):
			next.Devices = append(next.Devices, before[d.Name])
		default:
			next.Devices = append(next.Devices, d)
		}
	}
	slices.SortFunc(next.Devices, func(a, b *Device) int { return cmp.Compare(a.Name, b.Name) })
	if prev != nil && slices.Equal(prev.Devices, next.Devices) &&
		slices.EqualFunc(prev.Skipped, next.Skipped, func(a, b error) bool { return a.Error() == b.Error() }) {
		return prev
	}
	return next
}

// candidates returns all devices of the tree, and then the held ones that are not in it. before are
// the devices of the previous Inventory, by name.
func candidates(before map[string]*Device, tree *devtree.Tree, held map[string]*devtree.Device) (all []*Device) {
	exists := map[string]bool{} // by ID
	for r := range tree.Resources() {
		for d := range r.Devices() {
			exists[d.ID] = true
			all = append(all, &Device{Name: deviceName(d.ID), Resource: r.Name(), Device: d})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(held)) {
		if exists[id] {
			continue
		}
		gone := &Device{Name: deviceName(id), Device: held[id], Gone: true}
		if gone.Device == nil {
			gone.Device = &devtree.Device{ID: id}
		}
		if last := before[gone.Name]; last != nil && last.Device.ID == id {
			gone.Resource, gone.Device = last.Resource, last.Device
		}
		all = append(all, gone)
	}
	return all
}

// rank compares devices with equal names: the one with the higher rank is offered.
func rank(d *Device, before map[string]*Device, held map[string]*devtree.Device) (r int) {
	if _, isHeld := held[d.Device.ID]; isHeld {
		r += 2
	}
	if last := before[d.Name]; last != nil && last.Device.ID == d.Device.ID && last.Resource == d.Resource {
		r++
	}
	return r
}

// Find returns the device with that name, or nil.
func (i *Inventory) Find(name string) *Device {
	if i == nil {
		return nil
	}
	k, found := slices.BinarySearchFunc(i.Devices, name, func(d *Device, name string) int {
		return strings.Compare(d.Name, name)
	})
	if !found {
		return nil
	}
	return i.Devices[k]
}

func (d *Device) equal(other *Device) bool {
	return d != nil && d.Name == other.Name && d.Resource == other.Resource && d.Gone == other.Gone &&
		d.Device.Equal(other.Device)
}

// deviceName returns the name in the pool of the device with that ID, or "" if the ID has neither a
// letter nor a digit of ASCII.
func deviceName(id string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + ('a' - 'A')
		}
		return '-'
	}, id)
	name = strings.TrimLeft(name, "-")
	return strings.TrimRight(name[:min(len(name), maxName)], "-")
}
