package kubelet

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/test/kubelet/devicemanager"
)

func TestGracefulEndLeavesNothing(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	before := list(t, devicemanager.SocketDir)
	p.edit(t, healthyDevices("generic", 16))
	tree := p.edit(t, healthyDevices("cy", 4))
	used := usageNow(t)
	stop := n.startPlugin(p)
	n.wantTree(tree)
	sockets := []string{"kubelet.sock", "kubelet_internal_checkpoint", "qat.intel.com-cy.sock", "qat.intel.com-generic.sock"}
	if diff := cmp.Diff(sockets, list(t, devicemanager.SocketDir)); diff != "" {
		t.Errorf("kubelet's directory while the plugin runs (-want +got):\n%s", diff)
	}
	stop()
	if diff := cmp.Diff(append(before, "kubelet_internal_checkpoint"), list(t, devicemanager.SocketDir)); diff != "" {
		t.Errorf("kubelet's directory when the plugin has ended (-want +got):\n%s", diff)
	}
	n.wantCount(generic, 16, 0) // the kubelet keeps an endpoint that is gone for five minutes
	n.wantCount(namespace+"/cy", 4, 0)
	eventually(t, func() error { return usageNow(t).exceeds(used) })
}

func TestEndWhileNoKubeletRuns(t *testing.T) {
	n, p := newNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 16))
	used := usageNow(t)
	stop := n.startPlugin(p)
	stop()
	if names := list(t, devicemanager.SocketDir); len(names) > 0 {
		t.Errorf("the plugin left %q", names)
	}
	eventually(t, func() error { return usageNow(t).exceeds(used) })
}
