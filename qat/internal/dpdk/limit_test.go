// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// A kernel binds the VFs of a rig's host that the plugin asks it to bind.
type kernel struct {
	rig    *rig
	probes map[string]int
	refuse map[string]bool // VFs that vfio-pci does not bind to
}

func newKernel(r *rig) *kernel {
	return &kernel{rig: r, probes: map[string]int{}, refuse: map[string]bool{}}
}

// run binds the VFs that the plugin has asked for, until it asks for no more.
func (k *kernel) run() {
	r := k.rig
	r.t.Helper()
	for again := true; again; {
		again = false
		for _, pf := range []string{pfGen2, pfA, pfB} {
			for _, vf := range r.host.VFs(pf) {
				n := r.probes(vf)
				if n == k.probes[vf] || k.refuse[vf] {
					continue
				}
				k.probes[vf] = n
				_ = r.host.Unbind(vf) // it may have no driver
				must(r.t, r.host.Bind(vf, device.DriverVFIO))
				r.read(vf)
				again = true
			}
		}
	}
}

// pass advances the clock by d. Meanwhile the kernel binds the VFs that the plugin asks for.
func (k *kernel) pass(d time.Duration) {
	r := k.rig
	r.t.Helper()
	for end := time.Now().Add(d); ; {
		k.run()
		next := r.nextWake()
		if next.IsZero() || next.After(end) {
			r.pass(time.Until(end))
			k.run()
			return
		}
		r.wake()
	}
}

// touched returns the VFs of a PF for which the plugin wrote to sysfs, in ascending order.
func (r *rig) touched(pf string) []string {
	var list []string
	vfs := r.host.VFs(pf)
	for vf := range r.writesByVF(vfs) {
		list = append(list, vf)
	}
	slices.Sort(list)
	return list
}

func TestVFsBeyondTheLimitAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		must(t, h.LoadDriver(device.DriverVFIO, "disable_denylist=1"))
		must(t, h.LoadDriver("c6xxvf"))
		must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8"}))
		must(t, h.SetVFs(pfGen2, 4))
		vfs := h.VFs(pfGen2)
		r := newRig(t, h, Config{Limit: 1})
		k := newKernel(r)
		r.rescan()
		k.pass(time.Hour)
		r.wantList(map[string][]string{"generic": vfs[:1]})
		if diff := cmp.Diff(vfs[1:], h.Bound("c6xxvf")); diff != "" {
			t.Errorf("VFs with their kernel driver (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(vfs[:1], r.touched(pfGen2)); diff != "" {
			t.Errorf("VFs that were written to (-want +got):\n%s", diff)
		}
		r.wantSkipped(vfs[1:]...)
		if why, want := r.reason(vfs[3]), "hidden by -max-num-devices=1"; why != want {
			t.Errorf("skipped because %q, want %q", why, want)
		}
		// A place that becomes free is filled.
		must(t, h.RemoveVF(vfs[0]))
		r.read(vfs[0])
		k.run()
		r.wantList(map[string][]string{"generic": vfs[1:2]})
		if diff := cmp.Diff(vfs[2:], h.Bound("c6xxvf")); diff != "" {
			t.Errorf("VFs with their kernel driver after one went (-want +got):\n%s", diff)
		}
	})
}

func TestVFThatFailsToBindIsReplacedUnderALimit(t *testing.T) {
	for name, stuck := range map[string]bool{"refused": false, "stuck": true} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			must(t, h.SetVFs(pfA, 4))
			vfs := h.VFs(pfA)
			r := newRig(t, h, Config{Limit: 2})
			k := newKernel(r)
			k.refuse[vfs[0]] = true
			if stuck {
				defer r.hold(overrideFile(vfs[0]))()
			}
			r.rescan()
			k.run()
			r.wantList(map[string][]string{"cy": vfs[1:2]})
			k.pass(time.Minute)
			r.wantList(map[string][]string{"cy": vfs[1:3]})
			k.pass(time.Hour)
			if diff := cmp.Diff(vfs[:3], r.touched(pfA)); diff != "" {
				t.Errorf("VFs that were written to (-want +got):\n%s", diff)
			}
			if why := r.reason(vfs[0]); !stuck && !strings.Contains(why, "max-num-devices") {
				t.Errorf("the first VF is skipped because %q, want the limit", why)
			}
		})
	}
}

// newHostOfTwoPFs returns a host with n VFs of each of two PFs, which are not bound.
func newHostOfTwoPFs(t *testing.T, n int) *lookalike.Host {
	t.Helper()
	h := newHost4xxx(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, n))
	must(t, h.SetVFs(pfB, n))
	return h
}

