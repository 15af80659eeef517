// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNamesAndSelectors: users, scripts and Intel's own installations depend on these
// names, and the selector of a DaemonSet is immutable.
func TestNamesAndSelectors(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		app, suffix := "intel-qat-plugin", ""
		switch o.name {
		case "kernel":
			app = "intel-qat-kernel-plugin"
		case "debug":
			suffix = "-debug"
		}
		if o.isDRA() {
			app = "intel-qat-dra-driver"
		}
		type names struct {
			DaemonSet, ConfigMap, NetworkPolicy, Container string
			Labels, Selector, PodLabels, PolicySelector    map[string]string
		}
		label := map[string]string{"app": app}
		want := names{app + suffix, app + "-config" + suffix, app + suffix, app, label, label, label, label}
		d := p.daemonSet
		got := names{
			DaemonSet:      d.Name,
			ConfigMap:      p.config.Name,
			NetworkPolicy:  p.policy.Name,
			Container:      p.container(t).Name,
			Labels:         d.Labels,
			Selector:       d.Spec.Selector.MatchLabels,
			PodLabels:      d.Spec.Template.Labels,
			PolicySelector: p.policy.Spec.PodSelector.MatchLabels,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		inNamespace := "" // users choose it with -n
		if o.isDRA() {
			inNamespace = "qat" // RBAC has to name it
		}
		for _, namespace := range []string{d.Namespace, p.config.Namespace, p.policy.Namespace} {
			if namespace != inNamespace {
				t.Errorf("namespace %q, want %q", namespace, inNamespace)
			}
		}
	})
}

// TestInstallationsShareNoObject: the device plugin in both modes and the DRA driver can be
// installed in one namespace, each on its nodes. An object in two of them would be overwritten by
// one installation and removed with the other.
func TestInstallationsShareNoObject(t *testing.T) {
	owners := map[string]string{}
	for _, dir := range []string{"qat_plugin", "qat_plugin/overlays/kernel", "qat_dra_driver"} {
		for key := range objectsOf(t, kustomize(t, manifests+"/"+dir)) {
			if owner := owners[key]; owner != "" {
				t.Errorf("%s is in %s and in %s", key, owner, dir)
			}
			owners[key] = dir
		}
	}
}

func TestKustomizeSetsImage(t *testing.T) {
	for _, o := range overlays {
		name := "intel-qat-plugin"
		if o.isDRA() {
			name = "intel-qat-dra-driver"
		}
		lines := "images: [{name: " + name + ", newName: registry.example.com/plugin, newTag: v1.2.3}]\n"
		image := decode(t, kustomizeOn(t, o.dir, lines)).daemonSets[0].Spec.Template.Spec.Containers[0].Image
		if want := "registry.example.com/plugin:v1.2.3"; image != want {
			t.Errorf("%s: image %s, want %s", o.name, image, want)
		}
	}
	for _, name := range []string{"crypto-perf", "compress-perf"} {
		lines := "images: [{name: " + name + ", newName: registry.example.com/perf}]\n"
		image := decode(t, kustomizeOn(t, others[name], lines)).pods[0].Spec.Containers[0].Image
		if want := "registry.example.com/perf:devel"; image != want {
			t.Errorf("%s: image %s, want %s", name, image, want)
		}
	}
}

// TestKernelPodMatchesBasePod ignores what other tests check: names and labels
// (TestNamesAndSelectors), privileges (TestEveryGrantIsListed) and arguments
// (TestProgram).
func TestKernelPodMatchesBasePod(t *testing.T) {
	strip := func(p plugin) any {
		d, c := &p.daemonSet, p.container(t)
		d.Spec.Selector, d.Spec.Template.Labels, d.Spec.Template.Spec.Volumes = nil, nil, nil
		c.Name, c.Env, c.Args, c.TerminationMessagePath = "", nil, nil, ""
		c.VolumeMounts, c.SecurityContext = nil, nil
		return d.Spec
	}
	if diff := cmp.Diff(strip(overlayNamed(t, "base")), strip(overlayNamed(t, "kernel"))); diff != "" {
		t.Errorf("(-base +kernel):\n%s", diff)
	}
}
