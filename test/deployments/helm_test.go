// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat"
)

// TestChartMatchesKustomize compares field for field: neither Helm nor the chart adds
// labels.
func TestChartMatchesKustomize(t *testing.T) {
	for _, o := range overlays {
		t.Run(o.name, func(t *testing.T) {
			text := kustomize(t, manifests+"/"+o.dir)
			if o.feature() == "events" { // the chart has the objects of both directories
				text += "---\n" + kustomize(t, filepath.Join(manifests, o.dir, "rbac"))
			}
			text = strings.ReplaceAll(text, "namespace: qat\n", "namespace: accelerators\n") // which the chart knows
			want := objectsOf(t, text)
			got := objectsOf(t, mustHelm(t, o.values))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("with values %s (-kustomize +helm):\n%s", o.values, diff)
			}
		})
	}
}

// A setting is a value of the chart that differs from the default.
type setting struct {
	name      string // path in values.yaml
	values    string
	kustomize string // lines of a user's kustomization for the same; "" if it needs a patch
	rendered  string // a part of what the chart renders
}

// configPatch returns a kustomization that sets an entry of the ConfigMap.
func configPatch(entry string) string {
	return "patches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: intel-qat-plugin-config}, " +
		"data: {" + entry + "}}'}]\n"
}

const digest = "sha256:0123456789012345678901234567890123456789012345678901234567890123"

