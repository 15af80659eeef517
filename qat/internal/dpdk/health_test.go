// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

func TestPFThatIsGoneIsNotPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		r.pass(healthInterval)
		must(t, h.SetHeartbeat(pfA, "-1"))
		r.pass(healthInterval)
		if r.controller.health.Reason(r.address(pfA)).Text == "" {
			t.Error("the PF is healthy without a heartbeat")
		}
		must(t, h.RemovePF(pfA))
		r.read(pfA)
		if reason := r.controller.health.Reason(r.address(pfA)).Text; reason != "" {
			t.Errorf("a PF that is gone %s", reason)
		}
	})
}

func TestReplacedPFIsHealthyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		r.pass(healthInterval)
		must(t, h.SetHeartbeat(pfA, "-1"))
		r.pass(healthInterval)
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
		keepInode(t, h.Path(pfA))
		must(t, h.RemovePF(pfA))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		addVFs(t, h, pfA, vfA1)
		r.rescan()
		r.wantList(map[string][]string{"cy": {vfA1}})
	})
}

// debugfs returns the path of a file of pfA's driver in debugfs.
func debugfs(h *lookalike.Host, name string) string {
	return filepath.Join(h.Sysfs(), "kernel/debug/qat_4xxx_"+pfA, name)
}

func TestOneFailedHeartbeatIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		r.pass(healthInterval)
		must(t, h.SetHeartbeat(pfA, "-1"))
		r.pass(healthInterval)
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
		must(t, h.SetHeartbeat(pfA, "0"))
		r.pass(healthInterval)
		r.wantList(map[string][]string{"cy": {vfA1}})
	})
}

// The driver answers -1 also if it was asked too soon, and then counts no failure
// (drivers/crypto/intel/qat/qat_common/adf_heartbeat.c, adf_heartbeat_status).
func TestHeartbeatReadTooSoonIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		must(t, os.WriteFile(debugfs(h, "heartbeat/status"), []byte("-1\n"), 0o600))
		for range 5 {
			r.pass(healthInterval)
			r.wantList(map[string][]string{"cy": {vfA1}})
		}
	})
}

func TestSilentChangeBeforeTheFirstHeartbeatIsSeen(t *testing.T) {
	for name, change := range map[string]struct{ attribute, value, want string }{
		"services": {"qat/cfg_services", "dc", "dc"},
		"state":    {"qat/state", "down", "cy"},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{HealthInterval: healthInterval})
			r.rescan()
			must(t, os.WriteFile(filepath.Join(h.Path(pfA), change.attribute), []byte(change.value+"\n"), 0o600))
			r.pass(healthInterval)
			if got := r.resource(vfA1); got != change.want {
				t.Errorf("in resource %q, want %q", got, change.want)
			}
			if down := change.value == "down"; down != (r.reason(vfA1) != "") {
				t.Errorf("reason %q, want one: %v", r.reason(vfA1), down)
			}
		})
	}
}

// pciError is the uevent of a PCI error of vfA1 (drivers/pci/pci-driver.c, pci_uevent_ers).
func pciError(t *testing.T, action string, variables ...string) *events.Event {
	t.Helper()
	return pciEvent(t, vfA1, action, variables...)
}

func pciEvent(t *testing.T, address, action string, variables ...string) *events.Event {
	t.Helper()
	fields := append([]string{action + "@/devices/pci0000:6b/" + address, "SUBSYSTEM=pci"}, variables...)
	var e events.Event
	must(t, events.ParseUevent(&e, []byte(strings.Join(fields, "\x00")+"\x00")))
	return &e
}

// The kernel may drop the uevent of the recovery.
func TestPCIErrorOfAVFEndsWithoutAnEvent(t *testing.T) {
	for name, tt := range map[string]struct {
		interval, within time.Duration
	}{
		"good heartbeat of its PF": {healthInterval, 2 * healthInterval},
		"no heartbeats":            {0, 3 * time.Minute},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{HealthInterval: tt.interval})
			r.rescan()
			r.event(pciError(t, "change", "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"))
			r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
			r.pass(tt.within)
			r.wantList(map[string][]string{"cy": {vfA1}})
		})
	}
}