func TestUnhealthyVFsGiveTheirPlacesToHealthyOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 2)
		a, b := h.VFs(pfA), h.VFs(pfB)
		unhealthy := func(vfs []string) (list []string) {
			for _, vf := range vfs {
				list = append(list, vf+" unhealthy")
			}
			return list
		}
		r := newRig(t, h, Config{Limit: 2})
		k := newKernel(r)
		r.rescan()
		k.run()
		r.wantList(map[string][]string{"cy": a})

		setState := func(pf, state string) {
			must(t, h.SetAttr(pf, "qat/state", state))
			r.read(pf)
			k.run()
		}
		setState(pfA, "down")
		k.pass(placeTime - 1)
		r.wantList(map[string][]string{"cy": unhealthy(a)}) // the PF may recover soon
		setState(pfA, "up")
		k.pass(placeTime)
		r.wantList(map[string][]string{"cy": a}) // it did
		if touched := r.touched(pfB); len(touched) > 0 {
			t.Errorf("written to %q of the other PF", touched)
		}

		setState(pfA, "down")
		k.pass(placeTime)
		r.wantList(map[string][]string{"cy": b})
		r.wantSkipped(a...)
		setState(pfA, "up")
		k.pass(time.Hour)
		r.wantList(map[string][]string{"cy": b}) // listed VFs keep their places
		setState(pfB, "down")
		k.pass(placeTime)
		r.wantList(map[string][]string{"cy": a})
	})
}

func TestUnhealthyVFsKeepTheirPlacesWithoutHealthyOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 2)
		r := newRig(t, h, Config{Limit: 2})
		k := newKernel(r)
		r.rescan()
		k.run()
		for _, pf := range []string{pfA, pfB} {
			must(t, h.SetAttr(pf, "qat/state", "down"))
			r.read(pf)
		}
		before := r.list()
		k.pass(time.Hour)
		r.wantList(before)
		if touched := r.touched(pfB); len(touched) > 0 {
			t.Errorf("written to %q of the other PF, which is down as well", touched)
		}
		if next := r.nextWake(); !next.IsZero() {
			t.Errorf("the plugin wakes in %v, want never", time.Until(next))
		}
	})
}

func TestPlacesGoToHealthyVFsFirst(t *testing.T) {
	for name, bound := range map[string]bool{"bound before": true, "not bound": false} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostOfTwoPFs(t, 2)
			if bound {
				bindAll(t, h, pfA, device.DriverVFIO)
			}
			must(t, h.SetAttr(pfA, "qat/state", "down"))
			r := newRig(t, h, Config{Limit: 3})
			k := newKernel(r)
			r.rescan()
			k.run()
			want := append([]string{h.VFs(pfA)[0] + " unhealthy"}, h.VFs(pfB)...) // and the rest to others
			r.wantList(map[string][]string{"cy": want})
		})
	}
}

// After a restart nothing is listed. The VFs that were listed before are bound, and come first.
func TestBoundVFsComeFirstUnderALimit(t *testing.T) {
	for _, p := range []policy.Policy{policy.None, policy.Balanced} {
		inBubble(t, "policy "+string(p), func(t *testing.T) {
			h := newHostOfTwoPFs(t, 4)
			want := h.VFs(pfB)[2:]
			for _, vf := range want {
				must(t, h.Bind(vf, device.DriverVFIO))
			}
			r := newRig(t, h, Config{Limit: 2, Policy: p})
			r.rescan()
			r.wantList(map[string][]string{"cy": want})
			if w := r.writes(); len(w) > 0 {
				t.Errorf("written: %q, want nothing", w)
			}
		})
	}
}

