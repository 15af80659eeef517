// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestOverlays applies the base and each overlay of mode dpdk, runs the sample pod, and
// deletes them again. For mode kernel see TestKernelOverlay.
func TestOverlays(t *testing.T) {
	t.Run("base", func(t *testing.T) { testOverlay(t, "qat_plugin", "intel-qat-plugin") })
	t.Run("debug", func(t *testing.T) { testOverlay(t, "qat_plugin/overlays/debug", "intel-qat-plugin-debug") })
	t.Run("cdi", func(t *testing.T) {
		in, h := testOverlay(t, "qat_plugin/overlays/cdi", "intel-qat-plugin")
		checkCDISpec(t, append(h.VFs(cyPF), h.VFs(dcPF)...))
		in.checkRuntimeUsesCDI()
	})
	t.Run("telemetry", func(t *testing.T) {
		_, h := testOverlay(t, "qat_plugin/overlays/telemetry", "intel-qat-plugin")
		for _, pf := range []string{cyPF, dcPF} { // through the pod's writable mount of debugfs
			text := readFile(t, h.Sysfs(), "kernel/debug/qat_4xxx_"+pf, "telemetry/control")
			if strings.TrimSpace(text) != "1" {
				t.Errorf("telemetry/control of %s is %q, want 1", pf, text)
			}
		}
	})
	t.Run("nfd", func(t *testing.T) {
		const label = "intel.feature.node.kubernetes.io/qat"
		kubectl(t, "label", "node", nodeName, label+"=true")
		t.Cleanup(func() { kubectl(t, "label", "node", nodeName, label+"-") })
		testOverlay(t, "qat_plugin/overlays/nfd", "intel-qat-plugin")
	})
}

func testOverlay(t *testing.T, name, set string) (*installation, *host) {
	t.Helper()
	n := openNode(t)
	checkRendered(t, name)
	checkRendered(t, "workloads/sample")
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	must(t, h.addPF(dcPF, "dc"))

	began := time.Now()
	in := n.install(name, h.hostPaths())
	if in.set != set {
		t.Errorf("DaemonSet %q, want %q", in.set, set)
	}
	in.checkPodSecurity("hostPath volumes", "seLinuxOptions")
	pod := in.awaitReady()
	ready := time.Now()
	listed := n.awaitResources(resources{cy: 16, dc: 16})
	t.Logf("ready %.1f s after kubectl apply, in the Node's capacity after %.1f s",
		ready.Sub(began).Seconds(), listed.Sub(began).Seconds())
	n.checkReadyz(pod)

	sample := n.runSample()
	vf := sample.devices.Env["QAT0"]
	if !slices.Contains(h.VFs(cyPF), vf) {
		t.Fatalf("the sample pod has %v, want QAT0 to be one of %v", sample.devices.Env, h.VFs(cyPF))
	}
	sample.checkDevices(devices{
		Env:   map[string]string{"QAT0": vf},
		Nodes: []string{h.vfioNode(vf), "/dev/vfio/vfio"},
	})
	want := "QAT0=" + vf + "\nnode " + h.vfioNode(vf) + "\nnode /dev/vfio/vfio\n"
	if diff := cmp.Diff(want, kubectl(t, "logs", "-n", workloadNamespace, sample.name)); diff != "" {
		t.Errorf("log of the sample pod (-want +got):\n%s", diff)
	}
	n.runPod("opens", cy, 1).checkOpens("/dev/vfio/vfio")
	return in, h
}

// checkRendered checks that kubectl renders the file in test/deployments/testdata, as the
// library of kustomize and the chart do. The order of the objects does not count: kubectl sorts
// them by kind.
func checkRendered(t *testing.T, name string) {
	t.Helper()
	base := filepath.Base(name)
	if base == "monitoring" {
		base = "http"
	}
	switch {
	case name == "qat_plugin":
		base = "base"
	case name == "qat_dra_driver":
		base = "dra"
	case strings.HasPrefix(name, "qat_dra_driver/"), strings.HasPrefix(name, "workloads/dra/"):
		base = "dra-" + base
	}
	sorted := func(objects string) []string {
		list := strings.Split(strings.TrimSpace(objects), "\n---\n")
		slices.Sort(list)
		return list
	}
	want := sorted(readFile(t, projectFile("test/deployments/testdata", base+".yaml")))
	if diff := cmp.Diff(want, sorted(kubectl(t, "kustomize", deployment(name)))); diff != "" {
		t.Errorf("kubectl kustomize deployments/%s (-testdata +got):\n%s", name, diff)
	}
}

// violation matches the names of the checks in a warning such as
//
//	would violate PodSecurity "baseline:latest": hostPath volumes (volume "x"), privileged (…)
var violation = regexp.MustCompile(`(?:: |, )([A-Za-z][A-Za-z /]*[A-Za-z!=]*) \(`)

// checkPodSecurity logs the pod's violations of the Pod Security level restricted, and
// checks those of the level baseline.
func (in *installation) checkPodSecurity(baseline ...string) {
	in.t.Helper()
	if !strings.Contains(in.warnings, `would violate PodSecurity "restricted:`) {
		in.t.Errorf("kubectl apply printed no warning for the level restricted: %q", in.warnings)
	}
	in.t.Logf("%s", strings.TrimSpace(in.warnings))
	in.addNamespace(dryRunNamespace, warnBaseline)
	objects := kubectl(in.t, "kustomize", in.dir)
	objects = strings.ReplaceAll(objects, "namespace: "+pluginNamespace+"\n", "namespace: "+dryRunNamespace+"\n")
	file := filepath.Join(in.t.TempDir(), "objects.yaml")
	must(in.t, os.WriteFile(file, []byte(objects), 0o600))
	_, warnings, err := tryKubectl("apply", "--dry-run=server", "-n", dryRunNamespace, "-f", file)
	if err != nil {
		in.t.Fatalf("kubectl apply --dry-run=server -f %s: %v\n%s", file, err, warnings)
	}
	_, list, _ := strings.Cut(warnings, `PodSecurity "baseline:latest"`)
	var got []string
	for _, m := range violation.FindAllStringSubmatch(list, -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if diff := cmp.Diff(baseline, got); diff != "" {
		in.t.Errorf("violations of the level baseline (-want +got):\n%s\n%s", diff, warnings)
	}
	in.t.Logf("%s", strings.TrimSpace(warnings))
}
