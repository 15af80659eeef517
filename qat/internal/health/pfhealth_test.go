// SPDX-License-Identifier: Apache-2.0

package health

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/qat/internal/pci"
)

const noHeartbeat = "failed its heartbeat"

func TestTwoFailedHeartbeatsInARowMakeAPFUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestHeartbeatsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		if got := m.Heartbeats(pf.Address); got != (Heartbeats{}) {
			t.Errorf("before the first poll: %+v", got)
		}
		for i, step := range []struct {
			status string
			want   Heartbeats
		}{
			{"0", Heartbeats{Last: "good", Good: 1}},
			{"-1", Heartbeats{Last: "failed", Good: 1, Failed: 1}},
			{"unknown", Heartbeats{Last: "unknown", Good: 1, Failed: 1}},
			{"0", Heartbeats{Last: "good", Good: 2, Failed: 1}},
		} {
			pf.heartbeat(step.status)
			m.poll()
			step.want.At = time.Now()
			if got := m.Heartbeats(pf.Address); got != step.want {
				t.Errorf("poll %d: %+v, want %+v", i, got, step.want)
			}
		}
		if got := m.Heartbeats(pci.Address{Bus: 0x70}); got != (Heartbeats{}) {
			t.Errorf("a PF that is not monitored: %+v", got)
		}
	})
}

func TestHeartbeatOfOnePFDoesNotAffectAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf, other := newTestPF(t, pfAddress), newTestPF(t, pci.Address{Bus: 0x70})
		m := newTestMonitor(t, pf, other)
		pf.heartbeat("-1")
		m.poll()
		if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
			t.Errorf("woken for %v, want only %s", woken, pf.Address)
		}
		m.wantReason(pf.Address, noHeartbeat)
		m.wantReason(other.Address, "")
	})
}

// flap fails the PF's heartbeat and returns how many good ones it takes to recover.
func flap(m *testMonitor, pf *testPF) (good int) {
	m.t.Helper()
	pf.heartbeat("-1")
	for range doubtfulHeartbeats {
		m.poll()
	}
	m.wantReason(pf.Address, noHeartbeat)
	pf.heartbeat("0")
	for m.Reason(pf.Address).Text != "" {
		m.poll()
		good++
	}
	return good
}

func TestFlappingHeartbeatNeedsMoreGoodHeartbeatsToRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		var got []int
		for range 8 {
			got = append(got, flap(m, pf))
		}
		if diff := cmp.Diff([]int{1, 2, 4, 8, 16, 32, 64, 64}, got); diff != "" {
			t.Errorf("good heartbeats until recovery (-want +got):\n%s", diff)
		}
		m.pass(flapWindow)
		if got := flap(m, pf); got != 1 {
			t.Errorf("%d good heartbeats until recovery after a quiet time, want 1", got)
		}
	})
}

func TestGoodHeartbeatsMustBeInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestLongFailureCountsAsOneFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
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
		inBubble(t, test.name, func(t *testing.T) {
			pf := newTestPF(t, pfAddress)
			m := newTestMonitor(t, pf)
			flap(m, pf)
			quiet := 10*time.Minute - 2*interval // flap fails two polls later
			if !test.late {
				quiet -= interval
			}
			m.pass(quiet)
			if got := flap(m, pf); got != test.want {
				t.Errorf("%d good heartbeats until recovery, want %d", got, test.want)
			}
		})
	}
}

func TestPFWithoutHeartbeatIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		must(t, os.RemoveAll(filepath.Join(pf.Debugfs, "heartbeat")))
		m := newTestMonitor(t, pf)
		for range 3 {
			if woken := m.poll(); len(woken) > 0 {
				t.Errorf("woken for %v", woken)
			}
			m.wantReason(pf.Address, "")
		}
	})
}

// Families without qat/state do not say whether they are up.
func TestPFWithoutStateIsMonitored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		must(t, os.RemoveAll(filepath.Join(pf.Dir, "qat")))
		must(t, os.RemoveAll(filepath.Join(pf.Dir, "qat_ras")))
		pf.heartbeat("-1")
		m := newTestMonitor(t, pf)
		m.poll()
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
	})
}

// While a PF is down, its heartbeat and counters mean nothing.
func TestPFThatIsDownIsNotJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestHealthPollDetectsSilentStateChange(t *testing.T) {
	set := func(attribute, value string) func(*testPF) {
		return func(pf *testPF) { pf.set(attribute, value) }
	}
	attributes := []func(*testPF){set("qat/state", "down"), set("qat/state", "up"), set("qat/cfg_services", "dc")}
	for name, tt := range map[string]struct {
		before  func(*testPF)
		changes []func(*testPF)
	}{
		"with a heartbeat": {
			before: func(*testPF) {},
			changes: []func(*testPF){
				(*testPF).goDown,
				(*testPF).comeUp,
				func(pf *testPF) { pf.goDown(); pf.set("qat/cfg_services", "dc"); pf.comeUp() },
			},
		},
		"without a heartbeat": {
			before:  func(pf *testPF) { must(pf.t, os.RemoveAll(filepath.Join(pf.Debugfs, "heartbeat"))) },
			changes: attributes,
		},
		"while the driver performs no check": {
			before:  func(pf *testPF) { pf.queriesFailed(0); pf.heartbeat("-1") },
			changes: attributes,
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			pf := newTestPF(t, pfAddress)
			tt.before(pf)
			m := newTestMonitor(t, pf)
			if woken := m.poll(); len(woken) > 0 {
				t.Errorf("woken at the first poll")
			}
			for i, change := range tt.changes {
				change(pf)
				if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
					t.Errorf("change %d: woken for %v, want %s", i, woken, pf.Address)
				}
				if woken := m.poll(); len(woken) > 0 {
					t.Errorf("change %d: woken twice", i)
				}
			}
		})
	}
}

