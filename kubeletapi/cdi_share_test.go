// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// onDisk returns the CDI names that a runtime finds in dir, ascending.
func onDisk(t *testing.T, dir string) []string {
	t.Helper()
	return openRuntime(t, dir).ListDevices()
}

// Two plugins of one vendor share a directory, also with the same class. The containers of both can
// be created at any time.
func TestPluginsOfANamespaceKeepEachOthersSpecs(t *testing.T) {
	for _, tt := range []struct {
		name          string
		first, second string   // classes
		want          []string // names of the device of the first plugin, and of the second
	}{
		{"resources as classes", "", "", []string{namespace + "/yellow=1", namespace + "/blue=2"}},
		{"two classes", "a", "b", []string{namespace + "/a=1", namespace + "/b=2"}},
		{"one class", "vf", "vf", []string{namespace + "/vf=1", namespace + "/vf=2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, specs := kubeletDir(t), t.TempDir()
			k := startKubelet(t, dir)
			first, second := newFakePlugin(), newFakePlugin()
			run(t, dir, first, WithCDI(specs, tt.first))
			first.publish(with(t, nil, "yellow", existing("1")))
			waitIDs(t, k, yellow, "1")
			r := run(t, dir, second, WithCDI(specs, tt.second))
			second.publish(with(t, nil, "blue", existing("2")))
			waitIDs(t, k, blue, "2")
			both := slices.Sorted(slices.Values(tt.want))
			eventually(t, "a runtime finds the devices of both", func() bool {
				return slices.Equal(both, onDisk(t, specs))
			})
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(both, onDisk(t, specs)); diff != "" {
				t.Errorf("after the second plugin ended (-want +got):\n%s", diff)
			}
			again := newFakePlugin() // the second plugin starts again, without its device
			run(t, dir, again, WithCDI(specs, tt.second))
			again.publish(tree(t, nil, "blue"))
			eventually(t, "a runtime finds only the device of the first plugin", func() bool {
				return slices.Equal(tt.want[:1], onDisk(t, specs))
			})
		})
	}
}

func TestDeletedOrForeignSpecIsRepairedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(path string) error
	}{
		{"deleted", os.Remove},
		{"moved away with the directory", func(path string) error {
			return os.Rename(filepath.Dir(path), filepath.Dir(path)+".away")
		}},
		{"written in place", func(path string) error { return os.WriteFile(path, []byte("{}"), 0o644) }},
		{"replaced", func(path string) error {
			if err := os.WriteFile(path+".new", []byte("{}"), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, specs, h := kubeletDir(t), filepath.Join(t.TempDir(), "cdi"), newFakePlugin()
			k := startKubelet(t, dir)
			run(t, dir, h, WithCDI(specs, "vf"))
			h.publish(with(t, nil, "yellow", existing("1")))
			waitIDs(t, k, yellow, "1")
			if err := tt.change(filepath.Join(specs, namespace+"-vf_device-plugin.json")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the device can be resolved again", func() bool {
				return slices.Equal([]string{namespace + "/vf=1"}, onDisk(t, specs))
			})
		})
	}
}

// A rolling update may start the new instance before the old one ends. A runtime can resolve the
// device of both instances at any time. In the end it finds the devices of the new instance.
func TestOverlappingHandOverOfSpecs(t *testing.T) {
	dir, specs := kubeletDir(t), t.TempDir()
	k := startKubelet(t, dir)
	before, after := newFakePlugin(), newFakePlugin()
	stays, changed := existing("1"), existing("1")
	changed.Env["PAINT"] = "blue"
	oldRun := run(t, dir, before, WithCDI(specs, "vf"))
	before.publish(with(t, with(t, nil, "yellow", stays), "yellow", existing("2")))
	waitIDs(t, k, yellow, "1", "2")

	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			if !slices.Contains(onDisk(t, specs), namespace+"/vf=1") {
				t.Error("a runtime cannot resolve the device that both instances have")
				return
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	}()
	run(t, dir, after, WithCDI(specs, "vf"))
	after.publish(with(t, with(t, nil, "yellow", changed), "yellow", existing("3")))
	eventually(t, "the device that only the new instance has is in a spec", func() bool {
		return slices.Contains(onDisk(t, specs), namespace+"/vf=3")
	})
	if err := oldRun.stop(); err != nil {
		t.Fatal(err)
	}
	want := []string{namespace + "/vf=1", namespace + "/vf=3"}
	eventually(t, "the specs are those of the new instance", func() bool {
		found := openRuntime(t, specs)
		return slices.Equal(want, found.ListDevices()) &&
			slices.Contains(found.GetDevice(want[0]).ContainerEdits.Env, "PAINT=blue")
	})
	close(ended)
	<-watched
	waitIDs(t, k, yellow, "1", "3")
	eventually(t, "Allocate returns the CDI name", func() bool {
		answer, err := k.Allocate(t.Context(), yellow, []string{"1"})
		if status.Code(err) == codes.Unavailable {
			return false
		}
		return err == nil && len(answer.ContainerResponses[0].CdiDevices) == 1
	})
	if errs := openRuntime(t, specs).GetErrors(); len(errs) > 0 {
		t.Errorf("the CDI library reports %v", errs)
	}
}
