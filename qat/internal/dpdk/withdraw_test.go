// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
)

// reconfiguration is why tests withdraw PFs.
const reconfiguration = "waiting for the reconfiguration of its PF"

// withdraw withdraws a PF, or offers it again, and lets the plugin follow.
func (r *rig) withdraw(pf, reason string) {
	r.t.Helper()
	r.config.Allocator.Withdraw(r.address(pf), reason)
	r.settle()
}

func TestVFsOfAWithdrawnPFAreNotAllocated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true})
		r.rescan()
		allocator := r.config.Allocator
		must(t, r.allocate(vfA1))
		allocated := time.Now()
		if at := allocator.LastAllocated(r.address(vfA1)); !at.Equal(allocated) {
			t.Errorf("last allocated at %v, want %v", at, allocated)
		}
		time.Sleep(time.Second)

		allocator.Withdraw(r.address(pfA), reconfiguration)
		err := r.allocate(vfB1, vfA1) // before the loop runs
		want := "allocate " + vfA1 + ": the device cannot be used: " + reconfiguration
		if !errors.Is(err, devtree.ErrUnfit) || err.Error() != want {
			t.Errorf("allocating VFs of which one is withdrawn: %v, want %s", err, want)
		}
		for vf, want := range map[string]time.Time{vfA1: allocated, vfA2: {}, vfB1: {}} {
			if at := allocator.LastAllocated(r.address(vf)); !at.Equal(want) {
				t.Errorf("%s last allocated at %v, want %v", vf, at, want)
			}
		}
		r.settle()
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy", vfA2 + " unhealthy"}, "dc": {vfB1, vfB2}})
		if why := r.reason(vfA2); why != reconfiguration {
			t.Errorf("unhealthy because %q, want %q", why, reconfiguration)
		}
		must(t, r.allocate(vfB1, vfB2))

		r.withdraw(pfA, "")
		r.wantList(map[string][]string{"cy": {vfA1, vfA2}, "dc": {vfB1, vfB2}})
		must(t, r.allocate(vfA1, vfA2))
	})
}

func TestWithdrawalBeforeTheFirstRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true})
		r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
		r.rescan()
		r.wantList(map[string][]string{"dc": {vfB1, vfB2}})
		r.wantSkipped(vfA1, vfA2)
		if why := r.reason(vfA1); why != reconfiguration {
			t.Errorf("skipped because %q, want %q", why, reconfiguration)
		}
	})
}

func TestWithdrawalAfterTheModeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true})
		r.rescan()
		r.controller.Close()
		r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
		if keys := r.take(); len(keys) > 0 {
			t.Errorf("marked %v, want nothing", keys)
		}
		if err := r.allocate(vfA1); !errors.Is(err, devtree.ErrUnfit) {
			t.Errorf("allocating a VF that is withdrawn: %v", err)
		}
	})
}

// A takedown of a PF unbinds and removes its VFs, and adds others with the same addresses.
func TestVFsOfAWithdrawnPFAreNotBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 2)
		bindAll(t, h, pfA, device.DriverVFIO)
		a, b := h.VFs(pfA), h.VFs(pfB)
		r := newRig(t, h, Config{})
		k := newKernel(r)
		r.config.Allocator.Withdraw(r.address(pfB), reconfiguration)
		r.rescan()
		k.pass(time.Hour)
		r.wantList(map[string][]string{"cy": a})
		r.wantSkipped(b...)

		r.withdraw(pfA, reconfiguration)
		must(t, h.Unbind(a[0])) // it was listed
		r.read(a[0])
		k.pass(time.Hour)
		r.wantList(map[string][]string{"cy": {a[1] + " unhealthy"}})
		must(t, h.SetVFs(pfA, 0))
		r.read(slices.Concat(a, []string{pfA})...)
		must(t, h.SetVFs(pfA, 2))
		r.read(slices.Concat(a, []string{pfA})...)
		k.pass(time.Hour)
		r.wantList(map[string][]string{"cy": {}})
		r.wantSkipped(slices.Concat(a, b)...)
		if why := r.reason(a[0]); why != reconfiguration {
			t.Errorf("skipped because %q, want %q", why, reconfiguration)
		}
		if w := r.writes(); len(w) > 0 {
			t.Fatalf("written: %q, want nothing", w)
		}

		r.withdraw(pfB, "")
		k.run()
		r.wantList(map[string][]string{"cy": b})
		r.withdraw(pfA, "")
		k.run()
		r.wantList(map[string][]string{"cy": slices.Concat(a, b)})
	})
}