// After a restart nothing is listed, and all these VFs are bound. Pods hold some of them.
func TestVFsInUseComeFirstUnderALimit(t *testing.T) {
	for name, tt := range map[string]struct {
		limit  int
		policy policy.Policy
		change func(t *testing.T, h *lookalike.Host)
		inUse  []int // indices: 0 to 3 are VFs of pfA, 4 to 7 are VFs of pfB
		want   []int // indices; negative: listed as unhealthy
	}{
		"as many as places": {limit: 2, inUse: []int{5, 6}, want: []int{5, 6}},
		"one":               {limit: 2, inUse: []int{6}, want: []int{0, 6}},
		"balanced":          {limit: 4, policy: policy.Balanced, inUse: []int{4, 5, 6}, want: []int{0, 4, 5, 6}},
		"more than places":  {limit: 2, inUse: []int{3, 5, 6}, want: []int{3, 5}},
		"no limit":          {limit: 0, inUse: []int{5}, want: []int{0, 1, 2, 3, 4, 5, 6, 7}},
		"unhealthy": {
			limit:  2,
			change: func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(pfB, "qat/state", "down")) },
			inUse:  []int{5},
			want:   []int{0, -5},
		},
		"not bound": {
			limit:  2,
			change: func(t *testing.T, h *lookalike.Host) { must(t, h.Unbind(h.VFs(pfB)[1])) },
			inUse:  []int{5},
			want:   []int{0, 1}, // no container can use it
		},
		"gone": {
			limit:  2,
			change: func(t *testing.T, h *lookalike.Host) { must(t, h.RemoveVF(h.VFs(pfB)[1])) },
			inUse:  []int{5, 6},
			want:   []int{0, 6},
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostOfTwoPFs(t, 4)
			bindAll(t, h, pfA, device.DriverVFIO)
			bindAll(t, h, pfB, device.DriverVFIO)
			vfs := slices.Concat(h.VFs(pfA), h.VFs(pfB))
			if tt.change != nil {
				tt.change(t, h)
			}
			var inUse []pci.Address
			for _, n := range tt.inUse {
				a, _ := pci.Parse(vfs[n])
				inUse = append(inUse, a)
			}
			var want []string
			for _, n := range tt.want {
				if n < 0 {
					want = append(want, vfs[-n]+" unhealthy")
				} else {
					want = append(want, vfs[n])
				}
			}
			r := newRig(t, h, Config{Limit: tt.limit, Policy: tt.policy, InUse: inUse})
			k := newKernel(r)
			r.rescan()
			k.run()
			r.wantList(map[string][]string{"cy": want})
			r.rescan()
			k.pass(placeTime - 1)
			r.wantList(map[string][]string{"cy": want})
		})
	}
}

// What was known at the start counts once. A VF that loses its place later has no advantage.
func TestVFInUseThatLosesItsPlaceWaitsLikeOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 2)
		bindAll(t, h, pfA, device.DriverVFIO)
		bindAll(t, h, pfB, device.DriverVFIO)
		a, b := h.VFs(pfA), h.VFs(pfB)
		inUse, _ := pci.Parse(b[0])
		r := newRig(t, h, Config{Limit: 1, InUse: []pci.Address{inUse}})
		r.rescan()
		r.wantList(map[string][]string{"cy": {b[0]}})
		must(t, h.SetAttr(pfB, "qat/state", "down"))
		r.read(pfB)
		r.pass(placeTime)
		r.wantList(map[string][]string{"cy": {a[0]}})
		must(t, h.SetAttr(pfB, "qat/state", "up"))
		must(t, h.RemoveVF(a[0]))
		r.read(pfB, a[0])
		r.wantList(map[string][]string{"cy": {a[1]}})
	})
}

// Containers cannot share an IOMMU group, so the VF in use must be the one that is listed.
func TestVFInUseOfAnIOMMUGroupIsListed(t *testing.T) {
	for _, limit := range []int{0, 2} {
		inBubble(t, fmt.Sprint("limit ", limit), func(t *testing.T) {
			h, vfs := newHostWithGroups(t, 4)
			bindAll(t, h, pfA, device.DriverVFIO)
			inUse, _ := pci.Parse(vfs[1])
			r := newRig(t, h, Config{Limit: limit, InUse: []pci.Address{inUse}})
			r.rescan()
			r.wantList(map[string][]string{"cy": {vfs[1], vfs[2]}})
		})
	}
}

func TestDryRunKeepsToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 4)
		writer := &dryWriter{}
		r := newRig(t, h, Config{Limit: 3, Writer: writer})
		r.rescan()
		r.pass(time.Hour)
		r.rescan()
		if len(writer.written) != 3*2 { // driver_override and drivers_probe of each
			t.Errorf("would write %q, want two writes for each of 3 VFs", writer.written)
		}
	})
}

// VFs that wait for a worker of a stuck PF do not keep the places of others.
func TestStuckPFDoesNotKeepPlacesUnderALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostOfTwoPFs(t, 16)
		a, b := h.VFs(pfA), h.VFs(pfB)
		r := newRig(t, h, Config{Limit: 8})
		k := newKernel(r)
		never := make(chan struct{})
		defer func() { close(never); r.settle() }()
		for _, vf := range a {
			r.holdUntil(overrideFile(vf), never)
		}
		r.rescan()
		k.pass(time.Hour)
		r.wantList(map[string][]string{"cy": b[:8]})
	})
}
