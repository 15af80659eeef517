package deployments

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat"
)

// Field for field: neither Helm nor the chart adds a label of its own.
func TestTheChartRendersWhatKustomizeRenders(t *testing.T) {
	for _, o := range overlays() {
		t.Run(o.name, func(t *testing.T) {
			want, got := objectsOf(t, kustomize(t, manifests+"/"+o.dir)), objectsOf(t, mustHelm(t, o.values))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("with values %s (-kustomize +helm):\n%s", o.values, diff)
			}
		})
	}
}

// A knob is a value of the chart, set to something else.
type knob struct {
	value  string // path in values.yaml
	values string
	same   string // what says the same in a kustomization of one's own, on top of the base; "": kustomize has patches for it
	holds  string // what is then rendered
}

const configPatch = "patches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: intel-qat-plugin-config}, data: {%s}}'}]\n"

func knobs() []knob {
	const digest = "sha256:0123456789012345678901234567890123456789012345678901234567890123"
	return []knob{
		{"mode", `{mode: kernel}`, "", "-mode=kernel"},
		{
			"image.repository", `{image: {repository: registry.example.com/x}}`,
			"images: [{name: intel-qat-plugin, newName: registry.example.com/x}]\n", "image: registry.example.com/x:devel",
		},
		{"image.tag", `{image: {tag: v1}}`, "images: [{name: intel-qat-plugin, newTag: v1}]\n", "image: intel-qat-plugin:v1"},
		{
			"image.digest", `{image: {digest: "` + digest + `"}}`,
			"images: [{name: intel-qat-plugin, digest: '" + digest + "'}]\n", "image: intel-qat-plugin@" + digest,
		},
		{"image.pullPolicy", `{image: {pullPolicy: Always}}`, "", "imagePullPolicy: Always"},
		{"imagePullSecrets", `{imagePullSecrets: [{name: registry}]}`, "", "imagePullSecrets:\n      - name: registry"},
		{"nameSuffix", `{nameSuffix: -two}`, "nameSuffix: -two\n", "name: intel-qat-plugin-config-two"},
		{"config.dpdkDriver", `{config: {dpdkDriver: igb_uio}}`, fmt.Sprintf(configPatch, "DPDK_DRIVER: igb_uio"), `"igb_uio"`},
		{
			"config.kernelVFDrivers", `{config: {kernelVFDrivers: [4xxxvf, 6xxxvf]}}`,
			fmt.Sprintf(configPatch, `KERNEL_VF_DRIVERS: "4xxxvf,6xxxvf"`), `"4xxxvf,6xxxvf"`,
		},
		{"config.maxNumDevices", `{config: {maxNumDevices: 1000000}}`, fmt.Sprintf(configPatch, `MAX_NUM_DEVICES: "1000000"`), `"1000000"`},
		{"config.verbosity", `{config: {verbosity: 4}}`, fmt.Sprintf(configPatch, `VERBOSITY: "4"`), `VERBOSITY: "4"`},
		{"extraArgs", `{extraArgs: [-bind=false]}`, "", "- -bind=false"},
		{"cdi.enabled", `{cdi: {enabled: true}}`, "", "- -use-cdi"},
		{"nfd.enabled", `{nfd: {enabled: true}}`, "", `intel.feature.node.kubernetes.io/qat: "true"`},
		{"networkPolicy.enabled", `{networkPolicy: {enabled: false}}`, "", ""},
		{"nodeSelector", `{nodeSelector: {pool: qat}}`, "", "pool: qat"},
		{"tolerations", `{tolerations: [{operator: Exists}]}`, "", "tolerations:\n      - operator: Exists\n      nodeSelector"},
		{"priorityClassName", `{priorityClassName: ""}`, "", ""},
		{"resources", `{resources: {limits: {memory: 1Gi}}}`, "", "memory: 1Gi"},
	}
}

func TestEachValueChangesWhatIsRendered(t *testing.T) {
	base := mustHelm(t, ``)
	for _, k := range knobs() {
		t.Run(k.value, func(t *testing.T) {
			got := mustHelm(t, k.values)
			if got == base || !strings.Contains(got, k.holds) {
				t.Errorf("with values %s nothing says %q:\n%s", k.values, k.holds, got)
			}
			decode(t, got) // still what the API knows
			if k.same == "" {
				return
			}
			if diff := cmp.Diff(objectsOf(t, kustomizeOn(t, "qat_plugin", k.same)), objectsOf(t, got)); diff != "" {
				t.Errorf("(-kustomize with %s +helm with %s):\n%s", strings.TrimSpace(k.same), k.values, diff)
			}
		})
	}
}

