// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestSpecTextIsOneLinePerDevice(t *testing.T) {
	d := &devtree.Device{ID: "1", Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/host", ContainerPath: "/dev/container", Permissions: "rw"},
			{HostPath: "/dev/same", ContainerPath: "/dev/same", Permissions: "r"},
		},
		Mounts: []devtree.Mount{
			{HostPath: "/a", ContainerPath: "/b", ReadOnly: true},
			{HostPath: "/c", ContainerPath: "/d"},
		},
		Env:         map[string]string{"C": "3", "A": "1", "B": "2"},
		Annotations: map[string]string{"ignored": "yes"},
	}}
	other := &devtree.Device{ID: "2", ContainerEdits: devtree.ContainerEdits{Env: map[string]string{"A": "1"}}}
	for _, tt := range []struct{ class, version string }{{"vf", "0.5.0"}, {"v.f", "0.6.0"}} {
		var list []*entry
		for _, d := range []*devtree.Device{d, other} {
			s, err := newEntry(tt.class, d)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, s)
		}
		want := `{"cdiVersion":"` + tt.version + `","kind":"color.example.com/` + tt.class + `","devices":[
{"name":"1","containerEdits":{"env":["A=1","B=2","C=3"],` +
			`"deviceNodes":[{"path":"/dev/container","hostPath":"/dev/host","permissions":"rw"},` +
			`{"path":"/dev/same","permissions":"r"}],` +
			`"mounts":[{"hostPath":"/a","containerPath":"/b","options":["rbind","rprivate","ro"]},` +
			`{"hostPath":"/c","containerPath":"/d","options":["rbind","rprivate","rw"]}]}},
{"name":"2","containerEdits":{"env":["A=1"]}}
],"containerEdits":{}}
`
		if diff := cmp.Diff(want, string(specText(vendor+"/"+tt.class, list))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestUnionPrefersWantedEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (list []*entry) {
			for _, c := range "abcdef" {
				if rapid.Bool().Draw(t, label+string(c)) {
					list = append(list, &entry{name: string(c), json: []byte(label)})
				}
			}
			return list
		}
		current, wanted := draw("current "), draw("wanted ")
		var got, want []string
		for _, s := range union(current, wanted) {
			got = append(got, string(s.json)+s.name)
		}
		for _, c := range "abcdef" {
			isC := func(s *entry) bool { return s.name == string(c) }
			for _, list := range [][]*entry{wanted, current} {
				if i := slices.IndexFunc(list, isC); i >= 0 {
					want = append(want, string(list[i].json)+list[i].name)
					break
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// FuzzEntry checks that a runtime reads what Put accepts as it was put.
func FuzzEntry(f *testing.F) {
	f.Add("1", "dev/a", "dev/b", "NAME", "value", "mnt", true)
	f.Add("a:b", "dev/\u00e9", " \t", "a b", "line\nline\\\"'", "#: {}[],&*!|>%@`", false)
	f.Add("0", "\u007f", "\u0085", "\ufeff", "\u2028\u2029\ufffe\uffff\U0001f600", "<&>", false)
	dir := f.TempDir()
	path := filepath.Join(dir, "spec.json")
	f.Fuzz(func(t *testing.T, id, host, container, name, value, mount string, readOnly bool) {
		d := &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{
				{HostPath: "/" + host, ContainerPath: "/" + container, Permissions: "rwm"},
			},
			Mounts: []devtree.Mount{{HostPath: "/" + mount, ContainerPath: "/" + container, ReadOnly: readOnly}},
			Env:    map[string]string{name: value},
		}}
		if err := new(devtree.Tree).Edit().Put("yellow", d); err != nil {
			return
		}
		e, err := newEntry("vf", d)
		if err != nil {
			return // an ID that is not a CDI name
		}
		if err := os.WriteFile(path, specText(vendor+"/vf", []*entry{e}), 0o644); err != nil {
			t.Fatal(err)
		}
		cache := openRuntime(t, dir)
		found := cache.GetDevice(vendor + "/vf=" + id)
		if found == nil {
			t.Fatalf("the runtime does not find the device: %v", cache.GetErrors())
		}
		if diff := cmp.Diff(containerEdits(&d.ContainerEdits), found.ContainerEdits); diff != "" {
			t.Errorf("put, and read by the runtime (-want +got):\n%s", diff)
		}
	})
}
