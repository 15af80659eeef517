package deployments

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// places are all directories that kubectl apply -k is for, by the names of their files in testdata.
func places() map[string]string {
	places := others()
	for _, o := range overlays() {
		places[o.name] = o.dir
	}
	return places
}

func TestWhatAClusterGetsIsWhatTestdataHas(t *testing.T) {
	for name, dir := range places() {
		t.Run(name, func(t *testing.T) {
			got := kustomize(t, filepath.Join(manifests, dir))
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				must(t, os.WriteFile(file, []byte(got), 0o644))
			}
			if diff := cmp.Diff(string(readFile(t, file)), got); diff != "" {
				t.Errorf("deployments/%s renders something else than %s; if it is meant, run with -update (-want +got):\n%s", dir, file, diff)
			}
		})
	}
}

// A directory that nobody renders could hold anything.
func TestEveryKustomizationIsRendered(t *testing.T) {
	want := map[string]bool{"qat_plugin/base": true} // rendered as qat_plugin
	for _, dir := range places() {
		want[dir] = true
	}
	got := map[string]bool{}
	must(t, filepath.WalkDir(manifests, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == "kustomization.yaml" {
			dir, err := filepath.Rel(manifests, filepath.Dir(path))
			must(t, err)
			got[dir] = true
		}
		return err
	}))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("directories with a kustomization (-want +got):\n%s", diff)
	}
	files, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	for _, file := range files {
		if places()[strings.TrimSuffix(filepath.Base(file), ".yaml")] == "" {
			t.Errorf("%s is of no directory", file)
		}
	}
}

// Every line is one that a person reads on a screen or beside a diff.
func TestLinesAreNoLongerThanElsewhereInTheProject(t *testing.T) {
	must(t, filepath.WalkDir(manifests, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		number := 0
		for line := range strings.Lines(string(readFile(t, path))) {
			number++
			line = strings.TrimSuffix(line, "\n")
			if n := len([]rune(line)); n > 150 {
				t.Errorf("%s:%d has %d columns, more than 150", path, number, n)
			}
			if line != strings.TrimRight(line, " \t") {
				t.Errorf("%s:%d ends in white space", path, number)
			}
		}
		return nil
	}))
}
