// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRepeatedVFChangesDoNotLeak(t *testing.T) {
	rounds := 30
	if isSteady() {
		// Its clock skips the second that the kernel sleeps at each removal of VFs
		// (drivers/pci/iov.c, sriov_disable).
		rounds = 200
	}
	n := startNode(t, "npf=1")
	p := n.pfs[0]
	changeVFs := func() {
		p.enableVFs(t)
		n.waitForVFs(t, p)
		p.disableVFs(t)
		n.waitForVFs(t)
	}
	const warmUp = 20 // rounds until the heap and the number of threads are stable
	for range warmUp {
		changeVFs()
	}
	before, open, start := n.plugin.waitIdle(t), n.plugin.descriptors(t), time.Now()
	for range rounds - warmUp {
		changeVFs()
	}
	perRound := time.Since(start) / time.Duration(rounds-warmUp)
	t.Logf("%d rounds of 0 to 16 to 0 VFs, %v each", rounds, perRound.Round(time.Millisecond))
	after := n.plugin.waitIdle(t)
	t.Logf("after %3d rounds: %+v", warmUp, before)
	t.Logf("after %3d rounds: %+v", rounds, after)
	if now := n.plugin.descriptors(t); len(now) != len(open) {
		t.Errorf("file descriptors grew from %d to %d (-before +after):\n%s", len(open), len(now), cmp.Diff(open, now))
	}
	if after.Threads > before.Threads+4 { // the Go runtime keeps the threads of slow system calls
		t.Errorf("threads grew from %d to %d", before.Threads, after.Threads)
	}
	if after.Resident > before.Resident+8<<10 {
		t.Errorf("resident memory grew from %d to %d KiB", before.Resident, after.Resident)
	}
	if left := vfioGroups(t); len(left) > 0 {
		t.Errorf("VFIO groups left behind: %v", left)
	}

	// Compare the goroutines with those of a plugin that has seen one round.
	old := goroutines(t, n.plugin)
	n.startPlugin(t)
	changeVFs()
	fresh := goroutines(t, n.plugin)
	if diff := cmp.Diff(fresh, old); diff != "" {
		t.Errorf("goroutines by their creator (-after one round +after %d):\n%s", rounds, diff)
	}
	t.Logf("goroutines after one round and after %d: %v", rounds, old)
}

// goroutine matches the creator of a goroutine in a traceback. The main goroutine has none.
var goroutine = regexp.MustCompile(`(?m)^created by (\S+) in goroutine`)

// goroutines ends a program with SIGQUIT, upon which the Go runtime prints its goroutines. It
// returns their number by creator, without those of the runtime.
func goroutines(t *testing.T, p *program) map[string]int {
	t.Helper()
	if err := p.stop(t, unix.SIGQUIT); err == nil {
		t.Error("the plugin ended with exit status 0 after SIGQUIT")
	}
	found := map[string]int{}
	for _, m := range goroutine.FindAllStringSubmatch(p.log.String(), -1) {
		if !strings.HasPrefix(m[1], "runtime.") {
			found[m[1]]++
		}
	}
	if len(found) == 0 {
		t.Errorf("no goroutine in\n%s", p.log.tail(40))
	}
	return found
}

// TestIdlePluginDoesNotWake counts the periods in which any thread of the plugin woke up. The
// number of context switches says less. When a timer expires, the Go runtime's monitor thread
// wakes up, and polls every 20 µs (runtime.sysmon) until the thread that waits in epoll_pwait
// wakes up as well. The kernel may delay that one by a thousandth of its timeout (fs/select.c,
// select_estimate_accuracy). So one timer causes from 3 to about 60 context switches.
func TestIdlePluginDoesNotWake(t *testing.T) {
	n := startNode(t, "npf=4", "-health-interval=0") // heartbeats can only be polled
	for _, p := range n.pfs {
		p.enableVFs(t)
	}
	n.waitForVFs(t, n.pfs...)
	<-time.After(5 * time.Second) // let the runtime's work end, such as its scavenger's
	const (
		period  = 500 * time.Millisecond
		periods = 20
		// The plugin compares the kubelet's directory every 10 s, so at most twice within the
		// periods. Each time may fall into two of them.
		most = 4
	)
	first, awake := n.plugin.waitIdle(t), 0
	last := first
	tick := time.NewTicker(period)
	defer tick.Stop()
	for range periods {
		<-tick.C
		now := n.plugin.usage(t)
		if now.Switches != last.Switches {
			awake++
		}
		last = now
	}
	t.Logf("with 64 VFs and no event awake in %d of %d periods of %v: %d voluntary context switches, "+
		"%d ticks of 10 ms; %d KiB resident, %d threads, %d descriptors", awake, periods, period,
		last.Switches-first.Switches, last.Ticks-first.Ticks, last.Resident, last.Threads, last.Descriptors)
	if awake > most {
		t.Errorf("the plugin woke up in %d of %d periods of %v, want at most %d", awake, periods, period, most)
	}
}