// A PF is changed while it is withdrawn. The events of the change may still be queued.
func TestPFIsReadBeforeItsVFsAreOfferedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 2))
		bindAll(t, h, pfA, device.DriverVFIO)
		r := newRig(t, h, Config{NoBind: true})
		r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
		r.rescan()
		must(t, h.SetAttr(pfA, "qat/cfg_services", "dc"))
		r.withdraw(pfA, "")
		r.wantList(map[string][]string{"dc": h.VFs(pfA)})
	})
}

// A VF that is bound but has no node yet is listed only when its PF is offered again.
func TestVFThatGetsItsNodeWhileWithdrawnIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost2PFs(t)
		node := vfioNode(t, h, vfA1)
		must(t, os.Rename(node, node+".aside"))
		r := newRig(t, h, Config{Limit: 4})
		r.rescan()
		r.withdraw(pfA, reconfiguration)
		must(t, os.Rename(node+".aside", node))
		r.event(inotify(node))
		r.pass(time.Hour)
		r.wantList(map[string][]string{"cy": {vfA2 + " unhealthy"}, "dc": {vfB1, vfB2}})
		r.withdraw(pfA, "")
		r.wantList(map[string][]string{"cy": {vfA1, vfA2}, "dc": {vfB1, vfB2}})
	})
}

// A withdrawal can last for as long as a workload runs. The VFs of other PFs must not take the
// places meanwhile.
func TestWithdrawnVFsKeepTheirPlaces(t *testing.T) {
	for name, downBefore := range map[string]bool{"healthy": false, "unhealthy before": true} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostOfTwoPFs(t, 2)
			a := h.VFs(pfA)
			r := newRig(t, h, Config{Limit: 2})
			k := newKernel(r)
			r.rescan()
			k.run()
			r.wantList(map[string][]string{"cy": a})
			if downBefore {
				must(t, h.SetAttr(pfA, "qat/state", "down"))
				r.read(pfA)
				k.pass(placeTime - 1)
			}
			r.withdraw(pfA, reconfiguration)
			k.pass(time.Hour)
			r.wantList(map[string][]string{"cy": {a[0] + " unhealthy", a[1] + " unhealthy"}})
			if touched := r.touched(pfB); len(touched) > 0 {
				t.Errorf("written to %q of the other PF", touched)
			}
			if next := r.nextWake(); !next.IsZero() {
				t.Errorf("the plugin wakes in %v, want never", time.Until(next))
			}
			r.withdraw(pfA, "")
			if downBefore { // from now on it counts as unhealthy
				k.pass(placeTime)
				r.wantList(map[string][]string{"cy": h.VFs(pfB)})
				return
			}
			k.pass(time.Hour)
			r.wantList(map[string][]string{"cy": a})
		})
	}
}

// The plugin restarts while a change of a PF waits for the containers that have its VFs.
func TestVFsInUseAreListedWhileWithdrawn(t *testing.T) {
	for name, tt := range map[string]struct {
		inUse bool
		pf    string // whose VFs are listed
	}{"in use": {true, pfA}, "free": {false, pfB}} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostOfTwoPFs(t, 2)
			bindAll(t, h, pfA, device.DriverVFIO)
			bindAll(t, h, pfB, device.DriverVFIO)
			cfg := Config{Limit: 2}
			for _, vf := range h.VFs(pfA) {
				if a, _ := pci.Parse(vf); tt.inUse {
					cfg.InUse = append(cfg.InUse, a)
				}
			}
			r := newRig(t, h, cfg)
			r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
			r.rescan()
			want := h.VFs(tt.pf)
			if tt.inUse {
				want = []string{want[0] + " unhealthy", want[1] + " unhealthy"}
			}
			r.wantList(map[string][]string{"cy": want})
			if why := r.reason(h.VFs(pfA)[0]); why != reconfiguration {
				t.Errorf("not healthy because %q, want %q", why, reconfiguration)
			}
			r.pass(time.Hour)
			r.wantList(map[string][]string{"cy": want})
		})
	}
}

func TestBlockedReadsDoNotDelayAWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true})
		r.rescan()
		defer r.holdReads(pfA, vfA1, vfA2)()
		r.read(vfA1)
		r.withdraw(pfA, reconfiguration)
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy", vfA2 + " unhealthy"}, "dc": {vfB1, vfB2}})
	})
}

// Binding a VF takes the other VFs of its IOMMU group from their drivers. It must not take those of
// a withdrawn PF.
func TestVFIsNotBoundWhileItsIOMMUGroupHasAWithdrawnVF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 1)
		must(t, h.LoadDriver("4xxxvf"))
		a, b := h.VFs(pfA)[0], h.VFs(pfB)[0]
		must(t, h.ShareGroup(b, a))
		bindAll(t, h, pfA, "4xxxvf")
		r := newRig(t, h, Config{})
		k := newKernel(r)
		r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
		r.rescan()
		k.pass(time.Hour)
		if w := r.writes(); len(w) > 0 {
			t.Errorf("written: %q, want nothing", w)
		}
		if why := r.reason(b); !strings.Contains(why, a+" in it is bound to 4xxxvf") {
			t.Errorf("skipped because %q, want that %s has a driver", why, a)
		}
		r.withdraw(pfA, "")
		k.run()
		r.wantList(map[string][]string{"cy": {a}})
	})
}

// An allocation at the time of a withdrawal either comes before it, and is visible after it, or
// fails.
func TestEachAllocationComesBeforeOrAfterAWithdrawal(t *testing.T) {
	h := newHost2PFs(t)
	cfg := withDefaults(h, Config{NoBind: true}, nil)
	c := New(t.Context(), cfg, hostwatch.Host[Key]{
		Mark:    func(Key, time.Time) {},
		Watches: hostwatch.NewWatches(nil),
	})
	defer c.Close()
	tree := c.Reconcile(time.Now(), &hostwatch.Batch[Key]{All: true}).Tree
	devices := []*devtree.Device{tree.Resource("dc").Device(vfB1), tree.Resource("cy").Device(vfA1)}
	vf, _ := pci.Parse(vfA1)
	pf, _ := pci.Parse(pfA)
	vfs := []pci.Address{vf}

	stop := make(chan struct{})
	var allocating sync.WaitGroup
	defer allocating.Wait()
	defer close(stop)
	for range 2 {
		allocating.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = cfg.Allocator.allocate(vfs) // the end of PostAllocate, without the slow reads
				}
			}
		})
	}
	for range 100 {
		cfg.Allocator.Withdraw(pf, reconfiguration)
		before := cfg.Allocator.LastAllocated(vf)
		if err := cfg.Allocator.PostAllocate(devices, &devtree.ContainerEdits{}); !errors.Is(err, devtree.ErrUnfit) {
			t.Fatalf("allocating a VF that is withdrawn: %v", err)
		}
		if after := cfg.Allocator.LastAllocated(vf); !after.Equal(before) {
			t.Fatalf("the VF was allocated %v after the withdrawal", after.Sub(before))
		}
		cfg.Allocator.Withdraw(pf, "")
		for cfg.Allocator.LastAllocated(vf).Equal(before) { // until the calls succeed again
			runtime.Gosched()
		}
	}
}

