// SPDX-License-Identifier: Apache-2.0

package health

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat/internal/pci"
)

const noHeartbeat = "failed its heartbeat"

func TestTwoFailedHeartbeatsInARowMakeAPFUnhealthy(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	for i, step := range []struct {
		status string
		want   string
		wake   bool
	}{
		{status: "-1"},
		{status: "0"},
		{status: "-1"}, // one in a row again
		{status: "-1\nmore", want: noHeartbeat, wake: true}, // only the first line counts
		{status: "-1", want: noHeartbeat},
		{status: "-1", want: noHeartbeat},
		{status: "unknown", want: noHeartbeat},
		{status: "0", wake: true},
		{status: "0"},
		{status: "unknown"},
		{status: "unknown"},
	} {
		pf.heartbeat(step.status)
		woken := m.poll()
		m.wantReason(pf.Address, step.want)
		if wake := slices.Contains(woken, pf.Address); wake != step.wake {
			t.Errorf("poll %d: woken %t, want %t", i, wake, step.wake)
		}
	}
}

func TestHeartbeatOfOnePFDoesNotAffectAnother(t *testing.T) {
	pf, other := newTestPF(t, pfAddress), newTestPF(t, pci.Address{Bus: 0x70})
	m := newTestMonitor(t, pf, other)
	pf.heartbeat("-1")
	m.poll()
	if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
		t.Errorf("woken for %v, want only %s", woken, pf.Address)
	}
	m.wantReason(pf.Address, noHeartbeat)
	m.wantReason(other.Address, "")
}

// flap fails the PF's heartbeat and returns how many good ones it takes to recover.
func flap(m *testMonitor, pf *testPF) (good int) {
	m.t.Helper()
	pf.heartbeat("-1")
	for range failedHeartbeats {
		m.poll()
	}
	m.wantReason(pf.Address, noHeartbeat)
	pf.heartbeat("0")
	for m.Reason(pf.Address) != "" {
		m.poll()
		good++
	}
	return good
}

func TestFlappingHeartbeatNeedsMoreGoodHeartbeatsToRecover(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	var got []int
	for range 8 {
		got = append(got, flap(m, pf))
	}
	if diff := cmp.Diff([]int{1, 2, 4, 8, 16, 32, 64, 64}, got); diff != "" {
		t.Errorf("good heartbeats until recovery (-want +got):\n%s", diff)
	}
	m.now = m.now.Add(flapWindow)
	if got := flap(m, pf); got != 1 {
		t.Errorf("%d good heartbeats until recovery after a quiet time, want 1", got)
	}
}

func TestGoodHeartbeatsMustBeInARow(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	flap(m, pf)
	flap(m, pf)
	pf.heartbeat("-1")
	m.poll()
	m.poll() // four good heartbeats are required now
	for _, status := range []string{"0", "0", "0", "-1", "0", "0", "0"} {
		pf.heartbeat(status)
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
	}
	m.poll()
	m.wantReason(pf.Address, "")
}

func TestLongFailureCountsAsOneFlap(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	flap(m, pf)
	pf.heartbeat("-1")
	for range 10 {
		m.poll()
	}
	pf.heartbeat("0")
	m.poll()
	m.wantReason(pf.Address, noHeartbeat)
	m.poll()
	m.wantReason(pf.Address, "")
}

func TestFlapWindowStartsAtTheLastRecovery(t *testing.T) {
	for _, test := range []struct {
		name string
		late bool
		want int
	}{
		{name: "within the window", want: 2},
		{name: "after the window", late: true, want: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			pf := newTestPF(t, pfAddress)
			m := newTestMonitor(t, pf)
			flap(m, pf)
			recovered := m.now
			m.poll()
			m.now = recovered.Add(10*time.Minute - 2*interval) // flap fails two polls later
			if !test.late {
				m.now = m.now.Add(-1)
			}
			if got := flap(m, pf); got != test.want {
				t.Errorf("%d good heartbeats until recovery, want %d", got, test.want)
			}
		})
	}
}

func TestPFWithoutHeartbeatIsHealthy(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	must(t, os.RemoveAll(filepath.Join(pf.Debugfs, "heartbeat")))
	m := newTestMonitor(t, pf)
	for range 3 {
		if woken := m.poll(); len(woken) > 0 {
			t.Errorf("woken for %v", woken)
		}
		m.wantReason(pf.Address, "")
	}
}

// Families without qat/state do not say whether they are up.
func TestPFWithoutStateIsMonitored(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	must(t, os.RemoveAll(filepath.Join(pf.Dir, "qat")))
	must(t, os.RemoveAll(filepath.Join(pf.Dir, "qat_ras")))
	pf.heartbeat("-1")
	m := newTestMonitor(t, pf)
	m.poll()
	m.poll()
	m.wantReason(pf.Address, noHeartbeat)
}

// While a PF is down, its heartbeat and counters mean nothing.
func TestPFThatIsDownIsNotJudged(t *testing.T) {
	for _, state := range []string{"down", "unknown"} {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		pf.set("qat/state", state)
		pf.set("qat_ras/errors_fatal", "7")
		pf.heartbeat("-1")
		for range 3 {
			m.poll()
			m.wantReason(pf.Address, "")
		}
	}
}