// Each value is a knob above, stands in the schema, and has a comment.
func TestEachValueIsKnown(t *testing.T) {
	c := loadChart(t)
	var want []string
	for _, k := range knobs() {
		want = append(want, k.value)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, leaves("", c.Values)); diff != "" {
		t.Errorf("(-knobs +values.yaml):\n%s", diff)
	}
	for _, section := range strings.Split(string(readFile(t, chartDir, "values.yaml")), "\n\n")[1:] {
		if !strings.HasPrefix(section, "# ") && !strings.HasPrefix(section, "image:") {
			t.Errorf("a value has no comment:\n%s", section)
		}
	}
}

// leaves are the paths of the values. What a user fills in, or takes as a whole, is one.
func leaves(path string, values map[string]any) (paths []string) {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		inner, isMap := values[key].(map[string]any)
		if name := strings.TrimPrefix(path+"."+key, "."); isMap && !slices.Contains([]string{"nodeSelector", "resources"}, name) {
			paths = append(paths, leaves(name, inner)...)
		} else {
			paths = append(paths, name)
		}
	}
	slices.Sort(paths)
	return paths
}

func TestAWrongValueIsRefusedWithItsName(t *testing.T) {
	for values, want := range map[string]string{
		`{mode: dpkd}`:                                "mode",
		`{modes: dpdk}`:                               "modes",
		`{image: {name: x}}`:                          "name",
		`{image: {digest: "sha256:12"}}`:              "image",
		`{nameSuffix: Two}`:                           "nameSuffix",
		`{config: {dpdkDriver: uio}}`:                 "dpdkDriver",
		`{config: {kernelVFDrivers: []}}`:             "kernelVFDrivers",
		`{config: {kernelVFDrivers: [4xxx]}}`:         "kernelVFDrivers",
		`{config: {kernelVFDrivers: "4xxxvf"}}`:       "kernelVFDrivers",
		`{config: {maxNumDevices: -1}}`:               "maxNumDevices",
		`{config: {verbosity: "4"}}`:                  "verbosity",
		`{extraArgs: [steal]}`:                        "extraArgs",
		`{mode: kernel, cdi: {enabled: true}}`:        "cdi.enabled is of mode dpdk",
		`{config: {VERBOSITY: "4"}}`:                  "VERBOSITY",
		`{networkPolicy: {enabled: "no"}}`:            "networkPolicy",
		`{imagePullSecrets: [registry]}`:              "imagePullSecrets",
		`{nodeSelector: {pool: 1}}`:                   "nodeSelector",
		`{cdi: true}`:                                 "cdi",
		`{nfd: {enabled: 1}}`:                         "nfd",
		`{priorityClassName: [system-node-critical]}`: "priorityClassName",
	} {
		if _, _, err := helm(t, "any", values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("values %s: error %v, want one that says %s", values, err, want)
		}
	}
}

// What the schema allows is what the program does.
func TestTheSchemaAllowsWhatTheProgramKnows(t *testing.T) {
	for _, driver := range qat.DPDKDrivers() {
		mustHelm(t, `{config: {dpdkDriver: `+driver+`}}`)
	}
	for _, driver := range qat.KernelVFDrivers() {
		mustHelm(t, `{config: {kernelVFDrivers: [`+driver+`]}}`)
	}
}

// A node has room for one plugin, whoever installed it, and with kustomize or with Helm.
func TestNamesAreNotTheReleases(t *testing.T) {
	one, _, err := helm(t, "one", ``)
	must(t, err)
	other, _, err := helm(t, "other", ``)
	must(t, err)
	if diff := cmp.Diff(one, other); diff != "" {
		t.Errorf("two releases (-one +other):\n%s", diff)
	}
}

func TestTheNotesNameWhatWasInstalled(t *testing.T) {
	for _, o := range overlays() {
		_, notes, err := helm(t, "any", o.values)
		must(t, err)
		name := o.plugin(t).daemonSet.Name
		for _, want := range []string{
			"kubectl -n accelerators rollout status daemonset/" + name + "\n", "kubectl -n accelerators logs daemonset/" + name + "\n",
			fmt.Sprintf("port-forward daemonset/%s %d", name, o.plugin(t).container(t).Ports[0].ContainerPort), "readyz?verbose",
		} {
			if !strings.Contains(notes, want) {
				t.Errorf("%s: the notes do not say %q:\n%s", o.name, want, notes)
			}
		}
	}
}

func TestTheChartIsOneThatHelmPackages(t *testing.T) {
	c := loadChart(t)
	must(t, c.Validate())
	if c.Name() != "intel-qat-plugin" || c.AppVersion() != "devel" {
		t.Errorf("the chart is %s with appVersion %s", c.Name(), c.AppVersion())
	}
	for _, f := range c.Raw {
		if !strings.HasPrefix(f.Name, "templates/") && !slices.Contains([]string{"Chart.yaml", "values.yaml", "values.schema.json", ".helmignore"}, f.Name) {
			t.Errorf("the chart also holds %s", f.Name)
		}
	}
}