// Whatever happens on the host, in whatever order the plugin learns of it: no VF of a withdrawn PF
// is allocated, and no such VF is offered as healthy once the plugin has followed.
func TestNoHistoryAllocatesAWithdrawnVF(t *testing.T) {
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := newHistory(t, filepath.Join(dir, fmt.Sprint(n)))
		allocator := w.controller.allocator
		withdrawn := map[string]bool{}
		var marked []Key
		offered := &devtree.Tree{} // the list that the kubelet may still have
		actions := w.actions()
		actions["withdraw"] = func(t *rapid.T) {
			pf := rapid.SampledFrom(historyPFs).Draw(t, "pf").Address
			a, _ := pci.Parse(pf)
			withdrawn[pf] = rapid.Bool().Draw(t, "withdrawn")
			reason := ""
			if withdrawn[pf] {
				reason = reconfiguration
			}
			allocator.Withdraw(a, reason)
			marked = append(marked, Key{kind: keyWithdrawal, address: a})
		}
		actions["follow"] = func(*rapid.T) {
			w.reconcile(&hostwatch.Batch[Key]{Keys: marked})
			marked = nil
			w.checkWithdrawn(withdrawn)
		}
		actions["remember the lists"] = func(*rapid.T) { offered = w.controller.assignment.tree }
		actions["allocate"] = func(t *rapid.T) {
			for r := range offered.Resources() {
				for d := range r.Devices() {
					err := allocator.PostAllocate([]*devtree.Device{d}, &devtree.ContainerEdits{})
					if pf := pfOfVF(d.ID); err == nil && withdrawn[pf] {
						t.Fatalf("allocated %s of the withdrawn PF %s", d.ID, pf)
					}
				}
			}
		}
		t.Repeat(actions)
		w.resync()
		w.checkWithdrawn(withdrawn)
		marked = nil
		for pf := range withdrawn {
			a, _ := pci.Parse(pf)
			allocator.Withdraw(a, "")
			marked = append(marked, Key{kind: keyWithdrawal, address: a})
		}
		w.reconcile(&hostwatch.Batch[Key]{Keys: marked})
		fresh := newReader(t, w.host, w.attributes).Reconcile(time.Now(), &hostwatch.Batch[Key]{All: true})
		if diff := cmp.Diff(devicesOf(fresh.Tree), devicesOf(w.controller.assignment.tree)); diff != "" {
			t.Fatalf("the Tree after all PFs are offered again (-full read +got):\n%s", diff)
		}
	})
}

// pfOfVF returns the address of the PF to which a VF of historyPFs belongs.
func pfOfVF(vf string) string {
	for _, pf := range historyPFs {
		if vf[:len("0000:6b")] == pf.Address[:len("0000:6b")] {
			return pf.Address
		}
	}
	return ""
}

// checkWithdrawn fails if a VF of a withdrawn PF is listed as healthy.
func (w *history) checkWithdrawn(withdrawn map[string]bool) {
	for _, devices := range devicesOf(w.controller.assignment.tree) {
		for _, d := range devices {
			if withdrawn[pfOfVF(d.ID)] && d.Health == devtree.Healthy {
				w.t.Fatalf("%s of a withdrawn PF is healthy", d.ID)
			}
		}
	}
}

// At the add event of a VF, physfn may be missing still, so the VF may be one of a withdrawn PF.
func TestVFWithoutPFIsNotBoundWhileAPFIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const vf = "0000:99:00.1"
		h := newHost2PFs(t)
		r := newRig(t, h, Config{})
		r.rescan()
		r.withdraw(pfA, reconfiguration)
		must(t, h.AddVF(lookalike.VF{Address: vf}))
		r.read(vf)
		if writes := r.writesByVF([]string{vf})[vf]; len(writes) > 0 {
			t.Errorf("writes to a VF without a PF: %q", writes)
		}
		r.wantSkipped(vf)
		r.withdraw(pfA, "")
		if writes := r.writesByVF([]string{vf})[vf]; len(writes) == 0 {
			t.Error("the VF is not bound when the PF is offered again")
		}
	})
}

// Provisioning unbinds the VFs of a PF that it has withdrawn. If it then cannot remove them, they
// are bound again at once: no other program took them from the plugin.
func TestVFsThatWereUnboundWhileWithdrawnAreBoundAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost2PFs(t)
		must(t, h.Unbind(vfA1))
		r := newRig(t, h, Config{})
		k := newKernel(r)
		r.rescan()
		k.pass(time.Second)
		want := map[string][]string{"cy": {vfA1, vfA2}, "dc": {vfB1, vfB2}}
		r.wantList(want)
		r.withdraw(pfA, reconfiguration)
		must(t, h.Unbind(vfA1))
		r.read(vfA1)
		r.withdraw(pfA, "")
		k.pass(100 * time.Millisecond)
		r.wantList(want)
	})
}

// causes returns the unhealthy devices of the Tree with their causes.
func (r *rig) causes() map[string]string {
	m := map[string]string{}
	for resource := range r.tree.Resources() {
		for d := range resource.Devices() {
			if d.Health == devtree.Unhealthy {
				m[d.ID] = d.Cause
			}
		}
	}
	return m
}

