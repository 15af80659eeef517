package devtree

import "slices"

// Builder makes a Tree from the one before it. It is for one goroutine; the Tree it started from does not change.
type Builder struct {
	prev      *Tree
	resources []*Resource
	shared    bool               // resources is still prev's slice
	owned     map[*Resource]bool // resources that this Builder made and may change
}

// Edit starts a Builder whose Tree is, so far, t itself. A nil Tree is an empty one.
func (t *Tree) Edit() *Builder {
	if t == nil {
		t = &Tree{}
	}
	return &Builder{prev: t, resources: t.resources, shared: true, owned: map[*Resource]bool{}}
}

// Put adds the device to the resource, or replaces the one of that ID. A device that is Equal to the one there changes nothing.
// The Builder keeps a copy. An error names the rule that is broken; the Builder is then as it was and may be used on.
func (b *Builder) Put(resource string, d *Device) error {
	if err := d.check(); err != nil {
		return err
	}
	if err := b.Keep(resource); err != nil {
		return err
	}
	r := b.resources[b.index(resource)]
	i, there := r.find(d.ID)
	if there && r.devices[i].Equal(d) {
		return nil
	}
	r = b.own(resource)
	kept := b.prev.Resource(resource).Device(d.ID)
	if !d.Equal(kept) { // else it changed back, or was removed, and is again what it was
		kept = d.clone()
	}
	if there {
		r.devices[i] = kept
	} else {
		r.devices = slices.Insert(r.devices, i, kept)
	}
	return nil
}

// Remove takes the device out of the resource; one that is not there is fine. The resource stays, if need be empty.
func (b *Builder) Remove(resource, id string) {
	i := b.index(resource)
	if i < 0 {
		return
	}
	if k, there := b.resources[i].find(id); there {
		r := b.own(resource)
		r.devices = slices.Delete(r.devices, k, k+1)
	}
}

// Keep makes sure that the resource is in the Tree, if need be with no devices.
func (b *Builder) Keep(resource string) error {
	if b.index(resource) >= 0 {
		return nil
	}
	if err := CheckResourceName(resource); err != nil {
		return err
	}
	b.unshare()
	t := Tree{resources: b.resources}
	i, _ := t.find(resource)
	r := &Resource{name: resource}
	b.owned[r] = true
	b.resources = slices.Insert(b.resources, i, r)
	return nil
}

// Build makes the Tree and starts the Builder anew from it. When nothing changed, or what changed was changed back, it returns the Tree
// that the Builder started from, the same pointer; a resource or device that did not change is the same pointer too.
func (b *Builder) Build() *Tree {
	changed := len(b.resources) != len(b.prev.resources)
	for i, r := range b.resources {
		if !b.owned[r] {
			continue
		}
		if old := b.prev.Resource(r.name); old != nil && slices.Equal(old.devices, r.devices) {
			b.resources[i] = old // changed and changed back
			continue
		}
		changed = true
	}
	if !changed {
		return b.prev
	}
	next := &Tree{generation: b.prev.generation + 1, resources: b.resources}
	*b = *next.Edit()
	return next
}

func (b *Builder) index(resource string) int {
	t := Tree{resources: b.resources}
	if i, ok := t.find(resource); ok {
		return i
	}
	return -1
}

func (b *Builder) unshare() {
	if b.shared {
		b.resources = slices.Clone(b.resources)
		b.shared = false
	}
}

// own returns the resource, which must be there, as one that this Builder may change.
func (b *Builder) own(resource string) *Resource {
	i := b.index(resource)
	r := b.resources[i]
	if !b.owned[r] {
		b.unshare()
		r = &Resource{name: r.name, devices: slices.Clone(r.devices)}
		b.owned[r] = true
		b.resources[i] = r
	}
	return r
}
