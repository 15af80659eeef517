// SPDX-License-Identifier: Apache-2.0

package devtree

import "slices"

// Builder makes the successor of a Tree, which it does not modify. It must not be used by
// several goroutines at once.
type Builder struct {
	prev      *Tree
	resources []*Resource // ascending by name; those that are not in prev may be modified
}

// Edit returns a Builder whose Tree is t until something is put or removed. A nil Tree is
// an empty one.
func (t *Tree) Edit() *Builder {
	if t == nil {
		t = &Tree{}
	}
	return &Builder{prev: t, resources: slices.Clone(t.resources)}
}

// Put adds a copy of d to the resource or replaces the device that has its ID. If that
// device is equal to d, nothing changes. If d or the name of the resource breaks a rule,
// Put returns an error that states the rule, and the Builder remains as it was.
func (b *Builder) Put(resource string, d *Device) error {
	if err := d.check(); err != nil {
		return err
	}
	if err := b.Keep(resource); err != nil {
		return err
	}
	i, _ := findResource(b.resources, resource)
	k, exists := findDevice(b.resources[i].devices, d.ID)
	if exists && b.resources[i].devices[k].Equal(d) {
		return nil
	}
	stored := b.prev.Resource(resource).Device(d.ID) // share it if d undoes an earlier change
	if !d.Equal(stored) {
		stored = d.clone()
	}
	r := b.modifiable(i)
	if exists {
		r.devices[k] = stored
	} else {
		r.devices = slices.Insert(r.devices, k, stored)
	}
	return nil
}

// Remove removes the device from the resource, if it is there. The resource remains, even
// without devices.
func (b *Builder) Remove(resource, id string) {
	i, found := findResource(b.resources, resource)
	if !found {
		return
	}
	if k, found := findDevice(b.resources[i].devices, id); found {
		r := b.modifiable(i)
		r.devices = slices.Delete(r.devices, k, k+1)
	}
}

// Drop removes the resource with all of its devices, if it exists. After that, the Tree does not
// have the resource; after Remove of the last device, it has the resource without devices.
func (b *Builder) Drop(resource string) {
	if i, found := findResource(b.resources, resource); found {
		b.resources = slices.Delete(b.resources, i, i+1)
	}
}

// Keep ensures that the Tree has the resource, if necessary without devices. It returns
// an error if Kubernetes rejects the name of the resource.
func (b *Builder) Keep(resource string) error {
	i, found := findResource(b.resources, resource)
	if found {
		return nil
	}
	if err := checkResourceName(resource); err != nil {
		return err
	}
	b.resources = slices.Insert(b.resources, i, &Resource{name: resource})
	return nil
}

// Build returns the Tree. What did not change, or changed back, is the same pointer as in
// the Tree that b started from: a device, a resource, or the Tree itself. The Builder
// then starts again from the returned Tree.
func (b *Builder) Build() *Tree {
	for i, r := range b.resources {
		if old := b.prev.Resource(r.name); old != nil && old != r && slices.Equal(old.devices, r.devices) {
			b.resources[i] = old // changed back
		}
	}
	if slices.Equal(b.resources, b.prev.resources) {
		return b.prev
	}
	next := &Tree{generation: b.prev.generation + 1, resources: b.resources}
	*b = *next.Edit()
	return next
}

// modifiable returns the i-th resource for modification. If the resource is shared with
// prev, modifiable first replaces it with a copy.
func (b *Builder) modifiable(i int) *Resource {
	r := b.resources[i]
	if r == b.prev.Resource(r.name) {
		r = &Resource{name: r.name, devices: slices.Clone(r.devices)}
		b.resources[i] = r
	}
	return r
}
