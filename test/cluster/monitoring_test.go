// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/internal/lookalike"
)

// Alerts of deployments/monitoring/rules.yaml that this test cannot provoke, or not soon enough.
// test/monitoring tests them with promtool.
var notProvoked = map[string]string{
	"QATPluginPodsUnavailable": "needs kube-state-metrics",
	"QATPluginRestarting":      "the kubelet delays the second and third restart",
	"QATPluginCheckFailed":     "the checks that it covers do not fail on this host",
	"QATPluginSnapshotStale":   "the kernel would have to block a call of the event loop",
	"QATUeventsNotReceived":    "needs a pod in a user namespace",
	"QATDrift":                 "inotify reports every change of a look-alike host",
	"QATEventToListSlow":       "the plugin would have to be slow ten times",
	"QATProvisioningWaiting":   "TestProvisioningOverlay has a pod that holds VFs",
	"QATDRANotRegistered":      "needs the DRA driver",
	"QATDRAPrepareErrors":      "needs the DRA driver",
}

// TestAlertsFire installs the overlay monitoring, lets a real Prometheus scrape the pod, and
// provokes the faults of the alerts. Without a fault none may fire.
func TestAlertsFire(t *testing.T) {
	const (
		name     = "qat_plugin/overlays/monitoring"
		fatalPF  = "0000:75:00.0"
		downPF   = "0000:7a:00.0"
		deniedPF = "0000:3b:00.0"
	)
	n := openNode(t)
	checkRendered(t, name)
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	must(t, h.addPF(dcPF, "dc"))
	must(t, h.addPF(fatalPF, "sym"))
	must(t, h.addPF(downPF, "asym"))

	p := startPrometheus(t)
	p.awaitFiring(alert{"alertname": "QATPluginAbsent", "severity": "critical"})

	// The heartbeat is checked each second, and there is a configuration for provisioning.
	in := n.installFrom(addKustomization(t, deployment(name), provisioned), h.hostPaths())
	pod := in.awaitReady()
	n.awaitResources(resources{cy: 16, dc: 16})

	up := p.awaitQuery(`count_over_time(up{job="intel-qat-plugin"}[1m]) > 5 and up == 1`)
	want := map[string]string{
		"job": "intel-qat-plugin", "namespace": pluginNamespace, "pod": pod.Name, "node": nodeName,
		"container": "intel-qat-plugin", "instance": pod.Status.PodIP + ":8080",
	}
	if diff := cmp.Diff(want, up); diff != "" {
		t.Errorf("labels of the pod's series (-want +got):\n%s", diff)
	}
	p.awaitQuiet("QATPluginAbsent")
	if fired := p.query(`count by (alertname) (count_over_time(` +
		`ALERTS{alertstate="firing",alertname!="QATPluginAbsent"}[5m]))`); len(fired) > 0 {
		t.Errorf("alerts that fired without a fault: %v", fired)
	}

	setProvisioning(t, "rules: [{services: [compression]}]")
	must(t, h.SetHeartbeat(dcPF, "-1"))
	must(t, h.SetAttr(fatalPF, "qat_ras/errors_fatal", "1"))
	must(t, h.SetState(downPF, "down"))
	must(t, h.AddPF(lookalike.PF{Address: deniedPF, DeviceID: "37c8"}))
	must(t, h.SetVFs(deniedPF, 4))
	must(t, h.SetAttr(cyPF, "qat_ras/errors_nonfatal", "1"))
	must(t, h.SetEngines(dcPF, lookalike.Engine{CompressErrors: 1}))
	vf := h.VFs(cyPF)[0]
	h.FailBind(vf, errors.New("out of memory"))
	must(t, h.Unbind(vf))
	allocateUnknown(t)
	p.awaitFiring(
		alert{"alertname": "QATPFUnhealthy", "pf": dcPF, "node": nodeName, "namespace": pluginNamespace},
		alert{"alertname": "QATHeartbeatFailed", "pf": dcPF},
		alert{"alertname": "QATAllDevicesUnhealthy", "resource": dc},
		alert{"alertname": "QATFatalErrors", "pf": fatalPF},
		alert{"alertname": "QATPFDown", "pf": downPF},
		alert{"alertname": "QATVFsSkipped", "reason": "denylist"},
		alert{"alertname": "QATNonfatalErrors", "pf": cyPF},
		alert{"alertname": "QATCompressionErrors", "pf": dcPF},
		alert{"alertname": "QATBindFailures"},
		alert{"alertname": "QATAllocationErrors", "resource": cy, "reason": codes.NotFound.String()},
		alert{"alertname": "QATProvisioningConfigInvalid"},
	)
	setProvisioning(t, "rules: [{services: [sym, asym, dc]}]") // three: not on 4xxx
	p.awaitFiring(alert{"alertname": "QATProvisioningFailed"})
	p.awaitQuiet("QATProvisioningConfigInvalid")

	p.checkDashboard()

	process := n.process(pod)
	must(t, syscall.Kill(process, syscall.SIGSTOP))
	p.awaitFiring(alert{"alertname": "QATPluginDown", "pod": pod.Name})
	must(t, syscall.Kill(process, syscall.SIGCONT))

	n.stopKubelet()
	p.awaitFiring(alert{"alertname": "QATNotRegistered", "resource": cy})
	n.startKubelet()
	p.awaitQuiet("QATNotRegistered")
	p.awaitQuiet("QATPluginDown")
	p.checkAllProvoked()
}

