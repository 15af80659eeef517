package qat

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
)

// patient is a host whose PFs are asked by hand, with a clock of its own.
type patient struct {
	t      *testing.T
	host   *lookalike.Host
	fold   *fold
	now    time.Time
	mu     sync.Mutex
	marked []Address
}

func newPatient(t *testing.T, pf lookalike.PF) *patient {
	t.Helper()
	h, err := lookalike.New(t.TempDir())
	must(t, err)
	must(t, h.LoadDriver(driverVFIO))
	pf.Address = pfA
	must(t, h.AddPF(pf))
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	must(t, h.Bind(vfA1, driverVFIO))
	p := &patient{t: t, host: h, fold: newFoldOf(h, 0), now: time.Unix(1e9, 0)}
	p.fold.health.interval = 5 * time.Second
	p.fold.health.answered = p.fold.faults.clear
	p.fold.health.now = func() time.Time { return p.now }
	p.fold.health.mark = func(a Address) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.marked = append(p.marked, a)
	}
	must(t, p.fold.lookAtAll(p.now))
	return p
}

// ask lets the interval pass, has the PFs asked, and has looked at what they were marked for. It tells whether there was a mark.
func (p *patient) ask() bool {
	p.t.Helper()
	p.now = p.fold.health.next(p.now)
	p.fold.health.turn(p.now)
	p.fold.health.wait()
	marked := p.marked
	p.marked = nil
	p.fold.lookAt(slices.Clone(marked), p.now)
	return len(marked) > 0
}

func (p *patient) heartbeat(status string) {
	p.t.Helper()
	must(p.t, p.host.SetHeartbeat(pfA, status))
}

// is fails the test unless the VF is healthy ("") or unhealthy for a reason that says this.
func (p *patient) is(reason string) {
	p.t.Helper()
	d := p.fold.tree.Resource("cy").Device(vfA1)
	if d == nil {
		p.t.Fatalf("the VF is not listed")
	}
	if d.Reason == "" && reason != "" || !strings.Contains(d.Reason, reason) || reason == "" && d.Reason != "" {
		p.t.Fatalf("the VF is %s (%s), want it to be so for %q", d.Health, d.Reason, reason)
	}
}

const noHeartbeat = "its PF 0000:6b:00.0 failed its heartbeat"

func TestTwoFailingHeartbeatsInARowMakeTheVFsUnhealthy(t *testing.T) {
	for name, pf := range map[string]lookalike.PF{
		"on a root bus":   {Services: "sym;asym"},
		"behind a bridge": {Services: "sym;asym", Bridge: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t, pf)
			p.heartbeat("-1")
			p.ask()
			p.is("")
			p.heartbeat("0")
			p.ask()
			p.heartbeat("-1")
			p.ask()
			p.is("") // one again
			p.ask()
			p.is(noHeartbeat)
			if p.ask(); p.ask() {
				t.Errorf("a heartbeat that goes on failing is told of again")
			}
			p.heartbeat("0")
			p.ask()
			p.is("")
		})
	}
}

func TestAFlappingHeartbeatIsDamped(t *testing.T) {
	p := newPatient(t, lookalike.PF{Services: "sym;asym"})
	flap := func() (good int) {
		p.heartbeat("-1")
		p.ask()
		p.ask()
		p.is(noHeartbeat)
		p.heartbeat("0")
		for good = 1; ; good++ {
			p.ask()
			if p.fold.tree.Resource("cy").Device(vfA1).Reason == "" {
				return good
			}
		}
	}
	var got []int
	for range 8 {
		got = append(got, flap())
	}
	if diff := cmp.Diff([]int{1, 2, 4, 8, 16, 32, 64, 64}, got); diff != "" {
		t.Errorf("good heartbeats until it was healthy again (-want +got):\n%s", diff)
	}
	p.now = p.now.Add(flapWindow)
	if got := flap(); got != 1 {
		t.Errorf("after a quiet time it took %d good heartbeats, want 1", got)
	}
}

func TestAPFWithoutHeartbeatIsHealthy(t *testing.T) {
	p := newPatient(t, lookalike.PF{Services: "sym;asym"})
	must(t, os.RemoveAll(filepath.Join(p.host.Sysfs(), "kernel/debug/qat_4xxx_"+pfA, "heartbeat")))
	for range 3 {
		p.ask()
		p.is("")
	}
}

