// SPDX-License-Identifier: Apache-2.0

package health

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"qatplugin/events"
	"qatplugin/qat/internal/pci"
)

const (
	pfPath = "/devices/pci0000:6b/0000:6b:00.0"
	vfPath = "/devices/pci0000:6b/0000:6b:00.1"
)

func TestObservePCIErrors(t *testing.T) {
	const (
		recovering   = "had a PCI error and is being recovered"
		notRecovered = "had a PCI error and could not be recovered"
	)
	type list = []*events.Event
	change := func(variables ...string) *events.Event { return uevent(t, "change@"+pfPath, variables...) }
	begin := change("ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0")
	recovered := change("ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=1")
	failed := change("ERROR_EVENT=FAILED_RECOVERY", "DEVICE_ONLINE=0")
	offline, online := change("DEVICE_ONLINE=0"), change("DEVICE_ONLINE=1")
	inotify := &events.Event{Origin: events.Inotify, Action: events.Add, Path: []byte(pfPath)}
	for _, test := range []struct {
		name   string
		events list
		want   string
	}{
		{"error", list{begin}, recovering},
		{"error and recovery", list{begin, recovered}, ""},
		{"error and failed recovery", list{begin, failed}, notRecovered},
		{"failed recovery and recovery", list{failed, recovered}, ""},
		{"error, online", list{change("ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=1")}, recovering},
		{"failed recovery, online", list{change("ERROR_EVENT=FAILED_RECOVERY", "DEVICE_ONLINE=1")}, notRecovered},
		{"recovery, offline", list{begin, change("ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=0")}, ""},
		{"unknown error event, online", list{begin, change("ERROR_EVENT=X", "DEVICE_ONLINE=1")}, recovering},
		{"offline", list{offline}, recovering},
		{"offline and online", list{offline, online}, ""},
		{"other change", list{change()}, ""},
		{"other change after an error", list{begin, change()}, recovering},
		{"function removed", list{failed, uevent(t, "remove@"+pfPath)}, ""},
		{"function added", list{failed, uevent(t, "add@"+pfPath)}, ""},
		{"driver bound", list{failed, uevent(t, "bind@"+pfPath, "DRIVER=4xxx")}, ""},
		{"driver unbound", list{failed, uevent(t, "unbind@"+pfPath)}, notRecovered},
		{"device below it added", list{failed, uevent(t, "add@"+pfPath+"/vfio-dev/vfio0")}, notRecovered},
		{"error of a device below it", list{uevent(t, "change@"+pfPath+"/net/eth0", "DEVICE_ONLINE=0")}, ""},
		{"inotify event", list{failed, inotify}, notRecovered},
		{"synthetic event", list{failed, uevent(t, "add@"+pfPath, "SYNTH_UUID=0")}, notRecovered},
		{"synthetic change", list{failed, change("SYNTH_UUID=0", "DEVICE_ONLINE=1")}, notRecovered},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			m := newTestMonitor(t)
			for _, e := range test.events {
				m.Observe(e)
			}
			m.wantReason(pfAddress, test.want)
			m.wantReason(vfAddress, "")
		})
	}
}

func TestPCIErrorOfAVF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		pf.VFs = []pci.Address{vfAddress}
		m := newTestMonitor(t, pf)
		begin := uevent(t, "change@"+vfPath, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0")
		m.Observe(begin)
		m.wantReason(vfAddress, "is being recovered")
		m.wantReason(pfAddress, "")
		m.Observe(uevent(t, "remove@"+vfPath))
		m.wantReason(vfAddress, "")

		m.Observe(begin)
		pf.heartbeat("-1")
		m.poll()
		m.wantReason(vfAddress, "is being recovered")
		pf.heartbeat("0")
		if woken := m.poll(); !slices.Equal(woken, []pci.Address{vfAddress}) {
			t.Errorf("woken for %v, want %s", woken, vfAddress)
		}
		m.wantReason(vfAddress, "")
	})
}

func TestHeartbeatThatBeganBeforeAPCIErrorDoesNotEndIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, pfs := newHungMonitor(t, 1, pfAddress)
		m.pass(interval + 1)
		m.Observe(uevent(t, "change@"+pfPath, "DEVICE_ONLINE=0"))
		pfs.answer[pfAddress] <- goodSample
		m.pass(0)
		m.wantReason(pfAddress, "PCI error")
		m.pass(interval)
		pfs.answer[pfAddress] <- goodSample
		m.pass(0)
		m.wantReason(pfAddress, "")
	})
}

