// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
)

const (
	pfGen2  = "0000:3d:00.0"
	vfGen2A = "0000:3d:01.0"
	vfGen2B = "0000:3d:01.1"
)

const noIOMMUMode = "module/vfio/parameters/enable_unsafe_noiommu_mode"

// newHostGen2 returns a host with two C62x VFs, which their kernel driver has, and with a DPDK
// driver loaded with these parameters.
func newHostGen2(t *testing.T, driver string, parameters []string, opts ...lookalike.Option) *lookalike.Host {
	t.Helper()
	h := newHost(t, opts...)
	must(t, h.LoadDriver(driver, parameters...))
	must(t, h.LoadDriver("c6xxvf"))
	must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8"}))
	must(t, h.SetVFs(pfGen2, 2))
	return h
}

// What can be known before the first write decides whether a VF is taken from its driver.
func TestVFIsNotTakenFromItsDriverInVain(t *testing.T) {
	const deny, group = "disable_denylist=1", "no IOMMU group"
	for name, tt := range map[string]struct {
		driver     string
		parameters []string
		noIOMMU    bool
		noiommu    string // of the module vfio
		want       string // part of the reason; "": the VF is taken
	}{
		"on the denylist":          {driver: device.DriverVFIO, want: deny},
		"denylist disabled":        {driver: device.DriverVFIO, parameters: []string{"disable_denylist=1"}},
		"igb_uio has no denylist":  {driver: device.DriverIGBUIO},
		"igb_uio needs no IOMMU":   {driver: device.DriverIGBUIO, noIOMMU: true},
		"no IOMMU group":           {device.DriverVFIO, []string{"disable_denylist=1"}, true, "N", group},
		"no IOMMU group, noiommu":  {device.DriverVFIO, []string{"disable_denylist=1"}, true, "Y", ""},
		"neither group nor pardon": {device.DriverVFIO, nil, true, "N", group},
	} {
		inBubble(t, name, func(t *testing.T) {
			var opts []lookalike.Option
			if tt.noIOMMU {
				opts = append(opts, lookalike.WithoutIOMMU())
			}
			h := newHostGen2(t, tt.driver, tt.parameters, opts...)
			if tt.noiommu != "" {
				must(t, h.SetParameter("vfio", "enable_unsafe_noiommu_mode", tt.noiommu))
			}
			r := newRig(t, h, Config{Driver: tt.driver})
			r.rescan()
			r.pass(time.Minute)
			writes := r.writes()
			if tt.want == "" && len(writes) == 0 {
				t.Errorf("nothing is written (%q), want the VFs taken", r.reason(vfGen2A))
			}
			if tt.want == "" {
				return
			}
			if why := r.reason(vfGen2A); !strings.Contains(why, tt.want) {
				t.Errorf("skipped because %q, want a reason with %q", why, tt.want)
			}
			if len(writes) > 0 {
				t.Errorf("%d writes in vain, want none: %q", len(writes), writes[:min(len(writes), 9)])
			}
		})
	}
}

// unbinds counts how often the VF was taken from its kernel driver.
func (r *rig) unbinds(driver, vf string) (n int) {
	for _, w := range r.writes() {
		if w == vf+" > bus/pci/drivers/"+driver+"/unbind" {
			n++
		}
	}
	return n
}

func TestVFThatHadADriverIsTriedAgainOnlyAfterARelevantChange(t *testing.T) {
	recreate := func(t *testing.T, h *lookalike.Host) *events.Event {
		keepInode(t, h.Path(vfGen2A))
		must(t, h.RemoveVF(vfGen2A))
		must(t, h.AddVF(lookalike.VF{Address: vfGen2A, PF: pfGen2}))
		return uevent(t, "add@/devices/pci0000:3d/"+vfGen2A, "SUBSYSTEM=pci")
	}
	for name, tt := range map[string]struct {
		event func(t *testing.T, h *lookalike.Host) *events.Event
		want  int // tries
	}{
		"nothing": {nil, 1},
		"its own driver's event": {func(t *testing.T, _ *lookalike.Host) *events.Event {
			return uevent(t, "bind@/devices/pci0000:3d/"+vfGen2A, "SUBSYSTEM=pci", "DRIVER=c6xxvf")
		}, 1},
		"the DPDK driver": {func(t *testing.T, _ *lookalike.Host) *events.Event {
			return uevent(t, "add@/bus/pci/drivers/vfio-pci", "SUBSYSTEM=drivers")
		}, 2},
		"its module": {func(t *testing.T, _ *lookalike.Host) *events.Event {
			return uevent(t, "add@/module/vfio_pci", "SUBSYSTEM=module")
		}, 2},
		"another module": {func(t *testing.T, _ *lookalike.Host) *events.Event {
			return uevent(t, "add@/module/ixgbe", "SUBSYSTEM=module")
		}, 1},
		"a parameter of vfio": {func(_ *testing.T, h *lookalike.Host) *events.Event {
			return inotify(filepath.Join(h.Sysfs(), noIOMMUMode))
		}, 2},
		"the VF recreated": {recreate, 2},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
			r := newRig(t, h, Config{}) // its kernel never binds a VF
			r.rescan()
			r.pass(time.Hour)
			if tt.event != nil {
				r.event(tt.event(t, h))
				r.pass(time.Hour)
			}
			if n := r.unbinds("c6xxvf", vfGen2A); n != tt.want {
				t.Errorf("the VF was taken from c6xxvf %d times, want %d", n, tt.want)
			}
			if why := r.reason(vfGen2A); !strings.Contains(why, "given back to c6xxvf") {
				t.Errorf("skipped because %q, want that it was given back", why)
			}
		})
	}
}

// A VF without a driver loses nothing by another try.
func TestVFWithoutADriverIsTriedAgainWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHostWithVF(t), Config{})
		r.rescan()
		r.pass(time.Hour)
		if n := r.probes(vfA1); n < 4*10 {
			t.Errorf("the kernel was asked %d times in an hour, want 4 times in each of more than 10 tries", n)
		}
	})
}

// A parameter that permits the VFs after all is noticed when it is written.
func TestNoIOMMUModeIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"}, lookalike.WithoutIOMMU())
		must(t, h.SetParameter("vfio", "enable_unsafe_noiommu_mode", "N"))
		r := newRig(t, h, Config{})
		r.rescan()
		if w := r.writes(); len(w) > 0 {
			t.Fatalf("written: %q", w)
		}
		dir := filepath.Dir(filepath.Join(h.Sysfs(), noIOMMUMode))
		if _, watched := r.watches[dir]; !watched {
			t.Errorf("%s is not watched", dir)
		}
		must(t, h.SetParameter("vfio", "enable_unsafe_noiommu_mode", "Y"))
		r.event(inotify(filepath.Join(h.Sysfs(), noIOMMUMode)))
		if n := r.unbinds("c6xxvf", vfGen2A); n != 1 {
			t.Errorf("taken %d times after the parameter changed, want once (%q)", n, r.reason(vfGen2A))
		}
	})
}

// The directory of a module that was loaded again is another one, whose watch is new.
func TestParametersOfAReloadedModuleAreWatchedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		r := newRig(t, h, Config{})
		r.rescan()
		dir := filepath.Dir(filepath.Join(h.Sysfs(), noIOMMUMode))
		keepInode(t, dir)
		replaceDir(t, dir)
		r.event(uevent(t, "add@/module/vfio", "SUBSYSTEM=module"))
		if renewed := r.watches[dir]; renewed != 1 {
			t.Errorf("the watch of %s was renewed %d times, want once", dir, renewed)
		}
	})
}
