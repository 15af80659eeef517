// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/strvals"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// provisioningDir is where the container has the files of the ConfigMap qat-provisioning.
const provisioningDir = "/etc/qat-provisioning"

// TestProvisioningFilesAreUpdated: the kubelet updates the files of a ConfigMap only in a mount of
// the whole volume, and it does not start a pod whose ConfigMap is missing and not optional.
func TestProvisioningFilesAreUpdated(t *testing.T) {
	p := overlayNamed(t, "provisioning")
	if dir := p.flags(t)["-provisioning-dir"]; dir != provisioningDir {
		t.Fatalf("-provisioning-dir=%s, want %s", dir, provisioningDir)
	}
	m, _ := p.mount(t, provisioningDir)
	if m == nil || m.MountPath != provisioningDir || m.SubPath != "" || m.SubPathExpr != "" {
		t.Fatalf("mount %+v, want one of the whole volume at %s", m, provisioningDir)
	}
	var source *corev1.ConfigMapVolumeSource
	for _, v := range p.podSpec().Volumes {
		if v.Name == m.Name {
			source = v.ConfigMap
		}
	}
	if source == nil || source.Name != p.provisioning.Name || len(source.Items) > 0 || isNilOr(source.Optional, false) {
		t.Errorf("volume %+v, want all files of the ConfigMap %s, optional", source, p.provisioning.Name)
	}
}

// TestPodResourcesMountSurvivesKubeletRestart: a mount of the socket itself would keep that of the
// old kubelet.
func TestPodResourcesMountSurvivesKubeletRestart(t *testing.T) {
	p := overlayNamed(t, "provisioning")
	for _, v := range p.podSpec().Volumes {
		if v.Name == "podresources" && *v.HostPath.Type != corev1.HostPathDirectory {
			t.Errorf("volume of type %s", *v.HostPath.Type)
		}
	}
	m, onHost := p.mount(t, "/var/lib/kubelet/pod-resources/kubelet.sock")
	if m == nil || m.MountPath != "/var/lib/kubelet/pod-resources" || m.SubPath != "" || !m.ReadOnly {
		t.Errorf("mount %+v of %s, want the directory, read-only", m, onHost)
	}
}

// TestPodKnowsItsNames checks the variables that the program reads.
func TestPodKnowsItsNames(t *testing.T) {
	want := map[string]string{
		"NODE_NAME":     "spec.nodeName",
		"POD_NAMESPACE": "metadata.namespace",
		"POD_NAME":      "metadata.name",
	}
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		want := maps.Clone(want)
		if o.isDRA() {
			want["POD_UID"] = "metadata.uid"
		}
		got := map[string]string{}
		for _, e := range p.container(t).Env {
			if field := e.ValueFrom.FieldRef; field != nil {
				got[e.Name] = field.FieldPath
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	for name := range want {
		findInSource(t, "cmd/qat_plugin/main.go", `env\("`+name+`"\)`, 1)
	}
}

// TestMoveFromInitContainer renders what the guide says to do with a qat.conf, with kustomize and
// with Helm. A qat.yaml beside it would be an error.
func TestMoveFromInitContainer(t *testing.T) {
	guide := readFile(t, top, "docs/provisioning.md")
	block := regexp.MustCompile("(?ms)^```yaml\n(apiVersion: kustomize.*?)^```$").FindStringSubmatch(guide)
	if block == nil {
		t.Fatal("the guide has no kustomization")
	}
	lines := strings.SplitAfter(block[1], "\n")
	patches := slices.Index(lines, "patches:\n")
	if patches < 0 {
		t.Fatalf("the kustomization of the guide has no patches:\n%s", block[1])
	}
	text := kustomizeOn(t, "qat_plugin/overlays/provisioning", strings.Join(lines[patches:], ""))
	want := map[string]string{"qat.conf": "ServicesEnabled=sym;asym\nAutoresetEnabled=on"}
	if diff := cmp.Diff(want, dataOf(t, text, "qat-provisioning")); diff != "" {
		t.Errorf("with kustomize (-want +got):\n%s", diff)
	}

	set := regexp.MustCompile(`--set ([^ ]+) --set-file '([^ ]+)=qat\.conf'`).FindStringSubmatch(guide)
	if set == nil {
		t.Fatal("the guide has no helm --set-file")
	}
	values := map[string]any{}
	must(t, strvals.ParseInto(set[1], values))
	read := func([]rune) (any, error) { return want["qat.conf"], nil }
	must(t, strvals.ParseIntoFile(set[2]+"=qat.conf", values, read))
	all, err := yaml.Marshal(values)
	must(t, err)
	if diff := cmp.Diff(want, dataOf(t, mustHelm(t, string(all)), "qat-provisioning")); diff != "" {
		t.Errorf("with Helm (-want +got):\n%s", diff)
	}
}

// dataOf returns the data of a ConfigMap in YAML documents.
func dataOf(t *testing.T, text, name string) map[string]string {
	t.Helper()
	for _, c := range decode(t, text).configMaps {
		if c.Name == name {
			return c.Data
		}
	}
	t.Fatalf("no ConfigMap %s in:\n%s", name, text)
	return nil
}