// Without heartbeats, a PCI error ends when the configuration space can be read. The first word is
// that of a VF, which has no IDs.
func TestPCIErrorEndsWhenTheFunctionResponds(t *testing.T) {
	const noIDs = "\xff\xff\xff\xff"
	synctest.Test(t, func(t *testing.T) {
		m := newTestMonitor(t)
		dir := filepath.Join(m.cfg.Sysfs, "bus/pci/devices", vfAddress.String())
		must(t, os.MkdirAll(dir, 0o755))
		config := func(text string) {
			must(t, os.WriteFile(filepath.Join(dir, "config"), []byte(text), 0o600))
		}
		config(noIDs + "\xff\xff\xff\xff\xff\xff\xff\xff")
		m.Observe(uevent(t, "change@"+vfPath, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"))
		for range 3 {
			m.pass(faultTimeout)
			m.wantReason(vfAddress, "is being recovered")
		}
		config(noIDs + "\x06\x00\x10\x00\x40\x00\x40\x0b")
		if woken := m.pass(faultTimeout); !slices.Equal(woken, []pci.Address{vfAddress}) {
			t.Errorf("woken for %v, want %s", woken, vfAddress)
		}
		m.wantReason(vfAddress, "")
		m.noTimer()
	})
}

func TestGoodHeartbeatEndsAPCIError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.Observe(uevent(t, "change@"+pfPath, "ERROR_EVENT=FAILED_RECOVERY", "DEVICE_ONLINE=0"))
		pf.heartbeat("-1")
		m.poll()
		m.wantReason(pf.Address, "could not be recovered")
		pf.heartbeat("0")
		pf.goDown()
		m.poll() // no heartbeat
		m.wantReason(pf.Address, "could not be recovered")
		pf.comeUp()
		pf.set("qat/state", "down")
		m.poll()
		m.wantReason(pf.Address, "could not be recovered")
		pf.set("qat/state", "up")
		m.poll()
		m.wantReason(pf.Address, "")
	})
}

func TestEndOfAPCIErrorWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		m.Observe(uevent(t, "change@"+pfPath, "DEVICE_ONLINE=0"))
		if woken := m.poll(); !slices.Equal(woken, []pci.Address{pf.Address}) {
			t.Errorf("woken for %v, want %s", woken, pf.Address)
		}
		if woken := m.poll(); len(woken) > 0 {
			t.Errorf("woken twice")
		}
	})
}

func TestPCIErrorHidesAFailedHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		pf.heartbeat("-1")
		m.poll()
		m.poll()
		m.Observe(uevent(t, "change@"+pfPath, "DEVICE_ONLINE=0"))
		m.wantReason(pf.Address, "had a PCI error")
	})
}

func TestRecoveryEndsAFailedHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		pf.heartbeat("-1")
		m.poll()
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
		m.Observe(uevent(t, "change@"+pfPath, "ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=1"))
		m.wantReason(pf.Address, "")
		m.poll()
		m.wantReason(pf.Address, "") // a first failed heartbeat again
		m.poll()
		m.wantReason(pf.Address, noHeartbeat)
	})
}

func TestRecoveryDoesNotEndFatalErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.poll()
		pf.set("qat_ras/errors_fatal", "1")
		m.poll()
		m.Observe(uevent(t, "change@"+pfPath, "ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=1"))
		m.wantReason(pf.Address, "had 1 fatal error")
	})
}

func TestForgetKeepsAPCIError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pf := newTestPF(t, pfAddress)
		m := newTestMonitor(t, pf)
		m.Observe(uevent(t, "change@"+pfPath, "DEVICE_ONLINE=0"))
		m.Forget(pf.Address) // it may only have been unreadable for a moment
		m.wantReason(pf.Address, "had a PCI error")
	})
}

func TestObserveDoesNotAllocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestMonitor(t)
		ordinary := uevent(t, "change@"+pfPath, "DRIVER=4xxx")
		recovered := uevent(t, "change@"+pfPath, "ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=1")
		m.Track(PF{Address: pfAddress})
		if n := testing.AllocsPerRun(100, func() {
			m.Observe(ordinary)
			m.Observe(recovered)
		}); n > 0 {
			t.Errorf("%v allocations, want 0", n)
		}
	})
}