// A PF may change after it was read and before it is polled for the first time.
func TestFirstPollIsComparedWithWhatWasTracked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		pf.set("qat/cfg_services", "dc")
		if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
			t.Errorf("woken for %v, want %s", woken, pf.Address)
		}
		if woken := m.poll(); len(woken) > 0 {
			t.Errorf("woken twice")
		}
	})
}

// The driver increments queries_failed after a failed check, and not after a read that came too
// soon.
func TestQueriesFailedDistinguishesFailuresFromEarlyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		pf.queriesFailed(7)
		m := newTestMonitor(t, pf)
		for i, step := range []struct {
			status        string
			queriesFailed int
			want          string
		}{
			{"0", 7, ""}, // failures from before do not count
			{"-1", 7, ""},
			{"-1", 7, ""},
			{"-1", 8, noHeartbeat},
			{"-1", 8, noHeartbeat},
			{"0", 8, ""},
			{"-1", 8, ""},
			{"-1", 9, noHeartbeat},
		} {
			pf.queriesFailed(step.queriesFailed)
			pf.heartbeat(step.status)
			m.poll()
			if got := m.Reason(pf.Address).Text; got != step.want {
				t.Errorf("poll %d: reason %q, want %q", i, got, step.want)
			}
		}
	})
}

// A counter that cannot be read once is compared with its last value when it can be read again.
func TestQueriesFailedThatCannotBeReadOnceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		pf.queriesFailed(7)
		m := newTestMonitor(t, pf)
		m.poll()
		file := filepath.Join(pf.Debugfs, "heartbeat/queries_failed")
		must(t, os.Remove(file))
		must(t, os.Symlink(file, file)) // ELOOP
		pf.heartbeat("-1")
		m.poll()
		must(t, os.Remove(file))
		pf.queriesFailed(7)
		m.poll()
		m.wantReason(pf.Address, "")
		pf.queriesFailed(8)
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
	})
}

// No check is repeated in the same poll: the driver would return -1 because the second read comes
// too soon.
func TestEachPollReadsTheHeartbeatOnce(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	pf.queriesFailed(0)
	file := filepath.Join(pf.Debugfs, "heartbeat/status")
	var f files
	defer f.close()
	f.poll(pf.PF)
	for _, status := range []string{"0", "-1", "unknown"} {
		pf.heartbeat(status)
		if checks := countReads(t, file, func() { f.poll(pf.PF) }); checks != 1 {
			t.Errorf("heartbeat/status = %s: read %d times, want once", status, checks)
		}
	}
}

// countReads counts how often a file is read while do runs.
func countReads(t *testing.T, file string, do func()) (n int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, file, unix.IN_OPEN|unix.IN_CLOSE) // equal ones in a row would be merged
	must(t, err)
	do()
	buf := make([]byte, 4096)
	size, err := unix.Read(fd, buf)
	if err == unix.EAGAIN {
		return 0
	}
	must(t, err)
	return size / unix.SizeofInotifyEvent / 2
}

func TestLargeFileIsNotReadWhole(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	pf.queriesFailed(0)
	must(t, os.Truncate(filepath.Join(pf.Dir, "qat/state"), 256<<20))
	must(t, os.Truncate(filepath.Join(pf.Dir, "qat_ras/errors_fatal"), 256<<20))
	must(t, os.Truncate(filepath.Join(pf.Debugfs, "heartbeat/status"), 256<<20))
	var f files
	defer f.close()
	f.poll(pf.PF)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f.poll(pf.PF)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 64<<10 {
		t.Errorf("a poll allocates %d bytes, want at most 64 KiB", allocated)
	}
}

func TestHealthPollDetectsThatThePFIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		must(t, os.RemoveAll(pf.Dir))
		must(t, os.RemoveAll(pf.Debugfs))
		if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
			t.Errorf("woken for %v, want %s", woken, pf.Address)
		}
		if woken := m.poll(); len(woken) > 0 {
			t.Errorf("woken twice")
		}
		m.wantReason(pf.Address, "")
	})
}

func TestFatalErrorsSinceThePFCameUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestFatalErrorsHideAFailedHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		pf.heartbeat("-1")
		m.poll()
		m.poll()
		pf.set("qat_ras/errors_fatal", "1")
		m.poll()
		m.wantReason(pf.Address, "had 1 fatal error")
	})
}

func TestFatalErrorsAreCountedOverAFailedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

// A device that is reset counts from zero again.
func TestFatalErrorCounterMayStartOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		for _, step := range []struct{ fatal, want string }{
			{"3", ""},
			{"1", ""},
			{"2", "had 1 fatal error"},
		} {
			pf.set("qat_ras/errors_fatal", step.fatal)
			m.poll()
			m.wantReason(pf.Address, step.want)
		}
	})
}

func TestFailureLastsWhileTheHeartbeatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		pf.heartbeat("-1")
		m.poll()
		m.poll()
		heartbeat := filepath.Join(pf.Debugfs, "heartbeat")
		must(t, os.Rename(heartbeat, heartbeat+"-unreadable"))
		must(t, os.Rename(heartbeat+"-unreadable/status", heartbeat+"-unreadable/aside"))
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
		must(t, os.Rename(heartbeat+"-unreadable/aside", heartbeat+"-unreadable/status"))
		must(t, os.Rename(heartbeat+"-unreadable", heartbeat))
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
	})
}

func TestHealthPollDetectsARestartBetweenPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
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
			inBubble(t, reason+", "+name, func(t *testing.T) {
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
