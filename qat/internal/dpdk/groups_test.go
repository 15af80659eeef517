// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
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
	"qatplugin/qat/internal/device"
)

const nic = "0000:6b:1e.0" // a network card in the IOMMU group of a VF

// newHostWithGroups returns a host with a PF whose VFs share an IOMMU group in pairs.
func newHostWithGroups(t *testing.T, vfs int, opts ...lookalike.Option) (*lookalike.Host, []string) {
	t.Helper()
	h := newHost4xxx(t, opts...)
	must(t, h.SetVFs(pfA, vfs))
	all := h.VFs(pfA)
	for i := 0; i+1 < len(all); i += 2 {
		must(t, h.ShareGroup(all[i+1], all[i]))
	}
	return h, all
}

// addNIC adds a network card with its driver, in the IOMMU group of a VF.
func addNIC(t *testing.T, h *lookalike.Host, vf string) {
	t.Helper()
	must(t, h.AddPF(lookalike.PF{Address: nic, DeviceID: "1572", VFDeviceID: "154c", Driver: "i40e"}))
	must(t, h.ShareGroup(nic, vf))
}

// Two containers cannot open the same IOMMU group.
func TestOneVFOfAnIOMMUGroupIsListed(t *testing.T) {
	for name, tt := range map[string]struct {
		driver, vfioInterface string
		shared                bool
	}{
		"group":   {device.DriverVFIO, device.InterfaceGroup, true},
		"cdev":    {device.DriverVFIO, device.InterfaceCdev, true}, // the group has one owner, too
		"igb_uio": {device.DriverIGBUIO, device.InterfaceAuto, false},
	} {
		inBubble(t, name, func(t *testing.T) {
			h, vfs := newHostWithGroups(t, 4, lookalike.WithIOMMUFD())
			must(t, h.LoadDriver(tt.driver))
			bindAll(t, h, pfA, tt.driver)
			makeIOMMUNode(t, h)
			reader := device.NewReader(device.Config{
				Sysfs:     h.Sysfs(),
				Dev:       h.Dev(),
				Driver:    tt.driver,
				Interface: tt.vfioInterface,
			})
			r := newRig(t, h, Config{Driver: tt.driver, Reader: reader})
			r.rescan()
			if !tt.shared {
				r.wantList(map[string][]string{"cy": vfs})
				return
			}
			r.wantList(map[string][]string{"cy": {vfs[0], vfs[2]}})
			r.wantSkipped(vfs[1], vfs[3])
			group := filepath.Base(vfioNode(t, h, vfs[3]))
			want := fmt.Sprintf("it shares IOMMU group %s with %s, which is listed", group, vfs[2])
			if why := r.reason(vfs[3]); why != want {
				t.Errorf("skipped because %q, want %q", why, want)
			}
		})
	}
}

func TestListedVFOfAnIOMMUGroupStaysListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA2)
		r := newRig(t, h, Config{})
		r.rescan()
		r.wantList(map[string][]string{"cy": {vfA2}})
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA, GroupOf: vfA2}))
		must(t, h.Bind(vfA1, device.DriverVFIO))
		r.read(vfA1, pfA) // a lower address, but later
		r.wantList(map[string][]string{"cy": {vfA2}})
		r.wantSkipped(vfA1)
		r.rescan()
		r.wantList(map[string][]string{"cy": {vfA2}})
		must(t, h.SetAttr(pfA, "qat/cfg_services", "dc"))
		r.read(pfA)
		r.wantList(map[string][]string{"cy": {}, "dc": {vfA2}})

		must(t, h.RemoveVF(vfA2)) // the other takes over
		r.read(vfA2, pfA)
		r.wantList(map[string][]string{"cy": {}, "dc": {vfA1}})
		r.wantSkipped()
		r.audit()
		r.pass(time.Minute)
		if n := r.controller.drift.Total(); n > 0 {
			t.Errorf("%d times drift, want none", n)
		}
	})
}