func (r *rig) wantCauses(want map[string]string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.causes()); diff != "" {
		r.t.Errorf("causes of unhealthy devices (-want +got):\n%s", diff)
	}
}

// A DRA driver marks the devices that wait for provisioning, and must therefore know them, also
// after a restart. The device plugin hides them then; see TestWithdrawalBeforeTheFirstRead.
func TestVFsOfAWithdrawnPFAreListedWithAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost2PFs(t)
		r := newRig(t, h, Config{NoBind: true, Attributes: true})
		r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
		r.rescan()
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy", vfA2 + " unhealthy"}, "dc": {vfB1, vfB2}})
		r.wantCauses(map[string]string{vfA1: status.ClassWithdrawn, vfA2: status.ClassWithdrawn})
		if err := r.allocate(vfA1); !errors.Is(err, devtree.ErrUnfit) {
			t.Errorf("allocating a VF that is withdrawn: %v", err)
		}
		must(t, h.Unbind(vfA2)) // it cannot be used before it is bound again
		r.read(vfA2)
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}, "dc": {vfB1, vfB2}})
		r.wantSkipped(vfA2)
		r.withdraw(pfA, "")
		r.wantList(map[string][]string{"cy": {vfA1}, "dc": {vfB1, vfB2}})
		r.wantCauses(map[string]string{})
	})
}

// Under a device limit, VFs that cannot be allocated only get the places that no other VF wants.
func TestWithdrawnVFsTakeNoPlacesWithAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true, Attributes: true, Limit: 3})
		r.config.Allocator.Withdraw(r.address(pfA), reconfiguration)
		r.rescan()
		r.wantList(map[string][]string{"cy": {vfA1 + " unhealthy"}, "dc": {vfB1, vfB2}})
	})
}

// A VF that a workload holds although it has lost its driver is listed until the kernel releases
// it, also by a plugin that starts meanwhile.
func TestHeldVFIsListedWithAttributes(t *testing.T) {
	for name, attributes := range map[string]bool{"with": true, "without": false} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost2PFs(t)
			release := h.Hold(vfA1)
			t.Cleanup(release)
			done := make(chan error, 1)
			go func() { done <- h.Unbind(vfA1) }()
			synctest.Wait()
			r := newRig(t, h, Config{Attributes: attributes})
			r.rescan()
			want := map[string][]string{"cy": {vfA2}, "dc": {vfB1, vfB2}}
			causes := map[string]string{}
			if attributes {
				want["cy"] = []string{vfA1 + " unhealthy", vfA2}
				causes[vfA1] = status.ClassReleasing
			}
			r.wantList(want)
			r.wantCauses(causes)
			r.pass(time.Minute)
			r.wantList(want)
			if w := r.writes(); len(w) > 0 {
				t.Errorf("written %q while a workload holds the VF", w)
			}
			release()
			must(t, <-done)
			r.read(vfA1)
			if slices.Contains(r.list()["cy"], vfA1+" unhealthy") {
				t.Error("the VF is listed after the kernel has released it")
			}
		})
	}
}

func TestBindEndsWhenAWorkloadHoldsTheVFWithAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		r := newRig(t, h, Config{Attributes: true})
		r.rescan()
		if r.probes(vfA1) == 0 {
			t.Fatal("the plugin does not bind the VF")
		}
		must(t, h.Bind(vfA1, device.DriverVFIO))
		release := h.Hold(vfA1)
		t.Cleanup(release)
		done := make(chan error, 1)
		go func() { done <- h.Unbind(vfA1) }()
		synctest.Wait()
		r.read(vfA1)
		r.wantCauses(map[string]string{vfA1: status.ClassReleasing})
		before := r.writes()
		r.pass(time.Hour) // which fails if the plugin wants to go on at once, again and again
		if diff := cmp.Diff(before, r.writes()); diff != "" {
			t.Errorf("written while a workload holds the VF (-before +after):\n%s", diff)
		}
		release()
		must(t, <-done)
		probes := r.probes(vfA1)
		r.read(vfA1)
		if r.probes(vfA1) == probes {
			t.Error("the plugin does not bind the VF after the kernel has released it")
		}
	})
}
