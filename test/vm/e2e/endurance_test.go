package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRoundsLeaveNothingBehind(t *testing.T) {
	rounds := 30
	if steady() {
		rounds = 200 // its time leaps over the second that the kernel sleeps whenever VFs go (drivers/pci/iov.c, sriov_disable)
	}
	n := newNode(t, "npf=1")
	p := n.pfs[0]
	round := func() {
		write(t, p.path("sriov_numvfs"), "16")
		n.settle(t, p)
		write(t, p.path("sriov_numvfs"), "0")
		n.settle(t)
	}
	const warm = 20 // rounds until the heap and the threads have their size
	for range warm {
		round()
	}
	before, began := n.plugin.rest(t), time.Now()
	for range rounds - warm {
		round()
	}
	t.Logf("%d rounds of 0 to 16 to 0, %v each", rounds, (time.Since(began) / time.Duration(rounds-warm)).Round(time.Millisecond))
	after := n.plugin.rest(t)
	t.Logf("after %3d rounds: %+v", warm, before)
	t.Logf("after %3d rounds: %+v", rounds, after)
	if after.Descriptors != before.Descriptors {
		t.Errorf("descriptors grew from %d to %d", before.Descriptors, after.Descriptors)
	}
	if after.Threads > before.Threads+4 { // the runtime keeps a thread for each system call that was slow
		t.Errorf("threads grew from %d to %d", before.Threads, after.Threads)
	}
	if after.Resident > before.Resident+8<<10 {
		t.Errorf("resident memory grew from %d to %d KiB", before.Resident, after.Resident)
	}
	if left := groups(t); len(left) > 0 {
		t.Errorf("devices left: %v", left)
	}

	// A plugin that has seen one round has the goroutines that belong to what it serves.
	old := goroutines(t, n.plugin)
	n.startPlugin(t)
	round()
	fresh := goroutines(t, n.plugin)
	if diff := cmp.Diff(fresh, old); diff != "" {
		t.Errorf("goroutines by who started them (-after one round +after %d):\n%s", rounds, diff)
	}
	t.Logf("goroutines after %d rounds as after one: %v", rounds, old)
}

// A goroutine of the dump that the program's code started, not the runtime; the first one, of main, has no such line.
var goroutine = regexp.MustCompile(`(?m)^created by (\S+) in goroutine`)

// goroutines ends a program in the way that makes Go's runtime write its goroutines, and counts them by who started them.
func goroutines(t *testing.T, p *program) map[string]int {
	t.Helper()
	if err := p.end(t, unix.SIGQUIT); err == nil {
		t.Error("SIGQUIT ended the plugin with exit status 0")
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

func TestAnIdlePluginSleeps(t *testing.T) {
	n := newNode(t, "npf=4", "-health-interval=0") // the heartbeat has to be read at intervals, by its nature
	for _, p := range n.pfs {
		write(t, p.path("sriov_numvfs"), "16")
	}
	n.settle(t, n.pfs...)
	const idle = 5 * time.Second
	<-time.After(idle) // what a burst leaves to the runtime, such as its scavenger, comes to rest
	before := n.plugin.rest(t)
	<-time.After(idle)
	after := n.plugin.usage(t)
	t.Logf("%v with 64 VFs and no event: %d voluntary context switches, %d ticks of 10 ms; %d KiB resident, %d threads, %d descriptors",
		idle, after.Switches-before.Switches, after.Ticks-before.Ticks, after.Resident, after.Threads, after.Descriptors)
	if woken := after.Switches - before.Switches; woken > 5 {
		t.Errorf("the plugin woke %d times in %v", woken, idle)
	}
}
