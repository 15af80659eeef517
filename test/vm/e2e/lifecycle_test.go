// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// checkLatency checks the time from the last uevent to the kubelet's complete lists, on the machine
// whose clock does not depend on the load of its host.
func checkLatency(t *testing.T, latency time.Duration) {
	t.Helper()
	const limit = 50 * time.Millisecond
	if latency > limit && isSteady() {
		t.Errorf("the kubelet's lists were complete %v after the last uevent, want at most %v", latency, limit)
	}
}

func TestNewVFsReachKubeletPromptly(t *testing.T) {
	n := startNode(t, "npf=1")
	p := n.pfs[0]
	n.waitForVFs(t)

	start := monotonic()
	p.enableVFs(t)
	listed := n.waitForVFs(t, p)
	events := n.uevents.since(start)
	last := events[len(events)-1]
	var created time.Duration // of the last VF, after which the kernel sends change of the PF
	for _, e := range events {
		if e.action == "change" && strings.HasSuffix(e.path, p.address) {
			created = e.received
		}
	}
	t.Logf("16 VFs: %d uevents; complete at the kubelet %s after the last uevent (%s), "+
		"%s after the last VF was created",
		len(events), ms(listed-last.received), last, ms(listed-created))
	checkLatency(t, listed-last.received)
	n.checkAllocation(t, "qat.intel.com/cy", 3)

	start = monotonic()
	p.disableVFs(t)
	listed = n.waitForVFs(t)
	events = n.uevents.since(start)
	last = events[len(events)-1]
	t.Logf("no VFs: %d uevents; empty at the kubelet %s after the last uevent (%s)",
		len(events), ms(listed-last.received), last)
	checkLatency(t, listed-last.received)
	for _, e := range events {
		if e.action == "bind" {
			t.Errorf("a VF was bound again during its removal: %v", e)
		}
	}
}

func TestHotAddAfterSurpriseRemoval(t *testing.T) {
	n := startNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	for range 2 {
		a.enableVFs(t)
		b.enableVFs(t)
		n.waitForVFs(t, a, b)
		write(t, a.control("present"), "0")
		n.waitForVFs(t, b)
		write(t, a.control("present"), "1")
		n.waitForVFs(t, b) // the PF comes back without VFs
		b.disableVFs(t)
		n.waitForVFs(t)
	}
}

func TestConcurrentChangesOfFourPFs(t *testing.T) {
	n := startNode(t, "npf=4 numa=0,0,1,1")
	writeAll := func(value string) {
		var writers sync.WaitGroup
		for _, p := range n.pfs {
			writers.Go(func() {
				if err := tryWrite(p.path("sriov_numvfs"), value); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
	}
	for round := range 3 {
		start := monotonic()
		writeAll("16")
		created := monotonic()
		listed := n.waitForVFs(t, n.pfs...)
		t.Logf("round %d: 64 VFs created in %s, at the kubelet %s later",
			round+1, ms(created-start), ms(listed-created))
		writeAll("0")
		n.waitForVFs(t)
	}
}

func TestPluginListsExistingVFsAtStart(t *testing.T) {
	n := newNode(t, "npf=4 family=4xxx,401xx,420xx,6xxx")
	for _, p := range n.pfs {
		p.enableVFs(t)
	}
	start := monotonic()
	n.startPlugin(t)
	listed := n.waitForVFs(t, n.pfs...)
	t.Logf("64 unbound VFs: bound and at the kubelet %s after the plugin's start", ms(listed-start))
	n.stopPlugin(t, n.plugin)

	start = monotonic()
	n.startPlugin(t)
	before := n.kubelet.state().lists
	listed = n.waitForVFs(t, n.pfs...)
	t.Logf("64 bound VFs: at the kubelet %s after the plugin's start, in %d lists",
		ms(listed-start), n.kubelet.state().lists-before)
}

func TestKubeletRestart(t *testing.T) {
	n := startNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	a.enableVFs(t)
	n.waitForVFs(t, a)
	for range 3 {
		n.kubelet.do(t, "restart")
		n.waitForVFs(t, a)
		b.enableVFs(t)
		n.waitForVFs(t, a, b)
		n.checkAllocation(t, "qat.intel.com/dc", 2)
		b.disableVFs(t)
		n.waitForVFs(t, a)
	}
}
