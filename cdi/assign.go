// SPDX-License-Identifier: Apache-2.0

package cdi

import "slices"

// assignment says which file is to hold which entries of a class. A runtime refuses a device that
// two files define, so an entry is in one file at most.
type assignment struct {
	files   map[*file][]*entry    // ascending by name; a file that is not in it holds none
	others  map[*otherFile]int    // how many wanted entries the files of other processes define
	refused map[string]*otherFile // ... by name of the device
	new     []*entry              // what no file is known to define
}

// assign assigns the wanted entries to the own files. Own files and those of others are ascending
// by number. An entry stays in the file that defines it. If the file of another process defines it
// too, as happens when two processes write at the same time, the file with the lower number wins.
func assign(wanted []*entry, own []*file, others []*otherFile) assignment {
	a := assignment{files: map[*file][]*entry{}, others: map[*otherFile]int{}, refused: map[string]*otherFile{}}
	if len(own) <= 1 && len(others) == 0 {
		a.new = wanted // the caller has one file for all
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
// An entry that another file is to hold, or that another process defines, may not.
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
