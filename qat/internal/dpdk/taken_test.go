// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/qat/internal/device"
)

// An override that names another driver than the DPDK driver reserves the VF, as driverctl and
// administrators use it.
func TestDriverOverrideOfSomeoneElseIsAReservation(t *testing.T) {
	for _, override := range []string{"none", "uio_pci_generic", "c6xxvf"} {
		for driver, unbind := range map[string]bool{"no driver": true, "its kernel driver": false} {
			for _, steal := range []bool{false, true} {
				name := override + ", " + driver
				if steal {
					name += ", steal"
				}
				inBubble(t, name, func(t *testing.T) {
					h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
					if unbind {
						must(t, h.Unbind(vfGen2A))
					}
					must(t, h.SetAttr(vfGen2A, "driver_override", override))
					r := newRig(t, h, Config{Steal: steal})
					r.rescan()
					r.pass(time.Minute)
					writes := r.writesByVF([]string{vfGen2A})[vfGen2A]
					if steal {
						if len(writes) == 0 {
							t.Errorf("nothing is written with -steal")
						}
						return
					}
					if len(writes) > 0 {
						t.Errorf("written: %q, want nothing", writes)
					}
					why := r.reason(vfGen2A)
					if !strings.Contains(why, "driver_override") || !strings.Contains(why, override) {
						t.Errorf("skipped because %q, want that driver_override is %s", why, override)
					}
					must(t, h.SetAttr(vfGen2A, "driver_override", "(null)"))
					r.event(inotify(filepath.Join(realPath(t, h.Path(vfGen2A)), "driver_override")))
					if r.probes(vfGen2A) == 0 {
						t.Errorf("not bound after the reservation ended: %q", r.reason(vfGen2A))
					}
				})
			}
		}
	}
}

// The VF is reserved after it was read and before it is written to: it waits for a worker.
func TestDriverOverrideIsReadJustBeforeTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 16))
		vfs := h.VFs(pfA)
		r := newRig(t, h, Config{})
		var releases []func()
		for _, vf := range vfs {
			releases = append(releases, r.hold(overrideFile(vf)))
		}
		r.rescan()
		var waiting string // for a worker
		for _, vf := range vfs {
			if len(r.writesByVF([]string{vf})) == 0 {
				waiting = vf
			}
		}
		if waiting == "" {
			t.Fatal("no VF waits: the test has no effect")
		}
		must(t, h.SetAttr(waiting, "driver_override", "none"))
		for _, release := range releases {
			release()
		}
		if w := r.writesByVF([]string{waiting}); len(w) > 0 {
			t.Errorf("written: %q, want nothing", w)
		}
	})
}

// Only an override that is still the plugin's own is undone.
func TestUndoLeavesAnOverrideOfSomeoneElseAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
		r := newRig(t, h, Config{})
		r.rescan()
		must(t, h.SetAttr(vfGen2A, "driver_override", "none")) // during the try
		before := len(r.writesByVF([]string{vfGen2A})[vfGen2A])
		r.pass(time.Minute)
		text, err := os.ReadFile(filepath.Join(h.Path(vfGen2A), "driver_override"))
		must(t, err)
		if got := strings.TrimSpace(string(text)); got != "none" {
			after := r.writesByVF([]string{vfGen2A})[vfGen2A][before:]
			t.Errorf("driver_override is %q after %q, want none", got, after)
		}
	})
}

// The VF is recreated while the plugin waits in a write, and no event has reported that yet.
func TestUndoLeavesASilentlyNewIncarnationAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		r := newRig(t, h, Config{})
		release := r.hold(probeFile)
		r.rescan()
		keepInode(t, h.Path(vfA1))
		must(t, h.RemoveVF(vfA1))
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		must(t, h.SetAttr(vfA1, "driver_override", "vfio-pci")) // of the administrator
		before := r.writes()
		r.refuse(probeFile)
		release()
		if diff := cmp.Diff(before, r.writes()[:min(len(before), len(r.writes()))]); diff != "" {
			t.Fatal(diff)
		}
		if after := r.writes()[len(before):]; slices.Contains(after, " > "+overrideFile(vfA1)) {
			t.Errorf("written to the new incarnation: %q", after)
		}
	})
}

func TestTakingAVFFromItsDriverIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
		must(t, h.Unbind(vfGen2B))
		r := newRig(t, h, Config{})
		logged := testlog.Capture(t)
		r.rescan()
		want := `"Took a VF from its driver" device="0000:3d:01.0" from="c6xxvf" to="vfio-pci"`
		lines := slices.DeleteFunc(logged(), func(line string) bool { return !strings.Contains(line, "Took") })
		if diff := cmp.Diff([]string{want}, lines); diff != "" {
			t.Errorf("logged at V(0) (-want +got):\n%s", diff)
		}
	})
}

