// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/test/kubelet/devicemanager"
)

const checkpoint = "kubelet_internal_checkpoint"

func wantSocketDir(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, list(t, devicemanager.SocketDir)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", devicemanager.SocketDir, diff)
	}
}

func TestShutdownLeavesNothingBehind(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	wantSocketDir(t, "kubelet.sock")
	p.edit(t, healthyDevices("generic", 16))
	tree := p.edit(t, healthyDevices("cy", 4))
	before := currentUsage(t)
	stop := n.startPlugin(p)
	n.wantTree(tree)
	wantSocketDir(t, "kubelet.sock", checkpoint, "qat.intel.com-cy.sock", "qat.intel.com-generic.sock")
	stop()
	wantSocketDir(t, "kubelet.sock", checkpoint)
	n.wantCount(generic, 16, 0) // the kubelet keeps a stopped endpoint for five minutes
	n.wantCount(namespace+"/cy", 4, 0)
	waitForUsage(t, before)
}

func TestShutdownWithoutKubelet(t *testing.T) {
	n, p := newNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 16))
	before := currentUsage(t)
	stop := n.startPlugin(p)
	stop()
	wantSocketDir(t)
	waitForUsage(t, before)
}