func TestTheHealthTimersLookSeesWhatTheDriverChangesInSilence(t *testing.T) {
	p := newPatient(t, lookalike.PF{Services: "sym;asym"})
	p.ask()
	must(t, p.host.SetAttr(pfA, "qat/state", "down"))
	if !p.ask() {
		t.Fatalf("the PF was not marked")
	}
	p.is("its PF 0000:6b:00.0 is down")
	must(t, p.host.SetAttr(pfA, "qat/state", "up"))
	must(t, p.host.SetAttr(pfA, "qat/cfg_services", "dc"))
	p.ask()
	want := map[string][]string{"cy": {}, "dc": {vfA1}}
	if diff := cmp.Diff(want, lists(p.fold.tree)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}

func TestAFatalErrorLastsUntilThePFWasDownAndUp(t *testing.T) {
	p := newPatient(t, lookalike.PF{Services: "sym;asym"})
	must(t, p.host.SetAttr(pfA, "qat_ras/errors_fatal", "3"))
	p.ask()
	p.is("") // from before
	must(t, p.host.SetAttr(pfA, "qat_ras/errors_fatal", "5"))
	p.ask()
	p.is("had 2 fatal errors")
	p.ask()
	p.is("had 2 fatal errors") // a good heartbeat does not heal it
	must(t, p.host.SetAttr(pfA, "qat/state", "down"))
	p.ask()
	p.is("is down")
	must(t, p.host.SetAttr(pfA, "qat/state", "up"))
	p.ask()
	p.is("")
	p.ask()
	p.is("")
}

func TestPCIErrorEvents(t *testing.T) {
	change := func(path string, variables ...string) []string {
		return append([]string{"change@" + path, "SUBSYSTEM=pci"}, variables...)
	}
	const pf, vf = "/devices/pci0000:6b/0000:6b:00.0", "/devices/pci0000:6b/0000:6b:00.1"
	tests := map[string]struct {
		events [][]string
		want   string
	}{
		"an error of the PF":        {[][]string{change(pf, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0")}, "its PF 0000:6b:00.0 had a PCI error and is being recovered"},
		"an error of the VF":        {[][]string{change(vf, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0")}, "it had a PCI error and is being recovered"},
		"no recovery":               {[][]string{change(pf, "ERROR_EVENT=FAILED_RECOVERY", "DEVICE_ONLINE=0")}, "could not be recovered"},
		"recovery":                  {[][]string{change(pf, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"), change(pf, "ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=1")}, ""},
		"offline":                   {[][]string{change(pf, "DEVICE_ONLINE=0")}, "is being recovered"},
		"offline and online":        {[][]string{change(pf, "DEVICE_ONLINE=0"), change(pf, "DEVICE_ONLINE=1")}, ""},
		"the driver was bound anew": {[][]string{change(pf, "ERROR_EVENT=FAILED_RECOVERY"), {"bind@" + pf, "SUBSYSTEM=pci"}}, ""},
		"another change":            {[][]string{change(pf)}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t, lookalike.PF{Services: "sym;asym"})
			plugin, err := New(Config{SysfsRoot: p.host.Sysfs(), DevRoot: p.host.Dev(), AuditInterval: -1})
			must(t, err)
			l := newLoop(plugin, nil)
			l.fold, l.seen = p.fold, p.fold.tree
			l.publish = func(*devtree.Tree) {}
			for _, e := range test.events {
				l.Event(uevent(t, e[0], e[1:]...))
				l.turn(p.now)
			}
			p.is(test.want)
		})
	}
}

func TestAGoodHeartbeatEndsAPCIError(t *testing.T) {
	p := newPatient(t, lookalike.PF{Services: "sym;asym"})
	a, _ := ParseAddress(pfA)
	p.fold.faults.set(a, "had a PCI error")
	p.fold.lookAt([]Address{a}, p.now)
	p.is("had a PCI error")
	p.ask()
	p.is("")
}

// When the PF's driver is loaded anew, what the one before counted is over.
func TestAFatalErrorEndsWithThePFsDriver(t *testing.T) {
	p := newPatient(t, lookalike.PF{Services: "sym;asym"})
	must(t, p.host.SetAttr(pfA, "qat_ras/errors_fatal", "0"))
	p.ask()
	must(t, p.host.SetAttr(pfA, "qat_ras/errors_fatal", "2"))
	p.ask()
	p.is("had 2 fatal errors")
	must(t, p.host.Unbind(pfA))
	must(t, p.fold.lookAtAll(p.now))
	p.ask()
	must(t, p.host.Bind(pfA, "4xxx"))
	must(t, p.host.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	must(t, p.host.Bind(vfA1, driverVFIO))
	must(t, p.fold.lookAtAll(p.now))
	p.is("")
}