// What sysfs does not show of a function counts although the function cannot be read.
func TestPCIErrorOfAFunctionThatCannotBeReadCounts(t *testing.T) {
	for name, tt := range map[string]struct{ address, attribute string }{
		"PF": {pfA, "qat/state"},
		"VF": {vfA1, "device"},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{})
			r.rescan()
			restore := failReads(t, h, tt.address, tt.attribute)
			r.event(pciEvent(t, tt.address, "change", "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"))
			r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
			r.event(pciEvent(t, tt.address, "change", "ERROR_EVENT=SUCCESSFUL_RECOVERY", "DEVICE_ONLINE=1"))
			r.wantList(map[string][]string{"cy": {vfA1}})
			restore()
		})
	}
}

// udevadm trigger --action=add asks the kernel for such an event
// (Documentation/ABI/testing/sysfs-uevent).
func TestSyntheticEventDoesNotEndAPCIError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{})
		r.rescan()
		r.event(pciError(t, "change", "ERROR_EVENT=FAILED_RECOVERY", "DEVICE_ONLINE=0"))
		r.event(pciError(t, "add", "SYNTH_UUID=0"))
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
		r.event(pciError(t, "add"))
		r.wantList(map[string][]string{"cy": {vfA1}})
	})
}

// The driver removes heartbeat/ from debugfs when a PF goes down and creates it when the PF goes
// up. A Gen2 PF has no other attribute that shows this.
func TestFatalErrorEndsWhenPFWasDown(t *testing.T) {
	for name, downAtPoll := range map[string]bool{"between two polls": false, "at a poll": true} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{HealthInterval: healthInterval})
			r.rescan()
			for _, errors := range []string{"0", "2"} {
				must(t, h.SetAttr(pfA, "qat_ras/errors_fatal", errors))
				r.pass(healthInterval)
			}
			r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})

			heartbeat := filepath.Join(h.Sysfs(), "kernel/debug/qat_4xxx_"+pfA, "heartbeat")
			keepInode(t, heartbeat)
			must(t, os.RemoveAll(heartbeat))
			if downAtPoll {
				r.pass(healthInterval)
				r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
			}
			must(t, os.Mkdir(heartbeat, 0o755))
			must(t, h.SetHeartbeat(pfA, "0"))
			r.pass(healthInterval)
			r.wantList(map[string][]string{"cy": {vfA1}})
			r.pass(healthInterval)
			r.wantList(map[string][]string{"cy": {vfA1}})
		})
	}
}

// While a PF is down or has no driver, its counters start again.
func TestFatalErrorEndsWhenThePFWasSeenDown(t *testing.T) {
	for name, tt := range map[string]struct{ down, up func(h *lookalike.Host) error }{
		"state": {
			func(h *lookalike.Host) error { return h.SetAttr(pfA, "qat/state", "down") },
			func(h *lookalike.Host) error { return h.SetAttr(pfA, "qat/state", "up") },
		},
		"driver": {
			func(h *lookalike.Host) error { return os.Rename(h.Path(pfA)+"/driver", h.Dir()+"/aside") },
			func(h *lookalike.Host) error { return os.Rename(h.Dir()+"/aside", h.Path(pfA)+"/driver") },
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{HealthInterval: healthInterval})
			r.rescan()
			for _, errors := range []string{"0", "2"} {
				must(t, h.SetAttr(pfA, "qat_ras/errors_fatal", errors))
				r.pass(healthInterval)
			}
			r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
			must(t, tt.down(h))
			r.read(pfA)
			must(t, tt.up(h))
			r.read(pfA)
			r.wantList(map[string][]string{"cy": {vfA1}})
		})
	}
}
