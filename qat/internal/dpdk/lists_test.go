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

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// lists returns a Tree as resource → IDs; an unhealthy device with its reason.
func lists(t *devtree.Tree) map[string][]string {
	m := map[string][]string{}
	for r := range t.Resources() {
		m[r.Name()] = []string{}
		for d := range r.Devices() {
			id := d.ID
			if d.Health == devtree.Unhealthy {
				id += ": " + d.Reason
			}
			m[r.Name()] = append(m[r.Name()], id)
		}
	}
	return m
}

// wantLists fails the test unless the lists are these, reasons included.
func (r *rig) wantLists(want map[string][]string) {
	r.t.Helper()
	if diff := cmp.Diff(want, lists(r.tree)); diff != "" {
		r.t.Errorf("lists (-want +got):\n%s", diff)
	}
}

func bindAll(t testing.TB, h *lookalike.Host, pf, driver string) {
	t.Helper()
	for _, vf := range h.VFs(pf) {
		must(t, h.Bind(vf, driver))
	}
}

func TestListedVFs(t *testing.T) {
	tests := map[string]struct {
		opts []lookalike.Option
		do   func(t *testing.T, h *lookalike.Host) // to a host with a 4xxx PF and vfio-pci loaded
		want map[string][]string
		why  map[string]string // address → part of the reason why it is not listed
	}{
		"a PF without VFs is nothing": {want: map[string][]string{}},
		"a VF bound to vfio-pci, by its PF's services": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, device.DriverVFIO))
			},
			want: map[string][]string{"cy": {vfA1}},
		},
		"bound to the variant driver for live migration": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.LoadDriver("qat_vfio_pci"))
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, "qat_vfio_pci"))
			},
			want: map[string][]string{"cy": {vfA1}},
		},
		"not bound": {
			do:   func(t *testing.T, h *lookalike.Host) { must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA})) },
			want: map[string][]string{},
			why:  map[string]string{vfA1: "it is not bound to vfio-pci"},
		},
		"bound, but its node is not there": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, device.DriverVFIO))
				must(t, os.Remove(vfioNode(t, h, vfA1)))
			},
			want: map[string][]string{},
			why:  map[string]string{vfA1: "does not exist"},
		},
		"a VF in a guest, which sees no PF, is generic": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0", DeviceID: "4945", NUMANode: -1}))
				must(t, h.Bind("0000:00:05.0", device.DriverVFIO))
			},
			want: map[string][]string{"generic": {"0000:00:05.0"}},
		},
		"a Gen2 device is generic": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.UnloadDriver("vfio-pci"))
				must(t, h.LoadDriver("vfio-pci", "disable_denylist=1"))
				must(t, h.AddPF(lookalike.PF{Address: "0000:3d:00.0", DeviceID: "37c8"}))
				must(t, h.AddVF(lookalike.VF{Address: "0000:3d:01.0", PF: "0000:3d:00.0"}))
				must(t, h.Bind("0000:3d:01.0", device.DriverVFIO))
			},
			want: map[string][]string{"generic": {"0000:3d:01.0"}},
		},
		"a PF behind a bridge and in another domain": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddPF(lookalike.PF{Address: "0001:3b:00.0", DeviceID: "4944", Services: "dc", Bridge: true}))
				must(t, h.AddVF(lookalike.VF{Address: "0001:3b:00.1", PF: "0001:3b:00.0"}))
				must(t, h.Bind("0001:3b:00.1", device.DriverVFIO))
			},
			want: map[string][]string{"dc": {"0001:3b:00.1"}},
		},
		"services that only debugfs tells": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc;sym"}))
				must(t, h.RemoveAttr(pfB, "qat/cfg_services"))
				must(t, h.AddVF(lookalike.VF{Address: "0000:70:00.1", PF: pfB}))
				must(t, h.Bind("0000:70:00.1", device.DriverVFIO))
			},
			want: map[string][]string{"sym-dc": {"0000:70:00.1"}},
		},
		"a value of services that is none is generic": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
				must(t, h.SetAttr(pfB, "qat/cfg_services", "d"))
				must(t, h.AddVF(lookalike.VF{Address: "0000:70:00.1", PF: pfB}))
				must(t, h.Bind("0000:70:00.1", device.DriverVFIO))
				must(t, h.RemoveAttr(pfB, "qat/cfg_services"))
			},
			want: map[string][]string{"dc": {"0000:70:00.1"}}, // debugfs still tells
		},
		"a PF that says it is down makes its VFs unhealthy": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, device.DriverVFIO))
				must(t, h.SetAttr(pfA, "qat/state", "down"))
			},
			want: map[string][]string{"cy": {vfA1 + ": its PF 0000:6b:00.0 is down"}},
		},
		"a half-configured device hides no other": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.AddVF(lookalike.VF{Address: "0000:6b:00.2", PF: pfA}))
				must(t, h.Bind(vfA1, device.DriverVFIO))
				must(t, h.Bind("0000:6b:00.2", device.DriverVFIO))
				must(t, h.SetAttr(vfA1, "vendor", "garbage"))
			},
			want: map[string][]string{"cy": {"0000:6b:00.2"}},
			why:  map[string]string{vfA1: `"garbage" is not a PCI ID`},
		},
		"without an IOMMU the node is a noiommu one": {
			opts: []lookalike.Option{lookalike.WithoutIOMMU()},
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0"}))
				must(t, h.Bind("0000:00:05.0", device.DriverVFIO))
			},
			want: map[string][]string{"generic": {"0000:00:05.0"}},
		},
	}
	for name, test := range tests {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t, test.opts...)
			if test.do != nil {
				test.do(t, h)
			}
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			r.wantLists(test.want)
			for address, part := range test.why {
				if got := r.reason(address); !strings.Contains(got, part) {
					t.Errorf("%s is skipped because %q, want a reason with %q", address, got, part)
				}
			}
		})
	}
}

