// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"testing"
	"time"
)

// startHealthNode returns a node with two PFs whose VFs are listed. The plugin polls the PFs each
// second.
func startHealthNode(t *testing.T) (n *node, a, b *pf) {
	t.Helper()
	n = startNode(t, "npf=2", "-health-interval=1s")
	a, b = n.pfs[0], n.pfs[1]
	a.enableVFs(t)
	b.enableVFs(t)
	n.waitForVFs(t, a, b)
	return n, a, b
}

// waitForUnhealthy waits until the VFs of one PF are Unhealthy and those of the other are not. It
// returns when the kubelet received the last list.
func (n *node) waitForUnhealthy(t *testing.T, unhealthy, healthy *pf) time.Duration {
	t.Helper()
	want := vfLists(t, "Unhealthy", unhealthy)
	maps.Copy(want, vfLists(t, "Healthy", healthy))
	received := n.waitForLists(t, want)
	if r := n.kubelet.try(t, "allocate pod "+unhealthy.resource(t)+" 1"); r.Error == "" {
		t.Errorf("the unhealthy %v was allocated", r.IDs)
	}
	return received
}

func TestFailingHeartbeatMakesVFsUnhealthy(t *testing.T) {
	n, a, b := startHealthNode(t)
	for range 2 {
		start := monotonic()
		write(t, a.control("hb_fail"), "1")
		took := n.waitForUnhealthy(t, a, b) - start
		t.Logf("unhealthy %v after the heartbeat began to fail", took.Round(time.Millisecond))
		if took < time.Second {
			t.Errorf("unhealthy after %v, that is after one failed heartbeat, want two in a row", took)
		}
		write(t, a.control("hb_fail"), "0")
		n.waitForVFs(t, a, b)
	}
}

func TestPCIErrorMakesVFsUnhealthyUntilRecovery(t *testing.T) {
	n, a, b := startHealthNode(t)
	for _, failure := range []string{"BEGIN_RECOVERY", "FAILED_RECOVERY"} {
		write(t, a.control("error_event"), failure)
		n.waitForUnhealthy(t, a, b)
		write(t, a.control("error_event"), "SUCCESSFUL_RECOVERY")
		n.waitForVFs(t, a, b)
	}
}

func TestFatalErrorMakesVFsUnhealthyUntilPFRestart(t *testing.T) {
	n, a, b := startHealthNode(t)
	// Errors before the first poll do not count.
	sent := b.heartbeat("queries_sent")
	poll(t, pollInterval, "the first poll of the PF", func() bool { return read(t, sent) != "0" })
	write(t, a.control("ras"), "7 3 0") // no fatal errors, so a stays healthy
	write(t, b.control("ras"), "0 0 1")
	n.waitForUnhealthy(t, b, a)
	write(t, b.path("qat/state"), "down")
	write(t, b.path("qat/state"), "up")
	b.enableVFs(t)
	n.waitForVFs(t, a, b)
}
