// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// kustomize renders a directory, as `kubectl kustomize` does.
func kustomize(t testing.TB, dir string) string {
	t.Helper()
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("kustomize %s: %v", dir, err)
	}
	text, err := objects.AsYaml()
	must(t, err)
	return string(text)
}

// kustomizeOn renders a user's kustomization: lines on top of a directory of
// deployments/, which the lines name qatplugin/deployments.
func kustomizeOn(t testing.TB, dir, lines string) string {
	t.Helper()
	// kustomize compares paths after it has resolved symbolic links.
	user, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	all, err := filepath.Abs(manifests)
	must(t, err)
	all, err = filepath.EvalSymlinks(all)
	must(t, err)
	all, err = filepath.Rel(user, all)
	must(t, err)
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [" +
		filepath.Join(all, dir) + "]\n" + strings.ReplaceAll(lines, "qatplugin/deployments", all)
	must(t, os.WriteFile(filepath.Join(user, "kustomization.yaml"), []byte(text), 0o600))
	return kustomize(t, user)
}

const chartDir = manifests + "/helm/intel-qat-plugin"

func loadChart(t testing.TB) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	must(t, err)
	return c
}

// helm renders the chart, as `helm template` does. The values are checked with their
// schema. It returns the text of NOTES.txt separately.
func helm(t testing.TB, release, values string) (objects, notes string, err error) {
	t.Helper()
	return helmOn(t, "v1.36.3", release, values)
}

// helmOn renders the chart for a version of Kubernetes.
func helmOn(t testing.TB, kubernetes, release, values string) (objects, notes string, err error) {
	t.Helper()
	version, err := chartutil.ParseKubeVersion(kubernetes)
	must(t, err)
	cluster := chartutil.DefaultCapabilities.Copy()
	cluster.KubeVersion = *version
	set := map[string]any{}
	must(t, yaml.Unmarshal([]byte(values), &set))
	c := loadChart(t)
	options := chartutil.ReleaseOptions{Name: release, Namespace: "accelerators", IsInstall: true}
	all, err := chartutil.ToRenderValues(c, set, options, cluster)
	if err != nil {
		return "", "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", "", err
	}
	var documents []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch text := files[name]; {
		case strings.HasSuffix(name, "NOTES.txt"):
			notes = text
		case strings.TrimSpace(text) != "":
			documents = append(documents, text)
		}
	}
	return strings.Join(documents, "\n---\n"), notes, nil
}

func mustHelm(t testing.TB, values string) string {
	t.Helper()
	objects, _, err := helm(t, "any", values)
	if err != nil {
		t.Fatalf("helm with values %q: %v", values, err)
	}
	return objects
}

// objectsOf returns the objects in YAML documents, by kind and name.
func objectsOf(t testing.TB, text string) map[string]map[string]any {
	t.Helper()
	objects := map[string]map[string]any{}
	for _, document := range documents(text) {
		object := map[string]any{}
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		metadata, _ := object["metadata"].(map[string]any)
		key := fmt.Sprintf("%v %v", object["kind"], metadata["name"])
		if objects[key] != nil {
			t.Fatalf("two objects %s", key)
		}
		objects[key] = object
	}
	return objects
}

// documents splits a YAML text into its documents.
func documents(text string) (parts []string) {
	for part := range strings.SplitSeq("\n"+text, "\n---\n") {
		if strings.TrimSpace(part) != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
