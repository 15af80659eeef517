// SPDX-License-Identifier: Apache-2.0

package cdi

import "slices"

// assignment maps files to the entries of a class that they must hold. A runtime refuses a device
// that two files define, so an entry is in one file at most.
type assignment struct {
	files   map[*file][]*entry    // entries ascending by name; a missing file must hold none
	others  map[*otherFile]int    // number of wanted entries that a file of another process defines
	refused map[string]*otherFile // name of the device → file of another process that defines it
	new     []*entry              // wanted entries that no file defines
}

// assign assigns the wanted entries to the own files. Own files and those of others are ascending
// by number. An entry stays in the file that defines it. If the file of another process defines it
// too, as happens when two processes write at the same time, the file with the lower number wins.
func assign(wanted []*entry, own []*file, others []*otherFile) assignment {
	a := assignment{files: map[*file][]*entry{}, others: map[*otherFile]int{}, refused: map[string]*otherFile{}}
	if len(own) <= 1 && len(others) == 0 {
		a.new = wanted // all go to the one file of this process
		return a
	}
	for _, e := range wanted {
		home := slices.IndexFunc(own, func(f *file) bool { return f.defines(e.name) })
		rival := slices.IndexFunc(others, func(o *otherFile) bool { return o.defines(e.name) })
		switch {
		case rival >= 0 && (home < 0 || others[rival].n < own[home].n):
			a.refused[e.name] = others[rival]
			a.others[others[rival]]++
		case home >= 0:
			a.files[own[home]] = append(a.files[own[home]], e)
		default:
			a.new = append(a.new, e)
		}
	}
	return a
}

// place adds the new entries to the file.
func (a *assignment) place(f *file) {
	a.files[f] = union(a.files[f], a.new)
	a.new = nil
}

// kept returns the entries of the file that may stay in it until a Tree without them is published.
// An entry that is assigned to another file, or that another process defines, must not stay.
func (a *assignment) kept(f *file) []*entry {
	if len(a.refused) == 0 && len(a.files) <= 1 {
		return f.entries
	}
	return slices.DeleteFunc(slices.Clone(f.entries), func(e *entry) bool {
		if a.refused[e.name] != nil {
			return true
		}
		for other, list := range a.files {
			if other != f {
				if _, found := slices.BinarySearchFunc(list, e.name, compareName); found {
					return true
				}
			}
		}
		return false
	})
}
