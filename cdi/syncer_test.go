// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestSpecIsOnDiskBeforeItsDeviceIsPublished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run/cdi") // does not exist yet
	s := startSyncer(dir, "vf")
	s.onPublish = func(tree *devtree.Tree) {
		if diff := cmp.Diff(names(tree), runtimeDevices(t, dir)); diff != "" {
			t.Errorf("published, and on disk (-want +got):\n%s", diff)
		}
	}
	tree := with(t, nil, "yellow", color("1"))
	s.mustSync(t, tree)
	s.mustSync(t, with(t, tree, "yellow", color("2")))
	if diff := cmp.Diff([]string{vendor + "/vf=1", vendor + "/vf=2"}, names(s.out)); diff != "" {
		t.Errorf("published names (-want +got):\n%s", diff)
	}
}

func TestChangedSpecIsOnDiskBeforeItsDeviceIsPublished(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	s.onPublish = func(tree *devtree.Tree) {
		env := openRuntime(t, dir).GetDevice(vendor + "/vf=1").ContainerEdits.Env
		if !slices.Contains(env, "PAINT=blue") || len(names(tree)) != 1 {
			t.Errorf("published %v, and the environment on disk is %v", names(tree), env)
		}
	}
	s.mustSync(t, with(t, nil, "yellow", painted("1", "blue")))
}

