// SPDX-License-Identifier: Apache-2.0

package lookalike

import "path"

// show sets the value of an attribute that users write to. It leaves a user's write alone that
// Serve has yet to handle. For the attribute that requested this operation, a pending write is
// the rest of the same write: a shell truncates the file, then writes.
func (o *op) show(pf *function, name, value string) {
	file := path.Join(pf.dir(o.h), name)
	switch now := read(file); {
	case now == value:
	case o.h.server != nil && (now != pf.shown[name] || o.taken != name && o.h.server.pending(file)):
		return
	default:
		o.replace(file, value)
	}
	pf.shown[name] = value
}

// take reads an attribute after a user's write. If the text is not its value already, ok is true
// and the write counts as handled. An empty file is one that a shell has truncated and is about
// to write.
func (o *op) take(pf *function, name, value string) (text string, ok bool) {
	text = read(path.Join(pf.dir(o.h), name))
	if text == "" || text == value {
		o.ignored = true
		return text, false
	}
	o.taken, pf.shown[name] = name, text
	return text, true
}

// restore sets an attribute to its value after a user's write, above all after a refused one.
func (o *op) restore(pf *function, name, value string) {
	o.tryAnyway(func() { o.show(pf, name, value) })
}

// SetAttr sets an attribute of a function ("numa_node", "qat/auto_reset") atomically. It creates
// a missing attribute. It does nothing that a kernel would do on such a write.
func (h *Host) SetAttr(address, name, value string) error {
	return h.doFunction("set "+name+" of", address, func(o *op, d *function) {
		o.Value = value
		file := path.Join(d.dir(h), name)
		o.mkdir(path.Dir(file))
		o.markVisible()
		o.replace(file, value)
		if d.shown != nil {
			d.shown[name] = value
		}
	})
}

// RemoveAttr removes an attribute, or a group of them such as "qat", as on a kernel without it.
func (h *Host) RemoveAttr(address, name string) error {
	return h.doFunction("remove "+name+" of", address, func(o *op, d *function) {
		o.markVisible()
		o.removeAll(path.Join(d.dir(h), name))
	})
}