var settings = []setting{
	{"front", `{front: dra}`, "", "kind: DeviceClass"},
	{
		"kubeletRoot",
		`{front: dra, kubeletRoot: /var/lib/k0s/kubelet}`,
		"",
		"path: /var/lib/k0s/kubelet/plugins_registry\n",
	},
	{"mode", `{mode: kernel}`, "", "-mode=kernel"},
	{
		"image.repository",
		`{image: {repository: registry.example.com/x}}`,
		"images: [{name: intel-qat-plugin, newName: registry.example.com/x}]\n",
		"image: registry.example.com/x:devel",
	},
	{
		"image.tag",
		`{image: {tag: v1}}`,
		"images: [{name: intel-qat-plugin, newTag: v1}]\n",
		"image: intel-qat-plugin:v1",
	},
	{
		"image.digest",
		`{image: {digest: "` + digest + `"}}`,
		"images: [{name: intel-qat-plugin, digest: '" + digest + "'}]\n",
		"image: intel-qat-plugin@" + digest,
	},
	{"image.pullPolicy", `{image: {pullPolicy: Always}}`, "", "imagePullPolicy: Always"},
	{"imagePullSecrets", `{imagePullSecrets: [{name: registry}]}`, "", "imagePullSecrets:\n      - name: registry"},
	{"nameSuffix", `{nameSuffix: -two}`, "nameSuffix: -two\n", "name: intel-qat-plugin-config-two"},
	{
		"config.dpdkDriver",
		`{config: {dpdkDriver: igb_uio}}`,
		configPatch("DPDK_DRIVER: igb_uio"),
		`"igb_uio"`,
	},
	{
		"config.kernelVFDrivers",
		`{config: {kernelVFDrivers: [4xxxvf, 6xxxvf]}}`,
		configPatch(`KERNEL_VF_DRIVERS: "4xxxvf,6xxxvf"`),
		`"4xxxvf,6xxxvf"`,
	},
	{
		"config.maxNumDevices",
		`{config: {maxNumDevices: 1000000}}`,
		configPatch(`MAX_NUM_DEVICES: "1000000"`),
		`"1000000"`,
	},
	{
		"config.allocationPolicy",
		`{config: {allocationPolicy: packed}}`,
		configPatch(`ALLOCATION_POLICY: packed`),
		`ALLOCATION_POLICY: "packed"`,
	},
	{
		"config.healthInterval",
		`{config: {healthInterval: 1m30s}}`,
		configPatch(`HEALTH_INTERVAL: 1m30s`),
		`HEALTH_INTERVAL: "1m30s"`,
	},
	{"config.verbosity", `{config: {verbosity: 4}}`, configPatch(`VERBOSITY: "4"`), `VERBOSITY: "4"`},
	{"extraArgs", `{extraArgs: [-bind=false]}`, "", "- -bind=false"},
	{"cdi.enabled", `{cdi: {enabled: true}}`, "", "- -use-cdi"},
	{"provisioning.enabled", `{provisioning: {enabled: true}}`, "", "-provisioning-dir=/etc/qat-provisioning"},
	{
		"provisioning.config",
		`{provisioning: {enabled: true, config: {qat-node-1.conf: "ServicesEnabled=dc\n"}}}`,
		"",
		"data:\n  qat-node-1.conf: |\n    ServicesEnabled=dc\n",
	},
	{"provisioning.force", `{provisioning: {enabled: true, force: true}}`, "", "- -provisioning-force"},
	{
		"provisioning.podResourcesDir",
		`{provisioning: {enabled: true, podResourcesDir: /var/lib/k0s/kubelet/pod-resources}}`,
		"",
		"path: /var/lib/k0s/kubelet/pod-resources\n",
	},
	{"http.enabled", `{http: {enabled: true}}`, "", "- -http-address=:8080"},
	{"http.port", `{http: {enabled: true, port: 9464}}`, "", "containerPort: 9464"},
	{"telemetry.enabled", `{telemetry: {enabled: true}}`, "", "- -telemetry"},
	{"events.enabled", `{events: {enabled: true}}`, "", "- -kubernetes-events"},
	{"monitoring.enabled", `{http: {enabled: true}, monitoring: {enabled: true}}`, "", "kind: PodMonitor"},
	{
		"monitoring.scraperNamespace",
		`{http: {enabled: true}, monitoring: {enabled: true, scraperNamespace: observability}}`,
		"",
		"kubernetes.io/metadata.name: observability\n",
	},
	{
		"monitoring.interval",
		`{http: {enabled: true}, monitoring: {enabled: true, interval: 1m}}`,
		"",
		"interval: 1m\n",
	},
	{
		"monitoring.labels",
		`{http: {enabled: true}, monitoring: {enabled: true, labels: {release: prometheus}}}`,
		"",
		"kind: PrometheusRule\nmetadata:\n  name: intel-qat-plugin\n  labels:\n" +
			"    app: intel-qat-plugin\n    release: prometheus\n",
	},
	{
		"monitoring.dashboardLabels",
		`{http: {enabled: true}, monitoring: {enabled: true, dashboardLabels: {dashboards: qat}}}`,
		"",
		"    dashboards: qat\n",
	},
	{
		"monitoring.runbookPrefix",
		`{http: {enabled: true}, monitoring: {enabled: true, runbookPrefix: "https://wiki.example.com/"}}`,
		"",
		"runbook_url: https://wiki.example.com/docs/monitoring.md#qatplugindown\n",
	},
	{"nfd.enabled", `{nfd: {enabled: true}}`, "", `intel.feature.node.kubernetes.io/qat: "true"`},
	{"networkPolicy.enabled", `{networkPolicy: {enabled: false}}`, "", ""},
	{"nodeSelector", `{nodeSelector: {pool: qat}}`, "", "pool: qat"},
	{
		"tolerations",
		`{tolerations: [{operator: Exists}]}`,
		"",
		"tolerations:\n      - operator: Exists\n      nodeSelector",
	},
	{"priorityClassName", `{priorityClassName: ""}`, "", ""},
	{"resources", `{resources: {limits: {memory: 1Gi}}}`, "", "memory: 1Gi"},
}

func TestChartValues(t *testing.T) {
	defaults := mustHelm(t, ``)
	for _, s := range settings {
		t.Run(s.name, func(t *testing.T) {
			got := mustHelm(t, s.values)
			if got == defaults || !strings.Contains(got, s.rendered) {
				t.Errorf("values %s do not render %q:\n%s", s.values, s.rendered, got)
			}
			decode(t, got) // fails for fields that the API does not know
			if s.kustomize == "" {
				return
			}
			want := objectsOf(t, kustomizeOn(t, "qat_plugin", s.kustomize))
			if diff := cmp.Diff(want, objectsOf(t, got)); diff != "" {
				t.Errorf("(-kustomize with %s +helm with %s):\n%s", strings.TrimSpace(s.kustomize), s.values, diff)
			}
		})
	}
}

