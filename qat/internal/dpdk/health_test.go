// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"qatplugin/internal/lookalike"
)

func TestNoHealthTimerWithoutPF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddPF(lookalike.PF{Address: pfB}))
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		r.pass(healthInterval)
		for _, pf := range []string{pfA, pfB} {
			if wait := r.wake(); wait != healthInterval {
				t.Errorf("with a PF the plugin wakes after %v, want %v", wait, healthInterval)
			}
			must(t, h.RemovePF(pf))
			r.read(pf)
		}
		r.pass(healthInterval)
		if next := r.nextWake(); !next.IsZero() {
			t.Errorf("without a PF the plugin wakes at %v, want never", next)
		}
	})
}

func TestReplacedPFIsHealthyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		must(t, h.SetHeartbeat(pfA, "-1"))
		r.pass(2 * healthInterval)
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}})
		keepInode(t, h.Path(pfA))
		must(t, h.RemovePF(pfA))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		addVFs(t, h, pfA, vfA1)
		r.rescan()
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
			must(t, os.Rename(heartbeat, filepath.Join(h.Dir(), "aside")))
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

// While a PF is down or has no driver, its counters start anew.
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
