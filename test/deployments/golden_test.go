// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// directories maps the names of files in testdata to the directories for kubectl apply
// -k.
func directories() map[string]string {
	all := maps.Clone(others)
	for _, o := range overlays {
		all[o.name] = o.dir
	}
	return all
}

func TestRenderedManifestsMatchTestdata(t *testing.T) {
	for name, dir := range directories() {
		t.Run(name, func(t *testing.T) {
			got := kustomize(t, filepath.Join(manifests, dir))
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				must(t, os.WriteFile(file, []byte(got), 0o644))
			}
			if diff := cmp.Diff(readFile(t, file), got); diff != "" {
				t.Errorf("deployments/%s does not render %s; run with -update if that is intended (-want +got):\n%s",
					dir, file, diff)
			}
		})
	}
}

func TestEveryKustomizationIsRendered(t *testing.T) {
	want := map[string]bool{"qat_plugin/base": true, "qat_dra_driver/base": true} // rendered as their parents
	for _, dir := range directories() {
		want[dir] = true
	}
	got := map[string]bool{}
	must(t, filepath.WalkDir(manifests, func(path string, _ fs.DirEntry, err error) error {
		if path == filepath.Join(manifests, "components") {
			return fs.SkipDir // rendered with the overlays that have them: TestEveryComponentIsUsed
		}
		if filepath.Base(path) == "kustomization.yaml" {
			dir, err := filepath.Rel(manifests, filepath.Dir(path))
			must(t, err)
			got[dir] = true
		}
		return err
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("directories with a kustomization (-want +got):\n%s", diff)
	}
	files, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	names := slices.Collect(maps.Keys(directories()))
	for _, file := range files {
		if !slices.Contains(names, strings.TrimSuffix(filepath.Base(file), ".yaml")) {
			t.Errorf("%s belongs to no directory", file)
		}
	}
}

// TestEveryComponentIsUsed: a component is in one overlay of each front.
func TestEveryComponentIsUsed(t *testing.T) {
	components, err := filepath.Glob(filepath.Join(manifests, "components", "*"))
	must(t, err)
	if len(components) < 4 {
		t.Fatalf("found only the components %q", components)
	}
	for _, path := range components {
		name := filepath.Base(path)
		for _, front := range []string{"qat_plugin", "qat_dra_driver"} {
			text := readFile(t, manifests, front, "overlays", name, "kustomization.yaml")
			if !strings.Contains(text, "components:\n- ../../../components/"+name+"\n") {
				t.Errorf("%s/overlays/%s does not have the component %s", front, name, name)
			}
		}
	}
}

// TestPageCombinesComponents renders the kustomization with components in docs/install.md, also on
// top of an overlay of the DRA driver, as docs/dra.md says.
func TestPageCombinesComponents(t *testing.T) {
	_, lines, ok := strings.Cut(readFile(t, top, "docs/install.md"), "# where the checkout is\ncomponents:\n")
	lines, _, closed := strings.Cut(lines, "```")
	if !ok || !closed {
		t.Fatal("the page has no kustomization with components")
	}
	for dir, more := range map[string]string{
		"qat_plugin":                           "",
		"qat_dra_driver/overlays/provisioning": "-provisioning-dir=/etc/qat-provisioning",
	} {
		got := decode(t, kustomizeOn(t, dir, "components:\n"+lines))
		args := append(got.daemonSets[0].Spec.Template.Spec.Containers[0].Args, "")
		for _, want := range []string{"-telemetry", "-http-address=:8080", more} {
			if !slices.Contains(args, want) {
				t.Errorf("%s: the arguments %q lack %s", dir, args, want)
			}
		}
	}
}

func TestManifestLinesAreShortAndTrimmed(t *testing.T) {
	const limit = 150
	must(t, filepath.WalkDir(manifests, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		for i, line := range strings.Split(readFile(t, path), "\n") {
			if n := utf8.RuneCountInString(line); n > limit {
				t.Errorf("%s:%d: %d columns, the limit is %d", path, i+1, n, limit)
			}
			if line != strings.TrimRight(line, " \t") {
				t.Errorf("%s:%d: trailing white space", path, i+1)
			}
		}
		return nil
	}))
}