// VFIO can use a group only when no function of it has a driver for the host.
func TestAllVFsOfAnIOMMUGroupAreTakenFromTheirDriver(t *testing.T) {
	for _, limit := range []int{0, 1} {
		inBubble(t, fmt.Sprint("limit ", limit), func(t *testing.T) {
			h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
			must(t, h.ShareGroup(vfGen2B, vfGen2A))
			const other = "0000:3d:01.2"
			must(t, h.AddVF(lookalike.VF{Address: other, PF: pfGen2}))
			r := newRig(t, h, Config{Limit: limit})
			k := newKernel(r)
			k.refuse[vfGen2B] = true // for now
			r.rescan()
			k.run()
			if why := r.reason(vfGen2A); !strings.Contains(why, vfGen2B) || !strings.Contains(why, "c6xxvf") {
				t.Errorf("skipped because %q, want that %s has c6xxvf", why, vfGen2B)
			}
			k.refuse[vfGen2B] = false
			k.pass(time.Second / 2)
			want := []string{vfGen2A, other}
			if limit > 0 {
				want = want[:1]
			}
			r.wantList(map[string][]string{"generic": want})
			if d, want := h.Bound("c6xxvf"), []string{other}[:limit]; !slices.Equal(d, want) {
				t.Errorf("%q have their kernel driver, want %q", d, want)
			}
		})
	}
}

// A function with a driver for the host makes its group unusable. The plugin then takes no VF of
// the group from its driver.
func TestIOMMUGroupWithADriverOfTheHostIsLeftAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		share func(t *testing.T, h *lookalike.Host)
		want  string // part of the reason
		free  func(t *testing.T, h *lookalike.Host) *events.Event
	}{
		"its PF": {
			share: func(t *testing.T, h *lookalike.Host) { must(t, h.ShareGroup(pfGen2, vfGen2A)) },
			want:  pfGen2 + " in it is bound to c6xx",
		},
		"a network card": {
			share: func(t *testing.T, h *lookalike.Host) { addNIC(t, h, vfGen2A) },
			want:  nic + " in it is bound to i40e",
			free: func(t *testing.T, h *lookalike.Host) *events.Event {
				must(t, h.Unbind(nic))
				return uevent(t, "unbind@/devices/pci0000:6b/"+nic, "SUBSYSTEM=pci", "PCI_ID=8086:1572")
			},
		},
		"a reserved VF": {
			share: func(t *testing.T, h *lookalike.Host) {
				must(t, h.ShareGroup(vfGen2B, vfGen2A))
				must(t, h.SetAttr(vfGen2B, "driver_override", "c6xxvf"))
			},
			want: vfGen2B,
			free: func(t *testing.T, h *lookalike.Host) *events.Event {
				must(t, h.Unbind(vfGen2B))
				return uevent(t, "unbind@/devices/pci0000:3d/"+vfGen2B, "SUBSYSTEM=pci", "PCI_ID=8086:37C9")
			},
		},
	} {
		for _, bound := range []bool{false, true} {
			inBubble(t, fmt.Sprint(name, ", bound ", bound), func(t *testing.T) {
				h := newHostGen2(t, device.DriverVFIO, []string{"disable_denylist=1"})
				if bound {
					must(t, h.Unbind(vfGen2A))
				}
				tt.share(t, h)
				if bound {
					must(t, h.Bind(vfGen2A, device.DriverVFIO))
				}
				r := newRig(t, h, Config{})
				k := newKernel(r)
				r.rescan()
				k.pass(time.Minute)
				if why := r.reason(vfGen2A); r.resource(vfGen2A) != "" || !strings.Contains(why, tt.want) {
					t.Errorf("in %q, skipped because %q, want a reason with %q", r.resource(vfGen2A), why, tt.want)
				}
				if w := r.writesByVF([]string{vfGen2A}); len(w) > 0 {
					t.Errorf("written: %q, want nothing", w)
				}
				if tt.free == nil {
					return
				}
				r.event(tt.free(t, h))
				k.run()
				if r.resource(vfGen2A) == "" {
					t.Errorf("not listed when the driver is gone: %q", r.reason(vfGen2A))
				}
			})
		}
	}
}

// A function without a driver, or with one that leaves the group to user space, does not matter.
func TestIOMMUGroupWithHarmlessFunctionsIsUsable(t *testing.T) {
	for _, driver := range []string{"", "pcieport", "pci-stub", "mlx5_vfio_pci"} {
		inBubble(t, "driver "+driver, func(t *testing.T) {
			h := newHost4xxx(t)
			must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
			addNIC(t, h, vfA1)
			must(t, h.Unbind(nic))
			if driver != "" {
				must(t, h.LoadDriver(driver))
				must(t, h.Bind(nic, driver))
			}
			must(t, h.Bind(vfA1, device.DriverVFIO))
			r := newRig(t, h, Config{})
			r.rescan()
			r.wantList(map[string][]string{"cy": {vfA1}})
		})
	}
}

