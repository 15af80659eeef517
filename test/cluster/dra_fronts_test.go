// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFrontsExcludeEachOther installs the device plugin and the DRA driver on one node, in either
// order. The second one waits, says so, and offers nothing.
func TestFrontsExcludeEachOther(t *testing.T) {
	n := openNode(t)
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	remove := func(in *installation) {
		kubectl(t, "delete", "-n", pluginNamespace, "--cascade=foreground", "-k", in.dir)
	}

	plugin := n.install("qat_plugin/overlays/debug", h.hostPaths())
	n.awaitResources(resources{cy: 16})
	driver := n.installDriver("qat_dra_driver", h)
	driver.awaitWaiting()
	if p, err := n.pool(); err != nil || len(p) > 0 {
		t.Errorf("the waiting driver has the pool %v, %v", p, err)
	}
	remove(driver)
	remove(plugin)

	driver = n.installDriver("qat_dra_driver", h)
	n.awaitPool(func(p pool) error { return p.hasHealthy(h.VFs(cyPF)) })
	plugin = n.install("qat_plugin/overlays/debug", h.hostPaths())
	plugin.awaitWaiting()
	node, err := n.client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	must(t, err)
	if vfs := resourcesOf(node.Status.Allocatable)[cy]; vfs > 0 {
		t.Errorf("the waiting device plugin has %d VFs in the Node", vfs)
	}
	remove(plugin)
	remove(driver)
}

// TestMigrationGuideCommands moves the node from the device plugin to the DRA driver and back, with
// the commands of docs/dra-migration.md. A Deployment that requests an extended resource runs
// unchanged on both.
func TestMigrationGuideCommands(t *testing.T) {
	n := openNode(t)
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	guide := readFile(t, projectFile("docs/dra-migration.md"))
	_, guide, _ = strings.Cut(guide, "\n## From the device plugin to the DRA driver\n")
	there, back, _ := strings.Cut(guide, "\n## Back to the device plugin\n")
	back, _, _ = strings.Cut(back, "\n## ")

	n.install("qat_plugin", h.hostPaths()).awaitReady()
	n.awaitResources(resources{cy: 16})
	n.t.Cleanup(n.deleteSlices)
	driver := replaceHostPaths(t, draKustomization(t, "qat_dra_driver"), h.hostPaths())
	n.cleanup(func() {
		kubectl(t, "uncordon", nodeName)
		kubectl(t, "label", "node", nodeName, "qat-front-")
		kubectl(t, "delete", "deployment", "--ignore-not-found", "migrates")
		n.awaitPodsDeleted(metav1.NamespaceDefault)
		kubectl(t, "delete", "--ignore-not-found", "--cascade=foreground", "-k", driver)
	})
	n.createDeployment(requesting(newPod("migrates"), cy, 2))
	pods := func() *workload {
		w := n.awaitDeployment("migrates")
		if list := w.vfs(); len(list) != 2 {
			t.Errorf("the pod of the Deployment has VFs %v, want 2", list)
		}
		return w
	}
	if w := pods(); len(w.devices.Env) != 2 {
		t.Errorf("the pod has %v, want the variables of the device plugin", w.devices.Env)
	}
	replace := strings.NewReplacer("-n qat ", "-n "+pluginNamespace+" ", "-k deployments/qat_dra_driver", "-k "+driver,
		"NODE", nodeName)
	run := func(section string) {
		t.Helper()
		began := time.Now()
		for _, block := range blocksIn(section) {
			runCommands(t, replace.Replace(block), os.Getenv("KUBECONFIG"))
		}
		ran := time.Now()
		n.awaitDeployment("migrates")
		t.Logf("the commands took %.1f s, then a pod had VFs after %.1f s",
			ran.Sub(began).Seconds(), time.Since(ran).Seconds())
	}
	run(there)
	pods().checkHas(h, 2, h.VFs(cyPF))
	run(back)
	if w := pods(); len(w.devices.Env) != 2 {
		t.Errorf("the pod has %v, want the variables of the device plugin", w.devices.Env)
	}
}

// awaitWaiting waits until the pod logs that another program serves the devices, and checks that it
// is not ready.
func (in *installation) awaitWaiting() {
	in.t.Helper()
	const message = "Not serving the devices of this node, because another program serves them"
	poll(in.t, func() error {
		if log := in.logs(); !strings.Contains(log, message) {
			return fmt.Errorf("the log has no message %q:\n%s", message, log)
		}
		return nil
	})
	pod, err := in.pod()
	must(in.t, err)
	if checkReady(pod) == nil {
		in.t.Errorf("pod %s is ready while another program serves the devices", pod.Name)
	}
}