func TestChartValuesAreTestedAndDocumented(t *testing.T) {
	var want []string
	for _, s := range settings {
		want = append(want, s.name)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, valueNames("", loadChart(t).Values)); diff != "" {
		t.Errorf("(-settings above +values.yaml):\n%s", diff)
	}
	for _, section := range strings.Split(readFile(t, chartDir, "values.yaml"), "\n\n")[1:] {
		if !strings.HasPrefix(section, "# ") && !strings.HasPrefix(section, "image:") {
			t.Errorf("value without a comment:\n%s", section)
		}
	}
}

// maps are the values that users set as a whole.
var wholeMaps = []string{
	"nodeSelector", "resources", "provisioning.config", "monitoring.labels", "monitoring.dashboardLabels",
}

// valueNames returns the paths of the values, sorted.
func valueNames(path string, values map[string]any) (names []string) {
	for key, value := range values {
		name := strings.TrimPrefix(path+"."+key, ".")
		if inner, isMap := value.(map[string]any); isMap && !slices.Contains(wholeMaps, name) {
			names = append(names, valueNames(name, inner)...)
		} else {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestInvalidChartValues(t *testing.T) {
	for values, want := range map[string]string{ // what the error names
		`{mode: dpkd}`:               "mode",
		`{modes: dpdk}`:              "modes",
		`{front: both}`:              "front",
		`{front: dra, mode: kernel}`: "front: dra",
		`{front: dra, kubeletRoot: /var/lib/kubelet/}`:     "kubeletRoot",
		`{front: dra, nameSuffix: -two}`:                   "nameSuffix",
		`{front: dra, cdi: {enabled: true}}`:               "cdi.enabled",
		`{front: dra, config: {allocationPolicy: packed}}`: "config.allocationPolicy",
		`{image: {name: x}}`:                               "name",
		`{image: {digest: "sha256:12"}}`:                   "image",
		`{nameSuffix: Two}`:                                "nameSuffix",
		`{config: {dpdkDriver: uio}}`:                      "dpdkDriver",
		`{config: {kernelVFDrivers: []}}`:                  "kernelVFDrivers",
		`{config: {kernelVFDrivers: [4xxx]}}`:              "kernelVFDrivers",
		`{config: {kernelVFDrivers: "4xxxvf"}}`:            "kernelVFDrivers",
		`{config: {maxNumDevices: -1}}`:                    "maxNumDevices",
		`{config: {allocationPolicy: fair}}`:               "allocationPolicy",
		`{config: {healthInterval: 5}}`:                    "healthInterval",
		`{config: {healthInterval: soon}}`:                 "healthInterval",
		`{config: {verbosity: "4"}}`:                       "verbosity",
		`{extraArgs: [steal]}`:                             "extraArgs",
		`{mode: kernel, cdi: {enabled: true}}`:             "cdi.enabled",
		`{config: {VERBOSITY: "4"}}`:                       "VERBOSITY",
		`{networkPolicy: {enabled: "no"}}`:                 "networkPolicy",
		`{imagePullSecrets: [registry]}`:                   "imagePullSecrets",
		`{nodeSelector: {pool: 1}}`:                        "nodeSelector",
		`{cdi: true}`:                                      "cdi",
		`{nfd: {enabled: 1}}`:                              "nfd",
		`{provisioning: {config: {qat.yml: ""}}}`:          "qat.yml",
		`{provisioning: {config: {qat.yaml: {}}}}`:         "config",
		`{telemetry: {enabled: 1}}`:                        "telemetry",
		`{events: true}`:                                   "events",
		`{mode: kernel, telemetry: {enabled: true}}`:       "telemetry.enabled",
		`{provisioning: {force: 1}}`:                       "force",
		`{provisioning: {podResourcesDir: pods}}`:          "podResourcesDir",
		`{provisioning: {rules: []}}`:                      "rules",
		`{mode: kernel, provisioning: {enabled: 1}}`:       "provisioning",
		`{monitoring: {enabled: true}}`:                    "http.enabled",
		`{monitoring: {interval: 15}}`:                     "interval",
		`{priorityClassName: [system-node-critical]}`:      "priorityClassName",
	} {
		if _, _, err := helm(t, "any", values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("values %s: error %v, want one that names %s", values, err, want)
		}
	}
}

// TestChartSetsKubeletRoot: the driver is told the directory, and its mounts have the same path
// inside and outside.
func TestChartSetsKubeletRoot(t *testing.T) {
	const root = "/var/lib/k0s/kubelet"
	p := plugin{daemonSet: decode(t, mustHelm(t, `{front: dra, kubeletRoot: `+root+`}`)).daemonSets[0]}
	if !slices.Contains(p.container(t).Args, "-kubelet-root="+root) {
		t.Errorf("arguments %q", p.container(t).Args)
	}
	for _, dir := range []string{root + "/plugins_registry", root + "/plugins/" + driverName,
		"/var/lib/kubelet/device-plugins"} {
		if m, onHost := p.mount(t, dir); m == nil || onHost != dir {
			t.Errorf("%s is %q on the host", dir, onHost)
		}
	}
}

// TestChartNeedsVersionWithDRA: Kubernetes 1.34 is the first version with resource.k8s.io/v1.
func TestChartNeedsVersionWithDRA(t *testing.T) {
	for version, want := range map[string]string{
		"v1.33.9": "front: dra needs Kubernetes 1.34, and this is v1.33.9", "v1.34.0-eks-1": "", "v1.36.3": "",
	} {
		for _, front := range []string{"devicePlugin", "dra"} {
			_, _, err := helmOn(t, version, "any", "{front: "+front+"}")
			if front == "dra" && want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %v, want %s", version, err, want)
				}
			} else if err != nil {
				t.Errorf("%s with front %s: %v", version, front, err)
			}
		}
	}
}

func TestChartSchemaAllowsAllDrivers(t *testing.T) {
	for _, driver := range qat.DPDKDrivers() {
		mustHelm(t, `{config: {dpdkDriver: `+driver+`}}`)
	}
	for _, driver := range qat.KernelVFDrivers() {
		mustHelm(t, `{config: {kernelVFDrivers: [`+driver+`]}}`)
	}
}

// TestChartIgnoresReleaseName: a node has room for one plugin, however it was installed.
func TestChartIgnoresReleaseName(t *testing.T) {
	one, _, err := helm(t, "one", ``)
	must(t, err)
	two, _, err := helm(t, "two", ``)
	must(t, err)
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("(-release one +release two):\n%s", diff)
	}
}

