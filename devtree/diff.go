// SPDX-License-Identifier: Apache-2.0

package devtree

import "slices"

// Change is the difference between two Trees in one device of one resource.
type Change struct {
	Resource string
	Old      *Device // nil if the device was added
	New      *Device // nil if the device was removed
}

// Diff returns the changes from old to new, ascending by resource and device ID. Either
// Tree may be nil. An empty resource that appears or disappears is not a change.
// Resources that the Trees share cost nothing.
func Diff(old, new *Tree) []Change {
	var changes []Change
	for _, name := range resourceNames(old, new) {
		a, b := old.Resource(name), new.Resource(name)
		if a != b {
			changes = appendChanges(changes, name, a.list(), b.list())
		}
	}
	return changes
}

// resourceNames returns the names of the resources of both Trees, ascending, each once.
func resourceNames(a, b *Tree) []string {
	var names []string
	for _, t := range []*Tree{a, b} {
		for _, r := range t.list() {
			names = append(names, r.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func appendChanges(changes []Change, resource string, old, new []*Device) []Change {
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(old) > 0 && len(new) > 0 && old[0].ID == new[0].ID:
			if !old[0].Equal(new[0]) {
				changes = append(changes, Change{Resource: resource, Old: old[0], New: new[0]})
			}
			old, new = old[1:], new[1:]
		case len(new) == 0 || len(old) > 0 && old[0].ID < new[0].ID:
			changes = append(changes, Change{Resource: resource, Old: old[0]})
			old = old[1:]
		default:
			changes = append(changes, Change{Resource: resource, New: new[0]})
			new = new[1:]
		}
	}
	return changes
}
