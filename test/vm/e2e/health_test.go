// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startHealthNode returns a node with two PFs whose VFs are listed. The plugin polls the PFs each
// second, unless the flags override that.
func startHealthNode(t *testing.T, flags ...string) (n *node, a, b *pf) {
	t.Helper()
	n = startNode(t, "npf=2", append([]string{"-health-interval=1s"}, flags...)...)
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
	const interval = 5 * time.Second // the default
	n, a, b := startHealthNode(t, "-health-interval="+interval.String())
	for range 3 {
		before := count(t, a.heartbeat("queries_failed"))
		start := monotonic()
		write(t, a.control("hb_fail"), "1")
		took := n.waitForUnhealthy(t, a, b) - start
		t.Logf("unhealthy %v after the heartbeat began to fail", took.Round(time.Millisecond))
		if failed := count(t, a.heartbeat("queries_failed")) - before; failed != 1 {
			t.Errorf("unhealthy after %d failed heartbeats, want 1", failed)
		}
		write(t, a.control("hb_fail"), "0")
		n.waitForVFs(t, a, b)
	}
}

// count reads a counter.
func count(t *testing.T, path string) int {
	t.Helper()
	value, err := strconv.Atoi(read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// waitForChecks waits until the driver has checked the heartbeat of a PF n more times because the
// plugin read it.
func (p *pf) waitForChecks(t *testing.T, n int) {
	t.Helper()
	sent := p.heartbeat("queries_sent")
	want := count(t, sent) + n
	poll(t, pollInterval, "heartbeat checks", func() bool { return count(t, sent) >= want })
}

func TestHeartbeatReadTooSoonIsNotAFailure(t *testing.T) {
	n, a, b := startHealthNode(t)
	write(t, a.control("hb_timer"), "3500") // three of four reads are -1
	a.waitForChecks(t, 3)
	if count(t, a.heartbeat("queries_failed")) != 0 {
		t.Error("a check failed")
	}
	if diff := cmp.Diff(vfLists(t, "Healthy", a, b), n.lists(t)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
	if strings.Contains(n.plugin.log.String(), "unhealthyNow") {
		t.Error("VFs were unhealthy meanwhile")
	}
}

// A driver whose module is in use cannot be unloaded.
func TestHealthPollDoesNotPinTheDriver(t *testing.T) {
	_, a, _ := startHealthNode(t)
	a.waitForChecks(t, 2)
	poll(t, pollInterval, "an unused module", func() bool { return read(t, "/sys/module/qat_sim/refcnt") == "0" })
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