func TestChartNotesNameInstalledObjects(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		_, notes, err := helm(t, "any", o.values)
		must(t, err)
		name := p.daemonSet.Name
		offers := "kubectl describe node NODE | grep qat.intel.com\n"
		if o.isDRA() {
			offers = "kubectl get resourceslices --field-selector spec.driver=qat.intel.com\n"
		}
		for _, want := range []string{
			offers,
			"kubectl -n accelerators rollout status daemonset/" + name + "\n",
			"kubectl -n accelerators logs daemonset/" + name + "\n",
			fmt.Sprintf("port-forward daemonset/%s %d", name, p.container(t).Ports[0].ContainerPort),
			"readyz?verbose",
		} {
			if !strings.Contains(notes, want) {
				t.Errorf("the notes lack %q:\n%s", want, notes)
			}
		}
	})
}

func TestChartIsValid(t *testing.T) {
	c := loadChart(t)
	must(t, c.Validate())
	if c.Name() != "intel-qat-plugin" || c.AppVersion() != "devel" {
		t.Errorf("the chart is %s with appVersion %s", c.Name(), c.AppVersion())
	}
	known := []string{
		"Chart.yaml", "values.yaml", "values.schema.json", ".helmignore", "files/rules.yaml", "files/dashboard.json",
	}
	for _, f := range c.Raw {
		if !strings.HasPrefix(f.Name, "templates/") && !slices.Contains(known, f.Name) {
			t.Errorf("unexpected file %s in the chart", f.Name)
		}
	}
}