// The node of the group outlives the driver link for a moment at every unbind. Only a node that
// stays shows that a workload holds the VF.
func TestWorkloadIsBlamedOnlyWhenItHoldsTheVF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{})
		r.rescan()
		release := h.Hold(vfA1)
		t.Cleanup(release)
		unbound := make(chan error, 1)
		go func() { unbound <- h.Unbind(vfA1) }()
		synctest.Wait()
		r.read(vfA1)
		if why := r.reason(vfA1); why == "" || strings.Contains(why, "workload") {
			t.Errorf("at first the reason is %q, want one that does not name a workload", why)
		}
		r.pass(time.Minute)
		if why := r.reason(vfA1); !strings.Contains(why, "a workload holds it") {
			t.Errorf("after a minute the reason is %q, want that a workload holds it", why)
		}
		if next := r.nextWake(); !next.IsZero() {
			t.Errorf("the plugin wakes in %v, want never", time.Until(next))
		}
		release()
		must(t, <-unbound)
	})
}

// The kernel blocks the writes to all VFs of one PF.
func TestStuckPFDoesNotKeepVFsOfOthersFromBeingBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
		must(t, h.SetVFs(pfA, 16))
		must(t, h.SetVFs(pfB, 16))
		r := newRig(t, h, Config{})
		var releases []func()
		for _, vf := range h.VFs(pfA) {
			releases = append(releases, r.hold(overrideFile(vf)))
		}
		r.rescan()
		for _, vf := range h.VFs(pfB) {
			if r.probes(vf) == 0 {
				t.Errorf("%s of the other PF is not bound: %q", vf, r.reason(vf))
			}
		}
		for _, release := range releases {
			release()
		}
	})
}

// An agent gives each VF back to its kernel driver as soon as it sees it with vfio-pci.
func TestAgentThatTakesVFsBackIsDamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
		must(t, h.RemoveVF(vfGen2B))
		r := newRig(t, h, Config{})
		r.rescan()
		rebinds, lists, tree := 0, 0, r.tree
		count := func() {
			if r.tree != tree {
				lists, tree = lists+1, r.tree
			}
		}
		probes := 0
		for start := time.Now(); time.Since(start) < 3*time.Second; {
			if n := r.probes(vfGen2A); n > probes { // the kernel does as the plugin asked
				_ = h.Unbind(vfGen2A) // it may have no driver
				must(t, h.Bind(vfGen2A, device.DriverVFIO))
				probes = n
				rebinds++
				r.read(vfGen2A)
				count()
				time.Sleep(20 * time.Millisecond)
				must(t, h.Unbind(vfGen2A)) // the agent does the reverse
				r.read(vfGen2A)
				count()
				if r.probes(vfGen2A) > probes {
					continue // the plugin was faster
				}
				must(t, h.Bind(vfGen2A, "c6xxvf"))
				r.read(vfGen2A)
				count()
				continue
			}
			r.pass(10 * time.Millisecond)
		}
		t.Logf("%d rebinds and %d lists in 3 s", rebinds, lists)
		if rebinds > 3 || lists > 2*rebinds { // with waits of 1 and 2 s
			t.Errorf("%d rebinds and %d lists in 3 s, want at most 3 and 6", rebinds, lists)
		}
		if why := r.reason(vfGen2A); !strings.Contains(why, "c6xxvf") {
			t.Errorf("skipped because %q, want that c6xxvf is named", why)
		}
	})
}

// A VF that was bound for long is bound again at once.
func TestVFThatWasBoundForLongIsBoundAgainAtOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		after time.Duration
		wait  time.Duration
	}{
		"soon":   {30 * time.Second, firstBackOff},
		"late":   {2 * time.Minute, 0},
		"at end": {time.Minute, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostWithVF(t)
			r := newRig(t, h, Config{})
			r.rescan()
			must(t, h.Bind(vfA1, device.DriverVFIO))
			r.read(vfA1)
			r.wantList(map[string][]string{"cy": {vfA1}})
			r.pass(tt.after)
			r.read(vfA1)
			must(t, h.Unbind(vfA1))
			before := r.probes(vfA1)
			r.read(vfA1)
			r.pass(tt.wait)
			if tt.wait > 0 && !strings.Contains(r.reason(vfA1), "waiting") {
				t.Errorf("after %v: %q", tt.wait, r.reason(vfA1))
			}
			if r.probes(vfA1) == before {
				t.Errorf("not bound again after %v", tt.wait)
			}
		})
	}
}