func TestSpecStaysOnDiskUntilATreeWithoutTheDeviceIsPublished(t *testing.T) {
	both := with(t, with(t, nil, "yellow", color("1"), color("2")), "blue", color("3"))
	for _, tt := range []struct {
		name    string
		restart bool // the specs are those of a former run
		next    *devtree.Tree
		want    []string // on disk afterwards
	}{
		{"one of a class", false, without(both, "yellow", "2"), []string{"blue=3", "yellow=1"}},
		{"last of a class", false, without(both, "blue", "3"), []string{"yellow=1", "yellow=2"}},
		{"resource is gone", false, with(t, nil, "blue", color("3")), []string{"blue=3"}},
		{"all", false, nil, nil},
		{"class of a former run", true, with(t, nil, "blue", color("3")), []string{"blue=3"}},
		{"all classes of a former run", true, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := startSyncer(dir, "")
			s.mustSync(t, both)
			if tt.restart {
				s.close()
				s = startSyncer(dir, "")
			}
			published := false
			s.onPublish = func(*devtree.Tree) {
				published = true
				want := []string{vendor + "/blue=3", vendor + "/yellow=1", vendor + "/yellow=2"}
				if diff := cmp.Diff(want, runtimeDevices(t, dir)); diff != "" {
					t.Errorf("on disk when the Tree is published (-want +got):\n%s", diff)
				}
			}
			s.mustSync(t, tt.next)
			want := []string{}
			for _, name := range tt.want {
				want = append(want, vendor+"/"+name)
			}
			if diff := cmp.Diff(want, runtimeDevices(t, dir)); diff != "" || !published {
				t.Errorf("published: %t, on disk afterwards (-want +got):\n%s", published, diff)
			}
			if left := fileNames(t, dir); len(want) == 0 && len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestResourceWithoutDevicesIsPublishedEmptyAndDroppedOneIsNot(t *testing.T) {
	s := startSyncer(t.TempDir(), "")
	b := new(devtree.Tree).Edit()
	if err := b.Keep("blue"); err != nil {
		t.Fatal(err)
	}
	both := with(t, b.Build(), "yellow", color("1"))
	s.mustSync(t, both)
	b = both.Edit()
	b.Remove("yellow", "1")
	empty := b.Build()
	s.mustSync(t, empty)
	for _, name := range []string{"blue", "yellow"} {
		if r := s.out.Resource(name); r == nil || r.Len() != 0 {
			t.Errorf("resource %s is published as %v, want an empty one", name, r)
		}
	}
	b = empty.Edit()
	b.Drop("blue")
	s.mustSync(t, b.Build())
	if s.out.Resource("blue") != nil || s.out.Resource("yellow") == nil {
		t.Errorf("published after blue is dropped:\n%s", s.out)
	}
	s.mustSync(t, nil)
	if got := s.out.String(); got != "" {
		t.Errorf("published after all are dropped:\n%s", got)
	}
}

func TestUnchangedTreeIsNotPublishedOrWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	s.onPublish = func(*devtree.Tree) { t.Error("published again") }
	s.writeErr = syscall.EIO
	entry := s.devices["yellow"]["1"].entry
	s.mustSync(t, with(t, nil, "yellow", color("1"))) // another Tree that says the same
	if s.devices["yellow"]["1"].entry != entry {
		t.Error("the entry was rendered again")
	}
	if n := s.log.count("CDI specs changed"); n != 1 {
		t.Errorf("%d changes logged, want 1:\n%s", n, &s.log)
	}
}

func TestChangeOfHealthIsPublishedAndNotWritten(t *testing.T) {
	s := startSyncer(t.TempDir(), "vf")
	tree := with(t, nil, "yellow", color("1"), color("2"))
	s.mustSync(t, tree)
	s.writeErr = syscall.EIO
	ill := color("1")
	ill.Health, ill.Reason = devtree.Unhealthy, "on fire"
	s.mustSync(t, with(t, tree, "yellow", ill))
	if d := s.out.Resource("yellow").Device("1"); d.Health != devtree.Unhealthy || len(d.CDINames) != 1 {
		t.Errorf("published as %+v", d)
	}
}

func TestChangeOfAttributesIsPublishedAndNotWritten(t *testing.T) {
	s := startSyncer(t.TempDir(), "vf")
	tree := with(t, nil, "yellow", color("1"), color("2"))
	s.mustSync(t, tree)
	s.writeErr = syscall.EIO
	entry := s.devices["yellow"]["1"].entry
	deep := color("1")
	deep.Attributes = map[string]any{"depth": int64(3)}
	s.mustSync(t, with(t, tree, "yellow", deep))
	d := s.out.Resource("yellow").Device("1")
	if d.Attributes["depth"] != int64(3) || len(d.CDINames) != 1 || s.devices["yellow"]["1"].entry != entry {
		t.Errorf("published as %+v with entry %p, want the entry %p", d, s.devices["yellow"]["1"].entry, entry)
	}
}

func TestDeletedFileIsWrittenWithTheNextTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cdi")
	s := startSyncer(dir, "vf")
	tree := with(t, nil, "yellow", color("1"))
	s.mustSync(t, tree)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.mustSync(t, tree)
	if diff := cmp.Diff([]string{vendor + "/vf=1"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}

// If the file is gone and cannot be written again, its devices lose their names.
func TestDeletedFileTakesTheNamesAway(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	tree := with(t, nil, "yellow", color("1"))
	s.mustSync(t, tree)
	if err := os.Remove(specPath(dir, "vf")); err != nil {
		t.Fatal(err)
	}
	s.writeErr = syscall.ENOSPC
	if found := s.sync(tree); !found.retryable() || len(names(s.out)) > 0 {
		t.Errorf("found %v, published the names %v", found, names(s.out))
	}
}

func TestFailedWriteKeepsTheNamesOfWhatIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.mustSync(t, with(t, nil, "yellow", color("1"), color("2"), color("3")))
	s.writeErr = syscall.ENOSPC
	next := with(t, nil, "yellow", color("1"), painted("2", "blue"), color("4"))
	if found := s.sync(next); !found.retryable() {
		t.Errorf("found %v", found)
	}
	if diff := cmp.Diff([]string{vendor + "/vf=1"}, names(s.out)); diff != "" {
		t.Errorf("published names (-want +got):\n%s", diff)
	}
	if n := s.out.Resource("yellow").Len(); n != 3 {
		t.Errorf("%d devices published, want 3", n)
	}
	s.writeErr = nil
	s.mustSync(t, next)
	if diff := cmp.Diff(runtimeDevices(t, dir), names(s.out)); diff != "" || len(names(s.out)) != 3 {
		t.Errorf("on disk, and published (-want +got):\n%s", diff)
	}
}

// The specs of gone devices cannot be removed, and the new ones are on disk.
func TestFailedRemovalIsReported(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	tree := with(t, nil, "yellow", color("1"), color("2"))
	s.mustSync(t, tree)
	s.onPublish = func(*devtree.Tree) { s.writeErr = syscall.EROFS }
	if found := s.sync(without(tree, "yellow", "2")); !found.retryable() {
		t.Errorf("found %v", found)
	}
	s.onPublish, s.writeErr = nil, nil
	s.mustSync(t, without(tree, "yellow", "2"))
	if diff := cmp.Diff([]string{vendor + "/vf=1"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}

func TestFileInPlaceOfTheDirectoryIsReported(t *testing.T) {
	parent := t.TempDir()
	writeFile(t, filepath.Join(parent, "run"), "a file")
	s := startSyncer(filepath.Join(parent, "run/cdi"), "vf")
	found := s.sync(with(t, nil, "yellow", color("1")))
	for _, path := range []string{s.Dir, specPath(s.Dir, "vf")} {
		if err := found[path].err; err == nil || !strings.HasPrefix(remedy(err), "another file is in the way") {
			t.Errorf("found %v for %s", err, path)
		}
	}
	if d := s.out.Resource("yellow").Device("1"); d == nil || len(d.CDINames) > 0 {
		t.Errorf("the device is published as %+v", d)
	}
}

func TestDeviceThatCDICannotDescribeIsPublishedWithoutName(t *testing.T) {
	const conflict = "a device with other container edits has this CDI name"
	nothing := &devtree.Device{ID: "nothing", Health: devtree.Healthy}
	nothing.Annotations = map[string]string{"a": "b"} // CDI has none
	onlyNode, onlyMount, onlyEnv := color("node"), color("mount"), color("env")
	onlyNode.Mounts, onlyNode.Env = nil, nil
	onlyMount.DeviceNodes, onlyMount.Env = nil, nil
	onlyEnv.DeviceNodes, onlyEnv.Mounts = nil, nil
	named := color("named")
	named.CDINames = []string{"vendor.example.com/pot=7"}
	type devices map[string][]*devtree.Device
	for _, tt := range []struct {
		name, class string
		devices     devices
		want        []string          // names
		problems    map[string]string // by CDI name, how the error begins
	}{
		{"ID is not a CDI name", "vf", devices{"yellow": {color("/dev/1")}}, nil,
			map[string]string{vendor + "/vf=/dev/1": `CDI device name "/dev/1": `}},
		{"resource is not a class", "", devices{"7up": {color("1")}}, nil,
			map[string]string{vendor + "/7up=1": `CDI class "7up": `}},
		{"nothing to inject", "vf", devices{"yellow": {nothing}}, nil, nil},
		{"one kind of edit", "vf", devices{"yellow": {onlyEnv, onlyMount, onlyNode}},
			[]string{vendor + "/vf=env", vendor + "/vf=mount", vendor + "/vf=node"}, nil},
		{"ID in two classes", "", devices{"yellow": {color("1")}, "blue": {painted("1", "blue")}},
			[]string{vendor + "/blue=1", vendor + "/yellow=1"}, nil},
		{"ID in one class, other edits", "vf", devices{"yellow": {color("1")}, "blue": {painted("1", "blue")}},
			[]string{vendor + "/vf=1"}, map[string]string{vendor + "/vf=1": conflict}},
		{"ID in one class, same edits", "vf", devices{"yellow": {color("1")}, "blue": {color("1")}},
			[]string{vendor + "/vf=1", vendor + "/vf=1"}, nil},
		{"class with a dot, another vendor's name", "pot.full", devices{"yellow": {named}},
			[]string{"vendor.example.com/pot=7", vendor + "/pot.full=named"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := startSyncer(dir, tt.class)
			tree := with(t, nil, "yellow", color("good"))
			for resource, list := range tt.devices {
				tree = with(t, tree, resource, list...)
			}
			for range 2 { // the second time, nothing is rendered
				found := s.sync(tree)
				for name, p := range found {
					want, expected := tt.problems[name]
					if !expected || !strings.HasPrefix(p.err.Error(), want) {
						t.Errorf("problem of %s: %v", name, p.err)
					}
				}
				if len(found) != len(tt.problems) || found.retryable() {
					t.Errorf("found %v, want %v", found, tt.problems)
				}
			}
			isGood := func(name string) bool { return strings.HasSuffix(name, "=good") }
			got := slices.DeleteFunc(names(s.out), isGood)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("published names (-want +got):\n%s", diff)
			}
			if !slices.ContainsFunc(runtimeDevices(t, dir), isGood) {
				t.Error("the good device has no spec")
			}
		})
	}
}

// blue comes before yellow, and its device has the name.
func TestFirstResourceGetsAContestedName(t *testing.T) {
	s := startSyncer(t.TempDir(), "vf")
	tree := with(t, nil, "yellow", color("1"), color("9"))
	s.sync(tree)
	s.sync(with(t, tree, "blue", painted("1", "blue"), color("0"), color("5")))
	if got := s.out.Resource("blue").Device("1").CDINames; len(got) != 1 {
		t.Errorf("the blue device has the names %v", got)
	}
	if got := s.out.Resource("yellow").Device("1").CDINames; len(got) != 0 {
		t.Errorf("the yellow device has the names %v", got)
	}
}

// After any history of Trees and failures of the disk, once writing works again, a
// runtime finds exactly the devices of the newest Tree. At any time, the Tree that was
// published is the newest one, and its names are those of what a runtime finds.
func TestAnyHistoryEndsInTheNewestSpecs(t *testing.T) {
	parent := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(parent, strconv.Itoa(runs))
		class := rapid.SampledFrom([]string{"", "vf"}).Draw(rt, "class")
		s := startSyncer(dir, class)
		tree := &devtree.Tree{}
		for range rapid.IntRange(1, 15).Draw(rt, "trees") {
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				s.close()
				s = startSyncer(dir, class)
			}
			if rapid.IntRange(0, 9).Draw(rt, "deleted") == 0 {
				if err := os.RemoveAll(dir); err != nil {
					rt.Fatal(err)
				}
			}
			b := tree.Edit()
			if rapid.IntRange(0, 9).Draw(rt, "all new") == 0 {
				b = new(devtree.Tree).Edit()
			}
			for range rapid.IntRange(0, 4).Draw(rt, "changes") {
				resource := rapid.SampledFrom([]string{"yellow", "blue"}).Draw(rt, "resource")
				id := strconv.Itoa(rapid.IntRange(0, 5).Draw(rt, "id")) + resource[:1]
				paint := rapid.SampledFrom([]string{"", "wet", "dry"}).Draw(rt, "paint")
				if paint == "" {
					b.Remove(resource, id)
				} else if err := b.Put(resource, painted(id, paint)); err != nil {
					rt.Fatal(err)
				}
			}
			tree = b.Build()
			s.writeErr = nil
			if rapid.IntRange(0, 3).Draw(rt, "disk fails") == 0 {
				s.writeErr = os.ErrPermission
			}
			s.sync(tree)
			requireNamed(rt, dir, tree, s.out)
		}
		s.writeErr = nil
		s.mustSync(rt, tree)
		requireNamed(rt, dir, tree, s.out)
		want := []string{}
		for r := range tree.Resources() {
			for d := range r.Devices() {
				want = append(want, vendor+"/"+s.classOf(r.Name())+"="+d.ID)
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, runtimeDevices(rt, dir)); diff != "" {
			rt.Fatalf("on disk (-want +got):\n%s", diff)
		}
		if got := names(s.out); len(got) != len(want) {
			rt.Fatalf("published the names %v", got)
		}
		out := s.out
		if s.mustSync(rt, tree); s.out != out {
			rt.Fatal("the same Tree was published again")
		}
	})
}

// requireNamed checks that out is the Tree, and that each name in it is one that a
// runtime finds, with the edits of the device.
func requireNamed(t *rapid.T, dir string, tree, out *devtree.Tree) {
	t.Helper()
	runtime := openRuntime(t, dir)
	plain := out.Edit()
	for r := range out.Resources() {
		for d := range r.Devices() {
			if len(d.CDINames) > 1 {
				t.Fatalf("device %s has the names %q", d.ID, d.CDINames)
			}
			for _, name := range d.CDINames {
				found := runtime.GetDevice(name)
				if found == nil || !slices.Contains(found.ContainerEdits.Env, "PAINT="+d.Env["PAINT"]) {
					t.Fatalf("device %s (%v) is named %s, which is %+v", d.ID, d.Env, name, found)
				}
			}
			d := *d
			d.CDINames = nil
			if err := plain.Put(r.Name(), &d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !plain.Build().Equal(tree) {
		t.Fatalf("published:\n%swant:\n%s", plain.Build(), tree)
	}
}