// The kernel removes physfn before the VF, which must not be listed as generic meanwhile.
func TestVFWithoutPhysfnKeepsItsResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		must(t, h.RemoveAttr(vfA1, "physfn"))
		must(t, h.RemoveAttr(pfA, "virtfn0"))
		r.rescan()
		r.wantLists(map[string][]string{"cy": {vfA1}})
	})
}

// At a VF's add event physfn may be missing while the PF's virtfn link exists.
func TestVFIsFoundByItsPFsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		must(t, h.RemoveAttr(vfA1, "physfn"))
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		r.wantLists(map[string][]string{"cy": {vfA1}})
	})
}

// The kernel may have removed the VFs and the PF's qat/ directory before the
// first event of that arrives.
func TestVFsThatAreGoneAreNotListedByTheNewStateOfTheirPF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 16))
		bindAll(t, h, pfA, device.DriverVFIO)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		must(t, h.Unbind(pfA)) // its driver removes the VFs and qat/
		r.read(pfA)
		r.wantLists(map[string][]string{"cy": {}})
	})
}

func TestServiceChangeMovesOnlyTheVFsOfThatPF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
		for _, pf := range []string{pfA, pfB} {
			must(t, h.SetVFs(pf, 16))
			bindAll(t, h, pf, device.DriverVFIO)
		}
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		before := r.tree
		must(t, h.SetAttr(pfB, "qat/cfg_services", "dc"))
		r.read(pfB)
		want := map[string][]string{"cy": h.VFs(pfA), "dc": h.VFs(pfB)}
		for _, ids := range want {
			slices.Sort(ids)
		}
		r.wantLists(want)
		for _, id := range h.VFs(pfA) {
			if before.Resource("cy").Device(id) != r.device(id) {
				t.Errorf("device %s of the other PF was rebuilt", id)
			}
		}
	})
}

func TestUnchangedHostYieldsTheSameTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 16))
		bindAll(t, h, pfA, device.DriverVFIO)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		before := r.tree
		r.rescan()
		if r.tree != before {
			t.Error("reading the same host again made another Tree")
		}
	})
}

