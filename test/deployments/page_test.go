// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/jsonpath"
)

// fenced matches the blocks of a page: the language and the text.
var fenced = regexp.MustCompile("(?ms)^ *```([a-z]+)\n(.*?)^ *```$")

// comment matches a line with only a comment.
var comment = regexp.MustCompile(`(?m)^ *#.*\n`)

// TestPageShowsExamples: each block of YAML in docs/dra.md is a part of an example, apart from its
// comments, or a kustomization, which is rendered.
func TestPageShowsExamples(t *testing.T) {
	var examples []string
	for _, name := range append([]string{"sample"}, draExamples...) {
		examples = append(examples, comment.ReplaceAllString(readFile(t, manifests, others[name], "pod.yaml"), ""))
	}
	shown := map[int]bool{}
	for _, block := range fenced.FindAllStringSubmatch(readFile(t, top, "docs/dra.md"), -1) {
		if block[1] != "yaml" {
			continue
		}
		if _, lines, ok := strings.Cut(block[2], "# where the checkout is\n"); ok {
			got := decode(t, kustomizeOn(t, "qat_dra_driver", "namespace: accelerators\n"+lines))
			c := got.daemonSets[0].Spec.Template.Spec.Containers[0]
			if c.Image != "registry.example.com/intel-qat-dra-driver:v1.0.0" ||
				!slices.Contains(c.Args, "-unhealthy-taint-effect=NoExecute") {
				t.Errorf("the kustomization of the page has the image %s and the arguments %q", c.Image, c.Args)
			}
			continue
		}
		found := false
		for i, text := range examples {
			if strings.Contains("\n"+text, "\n"+comment.ReplaceAllString(block[2], "")) {
				shown[i], found = true, true
			}
		}
		if !found {
			t.Errorf("no example has this block:\n%s", block[2])
		}
	}
	if len(shown) != len(examples) {
		t.Errorf("the page shows %d examples, want %d", len(shown), len(examples))
	}
}

// TestPageShowsSlices runs the commands with which docs/dra.md shows what a node offers.
func TestPageShowsSlices(t *testing.T) {
	var o overlay
	for _, o = range overlays {
		if o.name == "dra" {
			break
		}
	}
	published := startDriver(t, o, newHost(t)).Slices()
	page := readFile(t, top, "docs/dra.md")
	command := regexp.MustCompile(`(?m)^\$ kubectl get resourceslices -o jsonpath='(.*)'\n((?:0000-.*\n)+)`).
		FindStringSubmatch(page)
	if command == nil {
		t.Fatal("the page has no command with a JSON path, and its output")
	}
	list, err := runtime.DefaultUnstructuredConverter.ToUnstructured(
		&resourcev1.ResourceSliceList{Items: []resourcev1.ResourceSlice{*published[0]}})
	must(t, err)
	path := jsonpath.New("devices").AllowMissingKeys(true) // as kubectl get does
	must(t, path.Parse(command[1]))
	var output strings.Builder
	must(t, path.Execute(&output, list))
	trailing := regexp.MustCompile(`(?m) +$`)
	if got := trailing.ReplaceAllString(output.String(), ""); got != command[2] {
		t.Errorf("the command prints\n%s, the page shows\n%s", got, command[2])
	}
	line := regexp.MustCompile(`(?m)^(worker-1-\S+) +(\S+) +(\S+) +(\S+) +\S+$`).FindStringSubmatch(page)
	s := published[0]
	want := []string{s.Name, *s.Spec.NodeName, s.Spec.Driver, s.Spec.Pool.Name}
	if line == nil || strings.Join(line[1:], " ") != strings.Join(want, " ") {
		t.Errorf("the page shows the slice %q, want %q", line, want)
	}
}

// TestPageListsOverlays: docs/dra.md has a row for each overlay of the driver.
func TestPageListsOverlays(t *testing.T) {
	page := readFile(t, top, "docs/dra.md")
	for _, o := range overlays {
		if o.isDRA() && !strings.Contains(page, "\n| `"+filepath.Join("deployments", o.dir)+"` |") {
			t.Errorf("the page lacks %s", o.dir)
		}
	}
}
