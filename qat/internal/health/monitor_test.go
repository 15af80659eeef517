// SPDX-License-Identifier: Apache-2.0

package health

import (
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/qat/internal/pci"
)

// noTimer fails the test if a Monitor would do anything by itself.
func (m *testMonitor) noTimer() {
	m.t.Helper()
	m.Monitor.mu.Lock()
	defer m.Monitor.mu.Unlock()
	if !m.armed.IsZero() {
		m.t.Errorf("the timer fires at %v, want never", m.armed)
	}
}

func TestNoTimerWithNothingToPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		other := newTestPF(t, pci.Address{Bus: 0x70})
		m := newTestMonitor(t)
		m.noTimer()
		m.Track(pf.PF)
		m.Track(other.PF)
		m.Forget(pf.Address)
		m.poll()
		m.Forget(other.Address)
		m.noTimer()
	})
}

func TestNoTimerWithoutInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestMonitor(t)
		m.cfg.Interval = 0
		m.Track(newTestPF(t, pfAddress).PF)
		m.noTimer()
	})
}

func TestPollWaitsForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		pf.goDown()
		m.Track(pf.PF) // does not change the time of the next poll
		if woken := m.pass(interval - 1); len(woken) > 0 {
			t.Fatalf("polled before its time")
		}
		if woken := m.pass(1); !slices.Equal(woken, []pci.Address{pf.Address}) {
			t.Fatalf("woken for %v, want %v", woken, pf.Address)
		}
	})
}

// hungPFs are PFs of which some do not answer until a test says so.
type hungPFs struct {
	mu     sync.Mutex // guards polls
	polls  map[pci.Address]int
	answer map[pci.Address]chan sample // PFs that do not answer; others are good
}

func (h *hungPFs) poll(_ *files, pf PF) sample {
	h.mu.Lock()
	h.polls[pf.Address]++
	answer := h.answer[pf.Address]
	h.mu.Unlock()
	if answer != nil {
		return <-answer
	}
	return goodSample
}

var (
	goodSample   = sample{heartbeat: heartbeatGood, fatal: -1}
	failedSample = sample{heartbeat: heartbeatFailed, fatal: -1}
)

// newHungMonitor returns a Monitor of PFs of which the first n do not answer.
func newHungMonitor(t *testing.T, n int, pfs ...pci.Address) (*testMonitor, *hungPFs) {
	t.Helper()
	h := &hungPFs{polls: map[pci.Address]int{}, answer: map[pci.Address]chan sample{}}
	for _, a := range pfs[:n] {
		h.answer[a] = make(chan sample)
	}
	m := &testMonitor{t: t}
	m.Monitor = newMonitor(Config{Interval: interval, Wake: m.wake}, h.poll, func(pci.Address) bool { return true })
	for _, a := range pfs {
		m.Track(PF{Address: a, Incarnation: 1})
	}
	t.Cleanup(func() {
		for _, answer := range h.answer {
			close(answer)
		}
		m.Close()
	})
	return m, h
}

// polled returns how often a PF was polled.
func (h *hungPFs) polled(a pci.Address) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.polls[a]
}

const stuckReason = "heartbeat has not answered for 15 s"

func TestPFThatDoesNotAnswerIsUnhealthyUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, pfs := newHungMonitor(t, 1, pfAddress)
		m.pass(interval + 15*time.Second - 1)
		m.wantReason(pfAddress, "")
		if woken := m.pass(1); !slices.Equal(woken, []pci.Address{pfAddress}) {
			t.Errorf("woken for %v, want %v", woken, pfAddress)
		}
		m.wantReason(pfAddress, stuckReason)
		if woken := m.pass(time.Hour); len(woken) > 0 {
			t.Errorf("woken again")
		}
		m.wantReason(pfAddress, stuckReason)
		pfs.answer[pfAddress] <- failedSample
		if woken := m.pass(0); !slices.Equal(woken, []pci.Address{pfAddress}) {
			t.Errorf("woken for %v, want %v", woken, pfAddress)
		}
		m.wantReason(pfAddress, noHeartbeat) // the late answer counts
		m.pass(interval)
		pfs.answer[pfAddress] <- goodSample
		m.pass(0)
		m.wantReason(pfAddress, "")
	})
}

// addresses returns n addresses.
func addresses(n int) (list []pci.Address) {
	for i := range n {
		list = append(list, pci.Address{Bus: uint8(i + 1)})
	}
	return list
}

func TestPFsThatDoNotAnswerDoNotDelayOthersForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pfs := addresses(12)
		m, hung := newHungMonitor(t, 4, pfs...)
		// The second poll finds out that the first one hangs. For each further PF that hangs,
		// another goroutine goes on after a second.
		m.pass(2*interval + 3*readTimeout)
		for round := range 5 {
			before := map[pci.Address]int{}
			for _, a := range pfs {
				before[a] = hung.polled(a)
			}
			m.pass(interval)
			for i, a := range pfs {
				want := 1
				if i < 4 {
					want = 0
				}
				if got := hung.polled(a) - before[a]; got != want {
					t.Errorf("round %d: PF %d was polled %d times, want %d", round, i, got, want)
				}
			}
		}
		for i, a := range pfs {
			if hung.polled(a) == 0 || i < 4 && hung.polled(a) > 1 {
				t.Errorf("PF %d was polled %d times", i, hung.polled(a))
			}
		}
	})
}

