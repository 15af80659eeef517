// SPDX-License-Identifier: Apache-2.0

package devtree

import "slices"

// After returns a Tree with the devices of t as the successor of prev. It is for plugins
// that rescan all devices and build each Tree from nothing. A resource or device that is
// equal to the one in prev becomes the same pointer, and a resource that only prev has
// becomes empty. If nothing changed, After returns prev itself. It modifies neither t nor
// prev, and either may be nil.
func (t *Tree) After(prev *Tree) *Tree {
	if prev == nil {
		prev = &Tree{}
	}
	next := &Tree{generation: prev.generation + 1}
	changed := false
	for _, name := range resourceNames(prev, t) {
		old := prev.Resource(name)
		r := old
		if devices, same := shareDevices(t.Resource(name).list(), old.list()); !same || old == nil {
			r = &Resource{name: name, devices: devices}
			changed = true
		}
		next.resources = append(next.resources, r)
	}
	if !changed {
		return prev
	}
	return next
}

// shareDevices returns devices with each one that is equal to one in old replaced by it,
// and reports whether the result is old. Both lists are ascending by ID.
func shareDevices(devices, old []*Device) (shared []*Device, same bool) {
	shared, same = slices.Clone(devices), len(devices) == len(old)
	i := 0 // index into old
	for k, d := range devices {
		for i < len(old) && old[i].ID < d.ID {
			i++
		}
		if i < len(old) && d.Equal(old[i]) {
			shared[k] = old[i]
		} else {
			same = false
		}
	}
	return shared, same
}