func TestHealthPollDetectsSilentStateChange(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	if woken := m.poll(); len(woken) > 0 {
		t.Errorf("woken at the first poll")
	}
	for _, change := range []struct{ attribute, value string }{
		{"qat/state", "down"},
		{"qat/state", "up"},
		{"qat/cfg_services", "dc"},
	} {
		pf.set(change.attribute, change.value)
		if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
			t.Errorf("%s = %s: woken for %v, want %s", change.attribute, change.value, woken, pf.Address)
		}
		if woken := m.poll(); len(woken) > 0 {
			t.Errorf("%s = %s: woken twice", change.attribute, change.value)
		}
	}
}

func TestHealthPollDetectsThatThePFIsGone(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	m.poll()
	must(t, os.RemoveAll(pf.Dir))
	if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
		t.Errorf("woken for %v, want %s", woken, pf.Address)
	}
	if woken := m.poll(); len(woken) > 0 {
		t.Errorf("woken twice")
	}
	m.wantReason(pf.Address, "")
}

func TestFatalErrorsSinceThePFCameUp(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	pf.set("qat_ras/errors_fatal", "3")
	m.poll()
	m.wantReason(pf.Address, "") // from before
	pf.set("qat_ras/errors_fatal", "5")
	if woken := m.poll(); len(woken) == 0 {
		t.Errorf("not woken for new fatal errors")
	}
	m.wantReason(pf.Address, "had 2 fatal errors (qat_ras/errors_fatal) and must be taken down and up")
	if woken := m.poll(); len(woken) > 0 {
		t.Errorf("woken twice for the same fatal errors")
	}
	m.wantReason(pf.Address, "had 2 fatal errors") // a good heartbeat does not end it
	pf.set("qat_ras/errors_fatal", "6")
	m.poll()
	m.wantReason(pf.Address, "had 3 fatal errors")
}

func TestFatalErrorsHideAFailedHeartbeat(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	m.poll()
	pf.heartbeat("-1")
	m.poll()
	m.poll()
	pf.set("qat_ras/errors_fatal", "1")
	m.poll()
	m.wantReason(pf.Address, "had 1 fatal errors")
}

func TestFatalErrorsAreCountedOverAFailedRead(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	pf.set("qat_ras/errors_fatal", "5")
	m.poll()
	must(t, os.Remove(filepath.Join(pf.Dir, "qat_ras/errors_fatal")))
	m.poll()
	m.wantReason(pf.Address, "")
	pf.set("qat_ras/errors_fatal", "7")
	m.poll()
	m.wantReason(pf.Address, "had 2 fatal errors")
}

// A device that is reset counts from zero again.
func TestFatalErrorCounterMayStartOver(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	for _, step := range []struct{ fatal, want string }{
		{"3", ""},
		{"1", ""},
		{"2", "had 1 fatal errors"},
	} {
		pf.set("qat_ras/errors_fatal", step.fatal)
		m.poll()
		m.wantReason(pf.Address, step.want)
	}
}

func TestFailureLastsWhileTheHeartbeatCannotBeRead(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	pf.heartbeat("-1")
	m.poll()
	m.poll()
	heartbeat := filepath.Join(pf.Debugfs, "heartbeat")
	must(t, os.Rename(heartbeat, heartbeat+"-unreadable"))
	m.poll()
	m.wantReason(pf.Address, noHeartbeat)
	must(t, os.Rename(heartbeat+"-unreadable", heartbeat))
	m.poll()
	m.wantReason(pf.Address, noHeartbeat)
}

func TestHealthPollDetectsARestartBetweenPolls(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	m.poll()
	pf.goDown()
	pf.comeUp()
	if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
		t.Errorf("woken for %v, want %s", woken, pf.Address)
	}
	if woken := m.poll(); len(woken) > 0 {
		t.Errorf("woken twice")
	}
}

// When a PF was down and is up again, its earlier failures are over.
func TestRestartEndsFailures(t *testing.T) {
	fail := map[string]func(pf *testPF){
		"failed its heartbeat": func(pf *testPF) { pf.heartbeat("-1") },
		"had 2 fatal errors":   func(pf *testPF) { pf.set("qat_ras/errors_fatal", "2") },
	}
	restart := map[string]func(m *testMonitor, pf *testPF){
		"a new directory heartbeat": func(m *testMonitor, pf *testPF) {
			pf.goDown()
			pf.comeUp()
			pf.heartbeat("-1") // a first one again
			if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
				m.t.Errorf("woken for %v after the restart, want %s", woken, pf.Address)
			}
		},
		"polled while down": func(m *testMonitor, pf *testPF) {
			pf.goDown()
			m.poll()
			pf.comeUp()
			pf.heartbeat("-1")
			m.poll()
		},
		"tracked while down": func(m *testMonitor, pf *testPF) {
			down := pf.PF
			down.Down = true
			m.Track(down)
			m.Track(pf.PF)
			m.wantReason(pf.Address, "")
			pf.heartbeat("-1")
			m.poll()
		},
	}
	for reason, fail := range fail {
		for name, restart := range restart {
			t.Run(reason+", "+name, func(t *testing.T) {
				pf := newTestPF(t, pfAddress)
				m := newTestMonitor(t, pf)
				m.poll()
				fail(pf)
				m.poll()
				m.poll()
				m.wantReason(pf.Address, reason)
				restart(m, pf)
				m.wantReason(pf.Address, "")
				m.poll()
				m.wantReason(pf.Address, noHeartbeat) // it is still monitored
			})
		}
	}
}
