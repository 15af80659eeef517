package devtree

// After is the Tree that says what t says and comes next after prev. It is for those who do not follow changes, but build a whole Tree each
// time that they looked: a resource or device that says the same as in prev is the same pointer, a resource that only prev has stays and
// is empty, and when nothing changed the result is prev itself. Neither t nor prev changes; either may be nil.
func (t *Tree) After(prev *Tree) *Tree {
	if prev == nil {
		prev = &Tree{}
	}
	next := &Tree{generation: prev.generation + 1}
	changed := false
	for _, name := range resourceNames(prev, t) {
		old, now := prev.Resource(name), t.Resource(name)
		r := now.after(name, old)
		changed = changed || r != old
		next.resources = append(next.resources, r)
	}
	if !changed {
		return prev
	}
	return next
}

// after is the resource of that name with the devices of r, sharing with old what says the same. Both may be nil, not both at once.
func (r *Resource) after(name string, old *Resource) *Resource {
	if r == old {
		return old
	}
	next := &Resource{name: name}
	same := old != nil && old.Len() == r.Len()
	if r.Len() > 0 {
		next.devices = make([]*Device, len(r.devices))
	}
	i := 0 // walks the old devices; both are ascending by ID
	for k := range next.devices {
		d := r.devices[k]
		for i < old.Len() && old.devices[i].ID < d.ID {
			i++
		}
		if i < old.Len() && d.Equal(old.devices[i]) {
			d = old.devices[i]
		} else {
			same = false
		}
		next.devices[k] = d
	}
	if same {
		return old
	}
	return next
}
