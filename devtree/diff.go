package devtree

import (
	"slices"
	"strings"
)

// Change is what differs for one device between two Trees.
type Change struct {
	Resource string
	Old      *Device // nil: the device was added to the resource
	New      *Device // nil: the device was removed from the resource
}

// Diff lists what changed from old to new: by resource, then by device ID, ascending. Either may be nil. Its cost is that of the
// resources that differ, not of the Trees. An empty resource that came or went is no change of a device and not listed.
func Diff(old, new *Tree) []Change {
	var changes []Change
	for _, name := range resourceNames(old, new) {
		a, b := old.Resource(name), new.Resource(name)
		if a != b {
			changes = diffResource(changes, name, a, b)
		}
	}
	return changes
}

// resourceNames are the names of the resources of both Trees, ascending, each once.
func resourceNames(old, new *Tree) []string {
	var names []string
	for _, t := range []*Tree{old, new} {
		for r := range t.Resources() {
			names = append(names, r.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func diffResource(changes []Change, name string, old, new *Resource) []Change {
	var a, b []*Device
	if old != nil {
		a = old.devices
	}
	if new != nil {
		b = new.devices
	}
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(b) == 0:
			order = -1
		case len(a) == 0:
			order = 1
		default:
			order = strings.Compare(a[0].ID, b[0].ID)
		}
		switch {
		case order < 0:
			changes, a = append(changes, Change{Resource: name, Old: a[0]}), a[1:]
		case order > 0:
			changes, b = append(changes, Change{Resource: name, New: b[0]}), b[1:]
		default:
			if a[0] != b[0] && !a[0].Equal(b[0]) {
				changes = append(changes, Change{Resource: name, Old: a[0], New: b[0]})
			}
			a, b = a[1:], b[1:]
		}
	}
	return changes
}