// A network card that is added later makes the IOMMU group unusable while it has a driver.
func TestFunctionThatJoinsAnIOMMUGroupIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{})
		r.rescan()
		addNIC(t, h, vfA1)
		r.audit()
		r.wantList(map[string][]string{"cy": {}})
		must(t, h.Unbind(nic))
		r.event(uevent(t, "unbind@/devices/pci0000:6b/"+nic, "SUBSYSTEM=pci"))
		r.wantList(map[string][]string{"cy": {vfA1}})
		must(t, h.Bind(nic, "i40e"))
		r.event(uevent(t, "bind@/devices/pci0000:6b/"+nic, "SUBSYSTEM=pci", "PCI_ID=8086:1572"))
		r.wantList(map[string][]string{"cy": {}})
		must(t, h.RemovePF(nic))
		r.event(uevent(t, "remove@/devices/pci0000:6b/"+nic, "SUBSYSTEM=pci", "PCI_ID=8086:1572"))
		r.wantList(map[string][]string{"cy": {vfA1}})
	})
}

// A failed read does not mean that the driver is gone.
func TestUnreadableDriverStillBlocksTheIOMMUGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		addNIC(t, h, vfA1)
		must(t, h.Bind(vfA1, device.DriverVFIO))
		r := newRig(t, h, Config{})
		r.rescan()
		r.wantSkipped(vfA1)
		link := filepath.Join(h.Path(nic), "driver")
		must(t, os.Remove(link))
		must(t, os.WriteFile(link, nil, 0o600)) // reading the link fails with EINVAL
		r.read(vfA1)
		r.wantSkipped(vfA1)
		must(t, os.Remove(link))
		r.read(vfA1)
		r.wantList(map[string][]string{"cy": {vfA1}})
	})
}

func TestIOMMUGroupTakesOnePlaceUnderALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, vfs := newHostWithGroups(t, 8)
		r := newRig(t, h, Config{Limit: 3})
		k := newKernel(r)
		r.rescan()
		k.pass(time.Minute)
		r.wantList(map[string][]string{"cy": {vfs[0], vfs[2], vfs[4]}})
		if diff := cmp.Diff(vfs[:6], r.touched(pfA)); diff != "" {
			t.Errorf("VFs that were written to (-want +got):\n%s", diff)
		}
	})
}

// A group that cannot be read is read again. Until then its VFs are not listed, because two of them
// could be.
func TestUnreadableIOMMUGroupIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		must(t, h.AddVF(lookalike.VF{Address: vfA2, PF: pfA, GroupOf: vfA1}))
		must(t, h.Bind(vfA2, device.DriverVFIO))
		devices := filepath.Join(h.Sysfs(), "kernel/iommu_groups", filepath.Base(vfioNode(t, h, vfA1)), "devices")
		must(t, os.Rename(devices, devices+".old"))
		must(t, os.Symlink(filepath.Base(devices), devices)) // ELOOP
		r := newRig(t, h, Config{})
		r.rescan()
		r.wantSkipped(vfA1, vfA2)
		must(t, os.Remove(devices))
		must(t, os.Rename(devices+".old", devices))
		r.pass(time.Minute)
		r.wantList(map[string][]string{"cy": {vfA1}})
		if next := r.nextWake(); !next.IsZero() {
			t.Errorf("the plugin wakes in %v, want never", time.Until(next))
		}
	})
}

// A VF that is not bound for a moment, because its group cannot be read, is given back as it was
// if it cannot be bound later.
func TestUnreadableIOMMUGroupDoesNotLeaveAVFWithoutItsDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.LoadDriver("4xxxvf"))
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		devices := filepath.Join(h.Sysfs(), "kernel/iommu_groups", filepath.Base(vfioNode(t, h, vfA1)), "devices")
		r := newRig(t, h, Config{})
		r.rescan()
		must(t, h.Unbind(vfA1)) // vfio-pci does not bind to it
		must(t, os.Rename(devices, devices+".old"))
		must(t, os.Symlink(filepath.Base(devices), devices)) // ELOOP
		r.rescan()
		must(t, os.Remove(devices))
		must(t, os.Rename(devices+".old", devices))
		r.pass(10 * time.Second)
		writes := r.writes()
		for _, want := range []string{vfA1 + " > bus/pci/drivers/4xxxvf/bind", " > " + overrideFile(vfA1)} {
			if !slices.Contains(writes, want) {
				t.Errorf("written: %q, want %q among it", writes, want)
			}
		}
	})
}
