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

	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/hostwatch"
)

func overrideFile(address string) string {
	return "bus/pci/devices/" + address + "/driver_override"
}

// newHostWithVF returns a host with one VF, which is not bound.
func newHostWithVF(t *testing.T) *lookalike.Host {
	t.Helper()
	h := newHost4xxx(t)
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	return h
}

func TestBackOffStaysAtItsMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHostWithVF(t), Config{})
		r.refuse(probeFile)
		r.rescan()
		var before time.Duration
		for failures := 1; failures <= 70; failures++ {
			wait := r.wake()
			if want := max(firstBackOff, min(2*before, longestBackOff)); wait != want {
				t.Fatalf("after %d failures the plugin waits %v, want %v", failures, wait, want)
			}
			before = wait
		}
		if n := r.probes(vfA1); before != longestBackOff || n != 71 {
			t.Errorf("the kernel was asked %d times, at last after %v, want 71 and %v", n, before, longestBackOff)
		}
	})
}

// oneTry returns what the plugin writes when it tries to bind a VF that no driver takes.
func oneTry(vf string) []string {
	probes := slices.Repeat([]string{vf + " > " + probeFile}, 4)
	return slices.Concat([]string{"vfio-pci > " + overrideFile(vf)}, probes, []string{" > " + overrideFile(vf)})
}

func TestEachBindTryAsksTheKernelEquallyOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHostWithVF(t), Config{})
		r.rescan()
		r.pass(time.Minute)
		want, got := slices.Repeat(oneTry(vfA1), 3), r.writes()
		if diff := cmp.Diff(want, got[:min(len(want), len(got))]); diff != "" {
			t.Errorf("the first three tries (-want +got):\n%s", diff)
		}
	})
}

func TestFailedBindRestoresDriverOverride(t *testing.T) {
	for before, after := range map[string]string{
		"(null)":          "",         // how the kernel shows that it is not set
		"vfio-pci":        "vfio-pci", // of an administrator, or left by a plugin that was killed
		"uio_pci_generic": "uio_pci_generic",
	} {
		inBubble(t, before, func(t *testing.T) {
			h := newHostWithVF(t)
			must(t, h.SetAttr(vfA1, "driver_override", before))
			r := newRig(t, h, Config{Steal: true})
			r.rescan()
			r.pass(nodeTimeout + time.Second/2)
			text, err := os.ReadFile(filepath.Join(h.Path(vfA1), "driver_override"))
			must(t, err)
			if got := strings.TrimSpace(string(text)); got != after || r.probes(vfA1) == 0 {
				t.Errorf("driver_override is %q after %q, want %q", got, r.writes(), after)
			}
		})
	}
}

func TestBoundVFWithoutNodeIsWaitedForOnlyAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		must(t, h.AddVF(lookalike.VF{Address: vfA2, PF: pfA}))
		r := newRig(t, h, Config{Limit: 1})
		r.rescan()
		must(t, h.Bind(vfA1, "vfio-pci")) // as the plugin asked
		must(t, os.Remove(vfioNode(t, h, vfA1)))
		r.read(vfA1)
		r.wantList(map[string][]string{})
		r.wantSkipped(vfA1, vfA2)
		if n := r.probes(vfA2); n > 0 {
			t.Errorf("%s is bound while the place is reserved", vfA2)
		}
		if wait := r.wake(); wait != nodeTimeout {
			t.Errorf("the plugin waits %v for the node, want %v", wait, nodeTimeout)
		}
		if n := r.probes(vfA2); n != 1 { // it got the place
			t.Errorf("%s is not bound after that: %q", vfA2, r.reason(vfA2))
		}
		must(t, h.Bind(vfA2, "vfio-pci"))
		r.read(vfA2)
		r.wantList(map[string][]string{"cy": {vfA2}})
		if next := r.nextWake(); !next.IsZero() {
			t.Errorf("after that the plugin wakes in %v, want never", time.Until(next))
		}
		r.pass(time.Hour)
		r.wantSkipped(vfA1)
	})
}

// The driver link goes at once, the node when the workload closes it. A bind before that would
// wait for the workload.
func TestVFHeldOnItsWayOutIsNotBound(t *testing.T) {
	for name, takeAway := range map[string]func(h *lookalike.Host) error{
		"unbound": func(h *lookalike.Host) error { return h.Unbind(vfA1) },
		"removed": func(h *lookalike.Host) error { return h.RemoveVF(vfA1) },
	} {
		for when, known := range map[string]bool{"listed before": true, "never listed": false} {
			inBubble(t, name+", "+when, func(t *testing.T) {
				h := newHost4xxx(t)
				addVFs(t, h, pfA, vfA1)
				r := newRig(t, h, Config{})
				if known {
					r.rescan()
				}
				release := h.Hold(vfA1)
				t.Cleanup(release)
				taken := make(chan error, 1)
				go func() { taken <- takeAway(h) }()
				synctest.Wait()
				r.rescan()
				r.pass(time.Hour)
				if listed := r.resource(vfA1) != ""; listed != known || r.reason(vfA1) == "" {
					t.Errorf("listed: %v (%q), want %v and a reason", listed, r.reason(vfA1), known)
				}
				if w := r.writes(); len(w) > 0 {
					t.Errorf("written: %q, want nothing", w)
				}
				release()
				must(t, <-taken)
				r.read(vfA1)
				if again, want := r.probes(vfA1) > 0, name == "unbound"; again != want {
					t.Errorf("bound after the workload released it: %v, want %v", again, want)
				}
			})
		}
	}
}