// A PF that cannot be read says nothing about the resource of its VFs. They
// must not move to another one.
func TestVFsOfAnUnreadablePFAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 2))
		bindAll(t, h, pfA, device.DriverVFIO)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		file := filepath.Join(h.Path(pfA), "qat/cfg_services")
		must(t, os.Remove(file))
		must(t, os.Mkdir(file, 0o755)) // reading it fails with EISDIR
		r.read(pfA)
		r.wantLists(map[string][]string{"cy": {}})
		for _, vf := range h.VFs(pfA) {
			if got := r.reason(vf); !strings.Contains(got, "its PF 0000:6b:00.0 cannot be read") {
				t.Errorf("%s is skipped because %q", vf, got)
			}
		}
	})
}

func TestVFsOfOtherFamiliesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{ServedDrivers: []string{"c6xxvf"}})
		r.rescan()
		r.wantLists(map[string][]string{})
		if want := "its family's driver 4xxxvf is not one of -kernel-vf-drivers"; r.reason(vfA1) != want {
			t.Errorf("skipped because %q, want %q", r.reason(vfA1), want)
		}
	})
}

func TestListedVFsKeepTheirPlaceUnderALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 8))
		vfs := h.VFs(pfA)
		bindVFs := func(vfs []string) {
			for _, vf := range vfs {
				must(t, h.Bind(vf, device.DriverVFIO))
			}
		}
		bindVFs(vfs[4:])
		r := newRig(t, h, Config{NoBind: true, Limit: 4})
		r.rescan()
		r.wantLists(map[string][]string{"cy": vfs[4:]})
		bindVFs(vfs[:4]) // lower addresses, but later
		r.rescan()
		r.wantLists(map[string][]string{"cy": vfs[4:]})
		for _, vf := range vfs[:4] {
			if want := "hidden by -max-num-devices=4"; r.reason(vf) != want {
				t.Errorf("%s is skipped because %q, want %q", vf, r.reason(vf), want)
			}
		}
		r.wantSkipped(vfs[:4]...)
		must(t, h.Unbind(vfs[6]))
		r.rescan()
		r.wantLists(map[string][]string{"cy": {vfs[0], vfs[4], vfs[5], vfs[7]}})
	})
}

func TestLimitWithBalancedIsSpreadOverPFs(t *testing.T) {
	const other = "0000:6b:10.0" // a PF on the bus of pfA
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddPF(lookalike.PF{Address: other, Services: "sym;asym", NUMANode: 1}))
		var want []string
		for _, pf := range []string{pfA, other} {
			must(t, h.SetVFs(pf, 16))
			bindAll(t, h, pf, device.DriverVFIO)
			want = append(want, h.VFs(pf)[:3]...)
		}
		r := newRig(t, h, Config{NoBind: true, Limit: 6, Policy: policy.Balanced})
		r.rescan()
		r.wantLists(map[string][]string{"cy": want})
		available := slices.Collect(r.tree.Resource("cy").Devices())
		chosen, err := r.config.Preference.Choose(available, nil, 2)
		must(t, err)
		slices.Sort(chosen)
		if diff := cmp.Diff([]string{want[0], want[3]}, chosen); diff != "" {
			t.Errorf("chosen (-want +got):\n%s", diff)
		}
	})
}

func TestListedVFsCountForBalanced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true, Limit: 2, Policy: policy.Balanced})
		r.rescan()
		addVFs(t, h, pfA, vfA2)
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
		addVFs(t, h, pfB, vfB1)
		r.rescan()
		r.wantLists(map[string][]string{"cy": {vfA1, vfB1}})
	})
}

// A device that package devtree refuses is skipped.
func TestRefusedDeviceIsSkipped(t *testing.T) {
	s := &assignment{
		listed:  map[pci.Address]*place{},
		waiting: map[pci.Address]decision{},
		skipped: map[string]string{},
		classes: map[pci.Address]string{},
		tree:    &devtree.Tree{},
	}
	a := pci.Address{Bus: 0x6b, Function: 1}
	apply := func(id string) {
		d := &devtree.Device{ID: id, Health: devtree.Healthy}
		s.apply([]decision{{vf: a, action: actionList, resource: "cy", device: d}}, nil, nil, time.Now())
	}
	apply(vfA1)
	if diff := cmp.Diff(map[string][]string{"cy": {vfA1}}, lists(s.tree)); diff != "" {
		t.Fatalf("lists (-want +got):\n%s", diff)
	}
	apply("")
	if diff := cmp.Diff(map[string][]string{"cy": {}}, lists(s.tree)); diff != "" {
		t.Errorf("lists with a refused device (-want +got):\n%s", diff)
	}
	if len(s.listed) > 0 || s.skipped[vfA1] == "" {
		t.Errorf("listed %v, skipped %v; want it skipped", s.listed, s.skipped)
	}
}

