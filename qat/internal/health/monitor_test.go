// SPDX-License-Identifier: Apache-2.0

package health

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/qat/internal/pci"
)

func TestNextIsZeroWithNothingToPoll(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	other := newTestPF(t, pci.Address{Bus: 0x70})
	m := newTestMonitor(t)
	m.Poll(m.now)
	if next := m.Next(); !next.IsZero() {
		t.Errorf("without a PF: next %v, want never", next)
	}
	m.Track(pf.PF)
	m.Track(other.PF)
	m.Forget(pf.Address)
	m.Poll(m.now)
	if next := m.Next(); !next.Equal(m.now.Add(interval)) {
		t.Errorf("with a PF left: next %v, want %v", next, m.now.Add(interval))
	}
	m.Forget(other.Address)
	m.Poll(m.now)
	if next := m.Next(); !next.IsZero() {
		t.Errorf("with the last PF forgotten: next %v, want never", next)
	}
}

func TestNextIsZeroWithoutInterval(t *testing.T) {
	for _, interval := range []time.Duration{0, -1} {
		m := NewMonitor(Config{Interval: interval})
		m.Track(newTestPF(t, pfAddress).PF)
		m.Poll(time.Unix(1e9, 0))
		if next := m.Next(); !next.IsZero() {
			t.Errorf("interval %v: next %v, want never", interval, next)
		}
	}
}

func TestPollWaitsForItsTime(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	m.poll()
	pf.set("qat/state", "down")

	next := m.Next() // the last poll scheduled it
	if want := m.now.Add(interval); !next.Equal(want) {
		t.Fatalf("next %v, want %v", next, want)
	}
	m.now = next.Add(-1)
	m.Poll(m.now) // too early
	m.Wait()
	if len(m.wakes) > 0 {
		t.Fatalf("polled before its time")
	}
	if again := m.Next(); !again.Equal(next) {
		t.Fatalf("next moved from %v to %v without a poll", next, again)
	}
	if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
		t.Fatalf("woken for %v, want %v", woken, pf.Address)
	}
}

// blockingRead is a read function of a Monitor that returns only when it is told to.
type blockingRead struct {
	mu      sync.Mutex
	started map[pci.Address]int
	answer  map[pci.Address]chan sample
}

func newBlockingRead(pfs ...pci.Address) *blockingRead {
	b := &blockingRead{started: map[pci.Address]int{}, answer: map[pci.Address]chan sample{}}
	for _, a := range pfs {
		b.answer[a] = make(chan sample)
	}
	return b
}

func (b *blockingRead) read(pf PF) sample {
	b.mu.Lock()
	b.started[pf.Address]++
	b.mu.Unlock()
	return <-b.answer[pf.Address]
}

func TestPFThatDoesNotAnswerBlocksOnlyItsOwnReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, other := pfAddress, pci.Address{Bus: 0x70}
		reads := newBlockingRead(stuck, other)
		var woken []pci.Address
		m := newMonitor(Config{
			Interval: interval,
			Now:      time.Now,
			Wake:     func(a pci.Address) { woken = append(woken, a) },
		}, reads.read)
		m.Track(PF{Address: stuck})
		m.Track(PF{Address: other})
		poll := func() {
			m.Poll(time.Now()) // schedules the first one
			time.Sleep(time.Until(m.Next()))
			m.Poll(time.Now())
			synctest.Wait()
		}
		failed := sample{up: true, heartbeat: "-1", fatal: -1}
		for range failedHeartbeats {
			poll()
			reads.answer[other] <- failed
			synctest.Wait()
		}
		if !slices.Equal(woken, []pci.Address{other}) || m.Reason(other) == "" {
			t.Errorf("woken for %v, reason %q; want PF %s unhealthy", woken, m.Reason(other), other)
		}
		if n := reads.started[stuck]; n != 1 {
			t.Errorf("%d readers of a PF that does not answer, want 1", n)
		}
		reads.answer[stuck] <- failed
		synctest.Wait()
		poll()
		if n := reads.started[stuck]; n != 2 {
			t.Errorf("%d polls of the PF after it answered, want 2", n)
		}
		close(reads.answer[stuck])
		close(reads.answer[other])
		m.Wait()
	})
}

func TestPollResultOfAnotherIncarnationIsDropped(t *testing.T) {
	for name, replace := range map[string]func(m *Monitor){
		"forgotten": func(m *Monitor) { m.Forget(pfAddress) },
		"recreated": func(m *Monitor) { m.Track(PF{Address: pfAddress, Incarnation: 2}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reads := newBlockingRead(pfAddress)
				m := newMonitor(Config{
					Interval: interval,
					Now:      time.Now,
					Wake:     func(a pci.Address) { t.Errorf("woken for %s", a) },
				}, reads.read)
				m.Track(PF{Address: pfAddress, Incarnation: 1})
				m.Observe(uevent(t, "change@/devices/pci0000:6b/0000:6b:00.0", "DEVICE_ONLINE=0"))
				m.Poll(time.Now()) // schedules the first one
				m.Poll(m.Next())
				replace(m)
				reads.answer[pfAddress] <- sample{up: true, heartbeat: "0", fatal: -1}
				m.Wait()
				if m.Reason(pfAddress) == "" {
					t.Errorf("a heartbeat of another incarnation ended the PCI error")
				}
			})
		})
	}
}

// The PF's directories may change while a reader uses them.
func TestTrackWhileAReaderRuns(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := NewMonitor(Config{Interval: time.Nanosecond, Wake: func(pci.Address) {}, Now: time.Now})
	m.Track(pf.PF)
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			for range 100 {
				pf := pf.PF
				pf.Down = i == 0
				m.Track(pf)
				m.Observe(uevent(t, "change@/devices/pci0000:6b/0000:6b:00.0", "DEVICE_ONLINE=0"))
				m.Poll(time.Now())
				m.Reason(pf.Address)
			}
		})
	}
	callers.Wait()
	m.Wait()
}

func TestTrackKeepsAFailureOfTheSameIncarnation(t *testing.T) {
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
}

func TestTrackUsesTheNewDirectories(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	m.poll()
	moved := newTestPF(t, pfAddress)
	moved.set("qat/cfg_services", "dc")
	m.Track(moved.PF)
	if woken := m.poll(); len(woken) == 0 {
		t.Errorf("the services in the new directory were not noticed")
	}
}

func TestForgetDropsAFailure(t *testing.T) {
	pf := newTestPF(t, pfAddress)
	m := newTestMonitor(t, pf)
	pf.heartbeat("-1")
	m.poll()
	m.poll()
	m.Forget(pf.Address)
	m.wantReason(pf.Address, "")
	m.Track(pf.PF)
	m.wantReason(pf.Address, "")
}
