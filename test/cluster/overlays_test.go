package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The base and the overlays of the mode for user space, each applied, used by the sample pod and deleted again.
func TestOverlaysAreInstalledAndServeTheSamplePod(t *testing.T) {
	t.Run("base", func(t *testing.T) { testOverlay(t, "qat_plugin", "intel-qat-plugin") })
	t.Run("debug", func(t *testing.T) { testOverlay(t, "qat_plugin/overlays/debug", "intel-qat-plugin-debug") })
	t.Run("cdi", func(t *testing.T) {
		h := testOverlay(t, "qat_plugin/overlays/cdi", "intel-qat-plugin")
		wantCDI(t, append(h.VFs(cyPF), h.VFs(dcPF)...))
	})
	t.Run("nfd", func(t *testing.T) {
		const label = "intel.feature.node.kubernetes.io/qat"
		kubectl(t, "label", "node", nodeName, label+"=true")
		t.Cleanup(func() { kubectl(t, "label", "node", nodeName, label+"-") })
		testOverlay(t, "qat_plugin/overlays/nfd", "intel-qat-plugin")
	})
}

func testOverlay(t *testing.T, name, set string) *host {
	t.Helper()
	n := openNode(t)
	wantGolden(t, name)
	wantGolden(t, "workloads/sample")
	h := startHost(t)
	h.add(cyPF, "sym;asym")
	h.add(dcPF, "dc")

	began := time.Now()
	in := n.install(name, h.paths())
	if in.set != set {
		t.Errorf("the DaemonSet is %q, want %q", in.set, set)
	}
	in.wantPodSecurity(name, []string{"hostPath volumes", "seLinuxOptions"})
	pod := in.ready()
	ready := time.Now()
	offered := n.offers(map[string]int64{cy: 16, dc: 16})
	t.Logf("applied; ready after %.1f s, in the Node's capacity after %.1f s", ready.Sub(began).Seconds(), offered.Sub(began).Seconds())
	wantReadyz(t, n.readyz(pod))

	sample := n.sample()
	vf := sample.got.Env["QAT0"]
	if !slices.Contains(h.VFs(cyPF), vf) {
		t.Fatalf("the sample pod was told %v, want QAT0 to be one of %v", sample.got.Env, h.VFs(cyPF))
	}
	want := devices{Env: map[string]string{"QAT0": vf}, Nodes: []string{h.node(vf), "/dev/vfio/vfio"}}
	if diff := cmp.Diff(want, sample.got); diff != "" {
		t.Errorf("the sample pod's container has (-want +got):\n%s", diff)
	}
	said := kubectl(t, "logs", "-n", workloads, sample.name)
	if want := "QAT0=" + vf + "\nnode " + h.node(vf) + "\nnode /dev/vfio/vfio\n"; said != want {
		t.Errorf("the sample pod said (-want +got):\n%s", cmp.Diff(want, said))
	}
	n.ask("opens", cy, 1).open("/dev/vfio/vfio")
	t.Logf("the sample pod said: %s", strings.ReplaceAll(strings.TrimSpace(said), "\n", ", "))
	return h
}

// wantCDI checks that the node's directory for CDI has a spec of these VFs.
func wantCDI(t *testing.T, vfs []string) {
	t.Helper()
	text, err := os.ReadFile("/var/run/cdi/qat.intel.com-vf_device-plugin.json")
	must(t, err)
	var spec struct {
		Kind    string
		Devices []struct{ Name string }
	}
	must(t, json.Unmarshal(text, &spec))
	var got []string
	for _, d := range spec.Devices {
		got = append(got, d.Name)
	}
	slices.Sort(got)
	slices.Sort(vfs)
	if diff := cmp.Diff(vfs, got); diff != "" || spec.Kind != "qat.intel.com/vf" {
		t.Errorf("the CDI spec is of %s and has (-want +got):\n%s", spec.Kind, diff)
	}
}

// wantReadyz checks that each check of the plugin's readiness is passed.
func wantReadyz(t *testing.T, got string) {
	t.Helper()
	const want = "[+]event-loop ok\n[+]first-look ok\n[+]kernel-heard ok\n[+]registered ok\nreadyz check passed\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("readyz?verbose (-want +got):\n%s", diff)
	}
}

// wantGolden compares what kubectl renders with what test/deployments has on record, which is what the kustomize library and the chart render.
func wantGolden(t *testing.T, name string) {
	t.Helper()
	golden := filepath.Base(name)
	if name == "qat_plugin" {
		golden = "base"
	}
	file := filepath.Join(os.Getenv("CLUSTER_TOP"), "test/deployments/testdata", golden+".yaml")
	want, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(want), kubectl(t, "kustomize", deployment(name))); diff != "" {
		t.Errorf("kubectl kustomize deployments/%s differs from %s (-want +got):\n%s", name, file, diff)
	}
}

// violation finds the names of the checks in `would violate PodSecurity "baseline:latest": hostPath volumes (volume "x"), privileged (…)`.
var violation = regexp.MustCompile(`(?:: |, )([A-Za-z][A-Za-z /]*[A-Za-z!=]*) \(`)

// wantPodSecurity prints what Pod Security says of the installation at the level restricted, and checks what it says at the level baseline.
func (in *installation) wantPodSecurity(name string, baseline []string) {
	in.t.Helper()
	if !strings.Contains(in.warnings, `would violate PodSecurity "restricted:`) {
		in.t.Errorf("kubectl apply into a namespace that warns of what is not restricted said %q", in.warnings)
	}
	in.t.Logf("%s", strings.TrimSpace(in.warnings))
	in.makeNamespace(strict, warnBaseline)
	_, complaints, err := try(in.t, "apply", "--dry-run=server", "-n", strict, "-k", in.dir)
	if err != nil {
		in.t.Fatalf("kubectl apply --dry-run=server -k %s: %v\n%s", name, err, complaints)
	}
	_, list, _ := strings.Cut(complaints, `PodSecurity "baseline:latest"`)
	var got []string
	for _, m := range violation.FindAllStringSubmatch(list, -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if diff := cmp.Diff(baseline, got); diff != "" {
		in.t.Errorf("beyond the Pod Security level baseline are (-want +got):\n%s\n%s", diff, complaints)
	}
	in.t.Logf("%s", strings.TrimSpace(complaints))
}
