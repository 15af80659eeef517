// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFrontsExcludeEachOther installs the device plugin and the DRA driver on one node, in either
// order. The second one waits, says so, and takes over when the first one is gone.
func TestFrontsExcludeEachOther(t *testing.T) {
	n := openNode(t)
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	plugin := func() *installation { return n.install("qat_plugin/overlays/debug", h.hostPaths()) }
	driver := func() *installation { return n.installDriver("qat_dra_driver", h) }
	pluginServes := func() { n.awaitResources(resources{cy: 16}) }
	driverServes := func() { n.awaitPool(func(p pool) error { return p.hasHealthy(h.VFs(cyPF)) }) }

	for _, test := range []struct {
		name                      string
		first, second             func() *installation
		firstServes, secondServes func()
		checkSecondOffersNothing  func()
	}{
		{"device plugin first", plugin, driver, pluginServes, driverServes, func() {
			if p, err := n.pool(); err != nil || len(p) > 0 {
				t.Errorf("the waiting driver has the pool %v, %v", p, err)
			}
		}},
		{"DRA driver first", driver, plugin, driverServes, pluginServes, func() {
			node, err := n.client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
			must(t, err)
			if vfs := resourcesOf(node.Status.Allocatable)[cy]; vfs > 0 {
				t.Errorf("the waiting device plugin has %d VFs in the Node", vfs)
			}
		}},
	} {
		first := test.first()
		first.awaitReady()
		test.firstServes()
		second := test.second()
		second.awaitWaiting()
		test.firstServes()
		test.checkSecondOffersNothing()
		kubectl(t, "delete", "-n", pluginNamespace, "--cascade=foreground", "-k", first.dir)
		began := time.Now()
		test.secondServes()
		t.Logf("%s: the second one offered the VFs %.1f s after the first one had gone",
			test.name, time.Since(began).Seconds())
		kubectl(t, "delete", "-n", pluginNamespace, "--cascade=foreground", "-k", second.dir)
		n.deleteSlices()
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