// readWrite is a device node for a container, at its path on the host.
func readWrite(path string) devtree.DeviceNode {
	return devtree.DeviceNode{HostPath: path, ContainerPath: path, Permissions: "rw"}
}

func TestContainerEditsForVFIOGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		group := "/dev/vfio/" + filepath.Base(vfioNode(t, h, vfA1))
		want := &devtree.Device{
			ID:        vfA1,
			Health:    devtree.Healthy,
			NUMANodes: []int{1},
			ContainerEdits: devtree.ContainerEdits{
				DeviceNodes: []devtree.DeviceNode{readWrite(group), readWrite("/dev/vfio/vfio")},
			},
		}
		if diff := cmp.Diff(want, r.device(vfA1)); diff != "" {
			t.Errorf("device (-want +got):\n%s", diff)
		}
	})
}

func TestContainerEditsForUIO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		must(t, h.LoadDriver(device.DriverIGBUIO))
		must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0", NUMANode: -1}))
		must(t, h.Bind("0000:00:05.0", device.DriverIGBUIO))
		r := newRig(t, h, Config{NoBind: true, Driver: device.DriverIGBUIO})
		r.rescan()
		const attributes = "/sys/class/uio/uio0/device"
		want := &devtree.Device{
			ID:     "0000:00:05.0",
			Health: devtree.Healthy,
			ContainerEdits: devtree.ContainerEdits{
				DeviceNodes: []devtree.DeviceNode{readWrite("/dev/uio0")},
				Mounts:      []devtree.Mount{{HostPath: attributes, ContainerPath: attributes}},
			},
		}
		if diff := cmp.Diff(want, r.device("0000:00:05.0")); diff != "" {
			t.Errorf("device (-want +got):\n%s", diff)
		}
	})
}

func TestVFIOInterface(t *testing.T) {
	const onlyCdev, onlyGroup, both = 1, 2, 3
	for name, test := range map[string]struct {
		kernel int
		flag   string
		want   []string // device nodes, G for the group; nil: not listed
	}{
		"auto prefers the group":             {both, device.InterfaceAuto, []string{"vfio/G", "vfio/vfio"}},
		"auto without a group":               {onlyCdev, device.InterfaceAuto, []string{"vfio/devices/vfio0", "iommu"}},
		"auto without a cdev":                {onlyGroup, device.InterfaceAuto, []string{"vfio/G", "vfio/vfio"}},
		"cdev":                               {both, device.InterfaceCdev, []string{"vfio/devices/vfio0", "iommu"}},
		"group":                              {both, device.InterfaceGroup, []string{"vfio/G", "vfio/vfio"}},
		"cdev without one lists nothing":     {onlyGroup, device.InterfaceCdev, nil},
		"group without a node lists nothing": {onlyCdev, device.InterfaceGroup, nil},
	} {
		inBubble(t, name, func(t *testing.T) {
			var opts []lookalike.Option
			if test.kernel != onlyGroup {
				opts = append(opts, lookalike.WithIOMMUFD())
			}
			h := newHost4xxx(t, opts...)
			addVFs(t, h, pfA, vfA1)
			if test.kernel != onlyGroup {
				must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o600))
			}
			node := vfioNode(t, h, vfA1)
			if test.kernel == onlyCdev {
				must(t, os.Remove(node))
			}
			reader := device.NewReader(device.Config{
				Sysfs:     h.Sysfs(),
				Dev:       h.Dev(),
				Driver:    device.DriverVFIO,
				Interface: test.flag,
			})
			r := newRig(t, h, Config{NoBind: true, Reader: reader})
			r.rescan()
			var want, got []devtree.DeviceNode
			for _, name := range test.want {
				want = append(want, readWrite("/dev/"+strings.Replace(name, "G", filepath.Base(node), 1)))
			}
			if d := r.device(vfA1); d != nil {
				got = d.DeviceNodes
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("device nodes (-want +got):\n%s", diff)
			}
		})
	}
}

