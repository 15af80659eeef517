// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEachEntryIsInOneFile(t *testing.T) {
	entries := func(names string) (list []*entry) {
		for _, name := range strings.Fields(names) {
			list = append(list, &entry{name: name})
		}
		return list
	}
	text := func(list []*entry) string {
		var names []string
		for _, e := range list {
			names = append(names, e.name)
		}
		return strings.Join(names, " ")
	}
	for _, tt := range []struct {
		name        string
		wanted      string
		own, others map[int]string // what the files define, by number
		want        map[int]string // entries that the own files must hold
		kept        map[int]string // ... and may hold until a Tree is published
		wantNew     string
		wantRefused map[int]int // number of entries, by file
	}{
		{name: "nothing"},
		{name: "no file yet", wanted: "a b", wantNew: "a b"},
		{
			name: "one file", wanted: "a b",
			own: map[int]string{1: "a c"}, kept: map[int]string{1: "a c"}, wantNew: "a b",
		},
		{
			name: "entries stay where they are", wanted: "a b c",
			own: map[int]string{1: "a", 3: "b d"}, want: map[int]string{1: "a", 3: "b"},
			kept: map[int]string{1: "a", 3: "b d"}, wantNew: "c",
		},
		{
			name: "another process has some", wanted: "a b c",
			own: map[int]string{2: "b"}, others: map[int]string{1: "a x", 3: "y"},
			want: map[int]string{2: "b"}, kept: map[int]string{2: "b"}, wantNew: "c", wantRefused: map[int]int{1: 1},
		},
		{
			name: "lower number of another process wins", wanted: "a b",
			own: map[int]string{2: "a b"}, others: map[int]string{1: "a", 3: "b"},
			want: map[int]string{2: "b"}, kept: map[int]string{2: "b"}, wantRefused: map[int]int{1: 1},
		},
		{
			name: "two own files define one", wanted: "a b",
			own: map[int]string{1: "a", 2: "a b"}, want: map[int]string{1: "a", 2: "b"},
			kept: map[int]string{1: "a", 2: "b"},
		},
		{
			name: "only others have files", wanted: "a b", others: map[int]string{1: "a", 2: "z"},
			wantNew: "b", wantRefused: map[int]int{1: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var own []*file
			var others []*otherFile
			for n := range 4 {
				if names, exists := tt.own[n]; exists {
					own = append(own, &file{n: n, entries: entries(names)})
				}
				if names, exists := tt.others[n]; exists {
					others = append(others, &otherFile{n: n, spec: spec{entries: entries(names)}})
				}
			}
			a := assign(entries(tt.wanted), own, others)
			got, kept, refused := map[int]string{}, map[int]string{}, map[int]int{}
			for _, f := range own {
				kept[f.n] = text(a.kept(f))
				if list := a.files[f]; list != nil {
					got[f.n] = text(list)
				}
			}
			for o, n := range a.others {
				refused[o.n] = n
			}
			for _, diff := range []string{
				cmp.Diff(tt.want, got, equateEmpty), cmp.Diff(tt.kept, kept, equateEmpty),
				cmp.Diff(tt.wantNew, text(a.new)), cmp.Diff(tt.wantRefused, refused, equateEmpty),
			} {
				if diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestNewEntriesAreSortedIntoTheFile(t *testing.T) {
	f := &file{n: 1}
	a := assignment{
		files: map[*file][]*entry{f: {{name: "b"}, {name: "d"}}},
		new:   []*entry{{name: "a"}, {name: "c"}, {name: "e"}},
	}
	a.place(f)
	var got []string
	for _, e := range a.files[f] {
		got = append(got, e.name)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, got); diff != "" || a.new != nil {
		t.Errorf("new: %v, file (-want +got):\n%s", a.new, diff)
	}
}