// The number of blocked threads must not grow with the number of PFs that came and went.
func TestReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, hung := newHungMonitor(t, 1, pfAddress)
		for incarnation := range uint64(50) {
			m.pass(2 * interval)
			m.Forget(pfAddress)
			m.Track(PF{Address: pfAddress, Incarnation: incarnation + 2})
		}
		if n := hung.polled(pfAddress); n != 1 {
			t.Errorf("%d readers of one address, want 1", n)
		}
		m.wantReason(pfAddress, stuckReason)
	})
	synctest.Test(t, func(t *testing.T) {
		pfs := addresses(3 * maxReaders)
		m, hung := newHungMonitor(t, len(pfs), pfs...)
		m.pass(time.Hour)
		total := 0
		for _, a := range pfs {
			total += hung.polled(a)
		}
		if total != maxReaders {
			t.Errorf("%d readers, want %d", total, maxReaders)
		}
		for _, answer := range hung.answer {
			select {
			case answer <- goodSample:
			default:
			}
		}
		m.pass(interval)
		for _, a := range pfs {
			total -= hung.polled(a)
		}
		if total == 0 {
			t.Error("no PF is read after others answered")
		}
	})
}

func TestPollResultOfAnotherIncarnationIsDropped(t *testing.T) {
	for name, replace := range map[string]func(m *testMonitor){
		"forgotten": func(m *testMonitor) { m.Forget(pfAddress) },
		"recreated": func(m *testMonitor) { m.Track(PF{Address: pfAddress, Incarnation: 2}) },
	} {
		inBubble(t, name, func(t *testing.T) {
			m, pfs := newHungMonitor(t, 1, pfAddress)
			m.Observe(uevent(t, "change@"+pfPath, "DEVICE_ONLINE=0"))
			m.pass(interval)
			replace(m)
			pfs.answer[pfAddress] <- goodSample
			if woken := m.pass(0); len(woken) > 0 {
				t.Errorf("woken for %v", woken)
			}
			m.wantReason(pfAddress, "PCI error")
		})
	}
}

// The PF's directories may change while a reader uses them.
func TestTrackWhileAReaderRuns(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := NewMonitor(Config{Interval: time.Nanosecond, Wake: func(pci.Address) {}})
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			for range 100 {
				pf := pf.PF
				pf.Down = i == 0
				pf.Incarnation = uint64(i % 2)
				m.Track(pf)
				m.Observe(uevent(t, "change@"+pfPath, "DEVICE_ONLINE=0"))
				m.Reason(pf.Address)
			}
		})
	}
	callers.Wait()
	m.Close()
}

// A look at a PF with a PCI error does not use the directories that a poll has opened.
func TestDirectoriesAreClosedDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		answer := make(chan bool)
		m := &testMonitor{t: t}
		m.Monitor = newMonitor(Config{Interval: interval, Wake: m.wake}, (*files).poll,
			func(pci.Address) bool { return <-answer })
		t.Cleanup(m.Close)
		t.Cleanup(func() { close(answer) })
		m.Track(pf.PF)
		m.poll()
		m.Observe(uevent(t, "change@/devices/pci0000:6b/"+pfAddress.String(), "ERROR_EVENT=BEGIN_RECOVERY"))
		pf.heartbeat("-1") // no good one ends the error
		m.pass(faultTimeout)
		m.Monitor.mu.Lock()
		files, looks := &m.pfs[pfAddress].files, m.busy[pfAddress] != nil
		m.Monitor.mu.Unlock()
		if !looks || files.pf == nil {
			t.Fatalf("in a look: %v, directory open: %v; want both", looks, files.pf != nil)
		}
		m.Forget(pfAddress)
		if files.pf != nil || files.heartbeat != nil {
			t.Errorf("the directories are still open")
		}
	})
}

// The directories of a PF stay open between polls, but not longer than it is tracked.
func TestDirectoriesAreClosed(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	for name, end := range map[string]func(m *testMonitor, pf *testPF){
		"forgotten": func(m *testMonitor, pf *testPF) { m.Forget(pf.Address) },
		"recreated": func(m *testMonitor, pf *testPF) { pf.Incarnation++; m.Track(pf.PF) },
		"closed":    func(m *testMonitor, _ *testPF) { m.Close() },
	} {
		inBubble(t, name, func(t *testing.T) {
			pf := newTestPF(t, pfAddress)
			before := open()
			m := newTestMonitor(t, pf)
			m.poll()
			m.poll()
			if n := open() - before; n != 2 {
				t.Errorf("%d descriptors are kept open, want 2", n)
			}
			end(m, pf)
			if n := open() - before; n != 0 {
				t.Errorf("%d descriptors are still open", n)
			}
		})
	}
}

func TestTrackKeepsAFailureOfTheSameIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		pf.heartbeat("-1")
		m.poll()
		m.poll()
		m.wantReason(pf.Address, "failed its heartbeat")

		moved := newTestPF(t, pfAddress) // other directories, same incarnation
		moved.heartbeat("-1")
		m.Track(moved.PF)
		m.wantReason(pf.Address, "failed its heartbeat")
		moved.Incarnation++
		m.Track(moved.PF)
		m.wantReason(pf.Address, "")
	})
}

func TestTrackUsesTheNewDirectories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		moved := newTestPF(t, pfAddress)
		moved.set("qat/cfg_services", "dc")
		m.Track(moved.PF)
		if woken := m.poll(); len(woken) == 0 {
			t.Errorf("the services in the new directory were not noticed")
		}
	})
}

func TestForgetDropsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		pf.heartbeat("-1")
		m.poll()
		m.poll()
		m.Forget(pf.Address)
		m.wantReason(pf.Address, "")
		m.Track(pf.PF)
		m.wantReason(pf.Address, "")
	})
}
