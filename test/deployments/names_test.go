package deployments

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// below is what of a path comes after a directory.
func below(path, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// People, scripts and Intel's own installations know these, and a selector can never be changed.
func TestNamesAndSelectorsStay(t *testing.T) {
	for _, o := range overlays() {
		t.Run(o.name, func(t *testing.T) {
			p := o.plugin(t)
			app, suffix := "intel-qat-plugin", ""
			switch o.name {
			case "kernel":
				app = "intel-qat-kernel-plugin"
			case "debug":
				suffix = "-debug"
			}
			type names struct {
				DaemonSet, ConfigMap, NetworkPolicy, Container string
				Labels, Selector, PodLabels, PolicySelector    map[string]string
			}
			label := map[string]string{"app": app}
			want := names{app + suffix, app + "-config" + suffix, app + suffix, app, label, label, label, label}
			d := p.daemonSet
			got := names{
				d.Name, p.config.Name, p.policy.Name, p.container(t).Name,
				d.Labels, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels, p.policy.Spec.PodSelector.MatchLabels,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, object := range objectsOf(t, kustomize(t, manifests+"/"+o.dir)) {
				if namespace := object["metadata"].(map[string]any)["namespace"]; namespace != nil {
					t.Errorf("%v names the namespace %v: people choose it with -n", object["kind"], namespace)
				}
			}
		})
	}
}

// Both can be in one namespace, each on its nodes.
func TestTheTwoModesShareNoObject(t *testing.T) {
	base := objectsOf(t, kustomize(t, manifests+"/qat_plugin"))
	for key := range objectsOf(t, kustomize(t, manifests+"/qat_plugin/overlays/kernel")) {
		if base[key] != nil {
			t.Errorf("%s is in both: each installation would overwrite it, and each removal take it from the other", key)
		}
	}
}

func TestAnImageIsSetByItsName(t *testing.T) {
	for _, o := range overlays() {
		text := kustomizeOn(t, o.dir, "images: [{name: intel-qat-plugin, newName: registry.example.com/qat/plugin, newTag: v1.2.3}]\n")
		image := decode(t, text).daemonSets[0].Spec.Template.Spec.Containers[0].Image
		if want := "registry.example.com/qat/plugin:v1.2.3"; image != want {
			t.Errorf("%s: after `kustomize edit set image intel-qat-plugin=%s` the image is %s", o.name, want, image)
		}
	}
	for _, name := range []string{"crypto-perf", "compress-perf"} {
		text := kustomizeOn(t, others()[name], "images: [{name: "+name+", newName: registry.example.com/perf}]\n")
		if image := decode(t, text).pods[0].Spec.Containers[0].Image; image != "registry.example.com/perf:devel" {
			t.Errorf("%s: its image was not set, it is %s", name, image)
		}
	}
}

// What the kernel mode's pod does not need to do otherwise, it does as the base's pod.
func TestTheKernelPodIsLikeTheBasePodWhereNothingForbidsIt(t *testing.T) {
	specs := map[string]any{}
	for _, o := range overlays() {
		if !slices.Contains([]string{"base", "kernel"}, o.name) {
			continue
		}
		p := o.plugin(t)
		d, c := &p.daemonSet, p.container(t)
		d.Name, d.Labels, d.Spec.Selector, d.Spec.Template.Labels = "", nil, nil, nil // see TestNamesAndSelectorsStay
		c.Name, c.Env, c.Args, c.TerminationMessagePath = "", nil, nil, ""
		d.Spec.Template.Spec.Volumes, c.VolumeMounts, c.SecurityContext = nil, nil, nil // see TestNoGrantIsUnaccountedFor
		specs[o.name] = d.Spec
	}
	if diff := cmp.Diff(specs["base"], specs["kernel"]); diff != "" {
		t.Errorf("(-base +kernel):\n%s", diff)
	}
}