// The VF is removed and added while a job of the plugin waits in a write. Another job binds the
// new incarnation.
func TestFailedBindLeavesNewIncarnationAlone(t *testing.T) {
	for name, test := range map[string]struct {
		driver string // of the VF before
		file   string // the write to it fails
		probes int    // requests to probe either incarnation
	}{
		"probe":  {file: probeFile, probes: 2},
		"unbind": {driver: "4xxxvf", file: "bus/pci/drivers/4xxxvf/unbind", probes: 1},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			if test.driver != "" {
				must(t, h.LoadDriver(test.driver)) // and binds each new VF
			}
			must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
			r := newRig(t, h, Config{})
			release := r.hold(test.file)
			r.rescan()
			keepInode(t, h.Path(vfA1))
			must(t, h.RemoveVF(vfA1))
			must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
			r.read(vfA1)
			want := r.writes()
			if n := r.probes(vfA1); n != test.probes {
				t.Fatalf("%d requests to probe, want %d: %q", n, test.probes, want)
			}
			r.refuse(test.file)
			release()
			if diff := cmp.Diff(want, r.writes()); diff != "" {
				t.Errorf("written after the bind of the first failed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDriverEventRetriesFailedBindsAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		event func(h *lookalike.Host) *events.Event
		want  int // requests
	}{
		"uevent": {func(*lookalike.Host) *events.Event {
			return uevent(t, "add@/bus/pci/drivers/vfio-pci", "SUBSYSTEM=drivers")
		}, 1},
		"inotify": {func(h *lookalike.Host) *events.Event {
			return inotify(filepath.Join(h.Sysfs(), "bus/pci/drivers/vfio-pci"))
		}, 1},
		"another driver": {func(*lookalike.Host) *events.Event {
			return uevent(t, "add@/bus/pci/drivers/ixgbe", "SUBSYSTEM=drivers")
		}, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostWithVF(t)
			r := newRig(t, h, Config{})
			r.refuse(probeFile)
			r.rescan()
			r.pass(time.Minute)
			r.accept(probeFile)
			before := r.probes(vfA1)
			r.event(test.event(h))
			if got := r.probes(vfA1) - before; got != test.want {
				t.Errorf("the kernel was asked %d times at once, want %d", got, test.want)
			}
		})
	}
}

// The kernel removes physfn before it removes a VF, and creates it after it added one.
func TestNewIncarnationWithoutPhysfnIsNotBeingRemoved(t *testing.T) {
	for name, isNew := range map[string]bool{"same incarnation": false, "new incarnation": true} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{})
			r.rescan()
			if isNew {
				keepInode(t, h.Path(vfA1))
				must(t, h.RemoveVF(vfA1))
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
			} else {
				must(t, h.Unbind(vfA1))
			}
			must(t, h.RemoveAttr(vfA1, "physfn"))
			r.read(vfA1)
			if bound := r.probes(vfA1) > 0; bound != isNew {
				t.Errorf("the plugin binds it: %v (%q), want %v", bound, r.reason(vfA1), isNew)
			}
		})
	}
}

func TestVFOfAGuestIsNotBeingRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		const vf = "0000:00:05.0"
		must(t, h.AddVF(lookalike.VF{Address: vf}))
		r := newRig(t, h, Config{})
		r.rescan()
		r.read(vf)
		if why := r.reason(vf); why == "" || strings.Contains(why, "removed") {
			t.Errorf("skipped because %q, want that it is being bound", why)
		}
	})
}

func TestListedVFIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		r := newRig(t, h, Config{})
		r.rescan()
		must(t, h.Bind(vfA1, "vfio-pci")) // as the plugin asked
		r.read(vfA1)
		r.wantList(map[string][]string{"cy": {vfA1}})
		if next, pending := r.nextWake(), r.controller.binder.Pending(); !next.IsZero() || len(pending) > 0 {
			t.Errorf("the plugin wakes at %v and waits for %v, want never and for none", next, pending)
		}
	})
}

func TestVFOnTheDenylistIsSkippedWithTheRemedy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		const pf, vf = "0000:3d:00.0", "0000:3d:01.0"
		must(t, h.AddPF(lookalike.PF{Address: pf, DeviceID: "37c8"}))
		must(t, h.AddVF(lookalike.VF{Address: vf, PF: pf}))
		r := newRig(t, h, Config{})
		r.rescan()
		if why := r.reason(vf); !strings.Contains(why, "disable_denylist=1") {
			t.Errorf("skipped because %q, want that disable_denylist is named", why)
		}
	})
}

// The kernel can block a write for as long as a workload holds the device.
func TestCloseDoesNotWaitForABlockedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHostWithVF(t), Config{})
		held := make(chan struct{})
		r.holdUntil(probeFile, held)
		r.rescan()
		closed := time.Now()
		r.controller.Close()
		if took := time.Since(closed); took != hostwatch.CloseTimeout {
			t.Errorf("Close took %v, want %v", took, hostwatch.CloseTimeout)
		}
		close(held)
		synctest.Wait()
		closed = time.Now()
		r.controller.Close()
		if took := time.Since(closed); took > 0 {
			t.Errorf("Close took %v after the write, want no time", took)
		}
	})
}

func TestVFIsBoundWhenTheDriverIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		must(t, h.AddPF(lookalike.PF{Address: pfA}))
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		r := newRig(t, h, Config{})
		r.rescan()
		if why := r.reason(vfA1); !strings.Contains(why, "is not loaded") {
			t.Errorf("skipped because %q, want that the driver is not loaded", why)
		}
		must(t, h.LoadDriver("vfio-pci"))
		r.event(uevent(t, "add@/bus/pci/drivers/vfio-pci", "SUBSYSTEM=drivers"))
		if r.probes(vfA1) == 0 {
			t.Errorf("the VF is not bound: %q", r.reason(vfA1))
		}
	})
}