// Mostly /dev/iommu is there first, because vfio needs iommufd. A container runtime or an
// administrator may make it later.
func TestVFIsListedWhenIOMMUNodeAppears(t *testing.T) {
	for name, event := range map[string]func(t *testing.T, h *lookalike.Host) *events.Event{
		"uevent": func(t *testing.T, _ *lookalike.Host) *events.Event {
			return uevent(t, "add@/devices/virtual/misc/iommu", "SUBSYSTEM=misc", "DEVNAME=iommu")
		},
		"inotify": func(_ *testing.T, h *lookalike.Host) *events.Event {
			return inotify(filepath.Join(h.Dev(), "iommu"))
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t, lookalike.WithIOMMUFD())
			addVFs(t, h, pfA, vfA1)
			reader := device.NewReader(device.Config{
				Sysfs:     h.Sysfs(),
				Dev:       h.Dev(),
				Driver:    device.DriverVFIO,
				Interface: device.InterfaceCdev,
			})
			r := newRig(t, h, Config{NoBind: true, Reader: reader})
			r.rescan()
			r.wantSkipped(vfA1)
			if _, watched := r.watches[h.Dev()]; !watched {
				t.Errorf("%s is not watched", h.Dev())
			}
			must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o600))
			r.event(event(t, h))
			r.wantList(map[string][]string{"cy": {vfA1}})
		})
	}
}

func TestPostAllocate(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 4))
	bindAll(t, h, pfA, device.DriverVFIO)
	vfs := h.VFs(pfA)
	cfg := withDefaults(h, Config{}, nil)
	var nodes map[string]string // VF → device node
	allocate := func(ids ...string) (*devtree.ContainerEdits, error) {
		var devices []*devtree.Device
		for _, id := range ids {
			d := &devtree.Device{ID: id}
			if node := nodes[id]; node != "" {
				d.DeviceNodes = []devtree.DeviceNode{{HostPath: node}}
			}
			devices = append(devices, d)
		}
		edits := &devtree.ContainerEdits{}
		return edits, cfg.Allocator.PostAllocate(devices, edits)
	}
	edits, err := allocate(vfs[2], vfs[0])
	must(t, err)
	if diff := cmp.Diff(map[string]string{"QAT0": vfs[2], "QAT1": vfs[0]}, edits.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	nodes = map[string]string{}
	for _, vf := range vfs {
		nodes[vf] = "/dev/vfio/" + filepath.Base(vfioNode(t, h, vf))
	}
	if _, err := allocate(vfs...); err != nil {
		t.Errorf("allocating VFs that are as listed: %v", err)
	}
	node := nodes[vfs[3]]
	nodes[vfs[3]] = nodes[vfs[2]]
	_, err = allocate(vfs[3])
	if want := "allocate " + vfs[3] + ": the device cannot be used: its device node is now " + node; err == nil ||
		err.Error() != want {
		t.Errorf("allocating a VF that has another node: %v, want %s", err, want)
	}
	nodes[vfs[3]] = node
	must(t, h.RemoveVF(vfs[0]))
	must(t, h.Unbind(vfs[1]))
	must(t, os.Remove(vfioNode(t, h, vfs[3])))
	for id, want := range map[string]error{
		vfs[0]: fmt.Errorf("allocate %s: %w", vfs[0], devtree.ErrGone),
		vfs[1]: fmt.Errorf("allocate %s: %w: it is no longer bound to vfio-pci", vfs[1], devtree.ErrUnfit),
		vfs[3]: fmt.Errorf("allocate %s: %w: %s does not exist", vfs[3], devtree.ErrUnfit, node),
		"x":    fmt.Errorf(`allocate "x": not a PCI address`),
	} {
		if _, err := allocate(vfs[2], id); err == nil || err.Error() != want.Error() {
			t.Errorf("allocating %s: %v, want %v", id, err, want)
		}
	}
}