// provisioned adds a configuration for provisioning and short health checks to the plugin.
const provisioned = `
configMapGenerator:
- name: qat-provisioning
  literals: ['qat.yaml=rules: []']
  options: {disableNameSuffixHash: true}
patches:
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: intel-qat-plugin-config}
    data: {HEALTH_INTERVAL: 1s}
- target: {kind: DaemonSet}
  patch: |
    - op: add
      path: /spec/template/spec/containers/0/args/-
      value: -provisioning-dir=/etc/qat-provisioning
    - op: add
      path: /spec/template/spec/containers/0/volumeMounts/-
      value: {name: provisioning, mountPath: /etc/qat-provisioning, readOnly: true}
    - op: add
      path: /spec/template/spec/volumes/-
      value: {name: provisioning, configMap: {name: qat-provisioning}}
`

// setProvisioning replaces the configuration for provisioning. The kubelet updates the mounted
// file within seconds.
func setProvisioning(t *testing.T, text string) {
	t.Helper()
	kubectl(t, "patch", "-n", pluginNamespace, "configmap/qat-provisioning", "--type=merge",
		"-p", fmt.Sprintf(`{"data":{"qat.yaml":%q}}`, text))
}

// allocateUnknown calls Allocate of the plugin, as the kubelet does, for a device that does not
// exist.
func allocateUnknown(t *testing.T) {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(pluginapi.DevicePluginPath, strings.ReplaceAll(cy, "/", "-")+"*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets of %s: %v, %v", cy, sockets, err)
	}
	conn, err := grpc.NewClient("unix:"+sockets[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err = pluginapi.NewDevicePluginClient(conn).Allocate(ctx, &pluginapi.AllocateRequest{
		ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: []string{"0000:00:00.0"}}},
	})
	if grpcstatus.Code(err) != codes.NotFound {
		t.Fatalf("Allocate of an unknown device: %v", err)
	}
}

// checkDashboard checks that each panel of the dashboard shows something, except for those of the
// telemetry, which is off, and of the DRA driver.
func (p *prometheus) checkDashboard() {
	p.t.Helper()
	needTelemetry := []string{
		"Utilization by slice type", "Utilization by PF", "Bandwidth", "Device latency", "Telemetry samples",
	}
	panels := p.dashboard()
	for _, panel := range panels {
		empty := panel.row == rowDRA || slices.Contains(needTelemetry, panel.title)
		if (panel.series > 0) == empty {
			p.t.Errorf("panel %s has %d series", panel.title, panel.series)
		}
	}
	p.t.Logf("%d panels were queried", len(panels))
}

// rowDRA is the row of the dashboard about the DRA driver.
const rowDRA = "Dynamic Resource Allocation"

// A panel of the dashboard, and how many series it shows.
type panel struct {
	row, title string
	series     int
}

// dashboard queries the panels of the dashboard.
func (p *prometheus) dashboard() (panels []panel) {
	p.t.Helper()
	variables := strings.NewReplacer("$node", nodeName, "$pf", ".*", "$__rate_interval", "1m")
	row := ""
	for _, object := range list(readYAML(p.t, deployment("monitoring/dashboard.json"))["panels"]) {
		title := fmt.Sprint(object["title"])
		if object["type"] == "row" {
			row = title
			continue
		}
		targets := list(object["targets"])
		if len(targets) == 0 {
			continue
		}
		series := 0
		for _, target := range targets {
			series += len(p.query(variables.Replace(fmt.Sprint(target["expr"]))))
		}
		panels = append(panels, panel{row, title, series})
	}
	return panels
}

// checkAllProvoked checks that each alert has fired, except for those in notProvoked.
func (p *prometheus) checkAllProvoked() {
	p.t.Helper()
	var want, got []string
	for _, group := range list(readYAML(p.t, deployment("monitoring/rules.yaml"))["groups"]) {
		for _, rule := range list(group["rules"]) {
			if name := fmt.Sprint(rule["alert"]); notProvoked[name] == "" {
				want = append(want, name)
			}
		}
	}
	for _, labels := range p.query(`count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[10m]))`) {
		got = append(got, labels["alertname"])
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("alerts that fired (-want +got):\n%s", diff)
	}
	p.t.Logf("%d alerts fired, %d are left to promtool", len(got), len(notProvoked))
}
