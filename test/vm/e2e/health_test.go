package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// healthNode is a node of two PFs with all VFs listed; the heartbeat is read each second.
func healthNode(t *testing.T) (n *node, a, b *pf) {
	t.Helper()
	n = newNode(t, "npf=2", "-health-interval=1s")
	a, b = n.pfs[0], n.pfs[1]
	write(t, a.path("sriov_numvfs"), "16")
	write(t, b.path("sriov_numvfs"), "16")
	n.settle(t, a, b)
	return n, a, b
}

// awaitUnhealthy waits until a's VFs are Unhealthy and b's are not.
func (n *node) awaitUnhealthy(t *testing.T, a, b *pf) int64 {
	t.Helper()
	want := vfList(t, "Unhealthy", a)
	for resource, devices := range vfList(t, "", b) {
		want[resource] = devices
	}
	at := n.await(t, want)
	if r := n.kubelet.try(t, fmt.Sprintf("allocate ill qat.intel.com/%s 1", a.resource(t))); r.Error == "" {
		t.Errorf("%v was allocated", r.IDs)
	}
	return at
}

func TestAHeartbeatThatFailsMakesVFsUnhealthyUntilItIsBack(t *testing.T) {
	n, a, b := healthNode(t)
	for range 2 {
		began := monotonic()
		write(t, a.control("hb_fail"), "1")
		at := n.awaitUnhealthy(t, a, b)
		took := time.Duration(at-began) * time.Microsecond
		t.Logf("unhealthy %v after the heartbeat began to fail", took.Round(time.Millisecond))
		if took < time.Second {
			t.Errorf("unhealthy after %v: that was one failing read, want two in a row", took)
		}
		write(t, a.control("hb_fail"), "0")
		n.settle(t, a, b)
	}
}

func TestPCIErrorRecoveryMakesVFsUnhealthyMeanwhile(t *testing.T) {
	n, a, b := healthNode(t)
	for _, test := range []struct {
		event string
		wait  func()
	}{
		{"BEGIN_RECOVERY", func() { n.awaitUnhealthy(t, a, b) }},
		{"SUCCESSFUL_RECOVERY", func() { n.settle(t, a, b) }},
		{"FAILED_RECOVERY", func() { n.awaitUnhealthy(t, a, b) }},
		{"SUCCESSFUL_RECOVERY", func() { n.settle(t, a, b) }},
	} {
		write(t, a.control("error_event"), test.event)
		test.wait()
	}
}

func TestAFatalErrorCountsUntilThePFWasDownAndUp(t *testing.T) {
	n, a, b := healthNode(t)
	sent := filepath.Join(filepath.Dir(b.heartbeat("4xxx")), "queries_sent")
	waitFor(t, "the plugin's first look", func() bool { return read(t, sent) != "0" }) // what was before that is not new
	write(t, a.control("ras"), "7 3 0")                                                // not fatal: nothing happens
	write(t, b.control("ras"), "0 0 1")
	n.awaitUnhealthy(t, b, a)
	write(t, b.path("qat/state"), "down")
	write(t, b.path("qat/state"), "up")
	write(t, b.path("sriov_numvfs"), "16")
	n.settle(t, a, b)
}
