// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// usableVF returns the facts about a VF that can be listed, and about its PF.
func usableVF() facts {
	family, _ := device.FamilyOf(0x8086, 0x4940)
	pf := pci.Address{Bus: 0x6b}
	return facts{
		vf: &function{Function: &device.Function{
			Address:  pci.Address{Bus: 0x6b, Function: 1},
			Family:   family,
			IsVF:     true,
			Driver:   device.DriverVFIO,
			NUMANode: -1,
			Node:     device.Node{Name: "vfio/12"},
		}},
		pf: &function{Function: &device.Function{
			Address:  pf,
			Family:   family,
			State:    "up",
			Resource: "cy",
		}},
		pfAddress:   &pf,
		pfExists:    true,
		driverBound: true,
		driver:      device.DriverState{Loaded: true},
	}
}

// unboundVF returns the facts about a VF that is bound to a driver, or to none.
func unboundVF(driver string) facts {
	f := usableVF()
	f.vf.Driver, f.vf.Node, f.driverBound = driver, device.Node{}, false
	return f
}

func TestDecide(t *testing.T) {
	const releasing = "on its way out"
	listed := func(resource string) decision { return decision{action: actionList, resource: resource} }
	unhealthy := func(d decision) decision { d.unhealthy = true; return d }
	for name, tt := range map[string]struct {
		facts  facts
		change func(f *facts, r *rules)
		want   decision
	}{
		"usable":      {usableVF(), nil, listed("cy")},
		"no such VF":  {facts{}, nil, skip("")},
		"unreadable":  {facts{unreadable: "EIO"}, nil, skip("EIO")},
		"partly read": {usableVF(), func(f *facts, _ *rules) { f.vf.readErr = "EIO" }, skip("EIO")},
		"other family": {
			usableVF(),
			func(_ *facts, r *rules) { r.served = nil },
			skip("its family's driver 4xxxvf is not one of -kernel-vf-drivers"),
		},

		"held on its way out, listed": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.listed, f.vf.Node = true, device.Node{Missing: releasing, Releasing: true} },
			unhealthy(listed("cy")),
		},
		"held on its way out, not listed": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.vf.Node = device.Node{Missing: releasing, Releasing: true} },
			skip(releasing),
		},
		"held on its way out for long": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.held, f.vf.Node = true, device.Node{Missing: releasing, Releasing: true} },
			skip(releasing + " while a workload holds it"),
		},
		"bound without a VFIO device": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.Node = device.Node{Missing: releasing, Releasing: true} },
			decision{action: actionAwaitNode, reason: releasing},
		},
		"being removed, unbound": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.vf.removing = true },
			skip("it is being removed"),
		},
		"being removed, still bound": {usableVF(), func(f *facts, _ *rules) { f.vf.removing = true }, listed("cy")},
		"node missing": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.Node.Missing = "no node" },
			decision{action: actionAwaitNode, reason: "no node"},
		},

		"unbound": {unboundVF(""), nil, decision{action: actionBind}},
		"unbound, PF down": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.pf.State = "down" },
			unhealthy(decision{action: actionBind}),
		},
		"bound to its driver": {unboundVF("4xxxvf"), nil, decision{action: actionBind}},
		"bound to another driver": {
			unboundVF("ixgbe"),
			nil,
			skip("it is bound to ixgbe, which is left alone without -steal"),
		},
		"stolen": {
			unboundVF("ixgbe"),
			func(_ *facts, r *rules) { r.steal = true },
			decision{action: actionBind},
		},
		"binding disabled": {
			unboundVF(""),
			func(_ *facts, r *rules) { r.bind = false },
			skip("it is not bound to vfio-pci, and -bind=false leaves binding to others"),
		},
		"driver not loaded": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.driver.Loaded = false },
			skip("driver vfio-pci is not loaded: modprobe vfio-pci"),
		},

		"no IOMMU group": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.driver.NeedsGroup = true },
			skip(device.NoIOMMUGroup),
		},
		"IOMMU group": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.driver.NeedsGroup, f.vf.Group = true, new(int) },
			decision{action: actionBind},
		},
		"denylist, other family": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.driver.Denylist = true },
			decision{action: actionBind},
		},
		"denylisted": {
			unboundVF(""),
			func(f *facts, r *rules) {
				f.vf.Family, _ = device.FamilyOf(0x8086, 0x37c8)
				f.driver.Denylist, r.served = true, []string{"c6xxvf"}
			},
			skip("vfio-pci refuses C62x devices unless it is loaded with disable_denylist=1 " +
				"(modprobe -r vfio-pci; modprobe vfio-pci disable_denylist=1)"),
		},

		"no PF, as in a guest": {
			usableVF(),
			func(f *facts, _ *rules) { f.pf, f.pfAddress = nil, nil },
			listed("generic"),
		},
		"PF that is not QAT": {usableVF(), func(f *facts, _ *rules) { f.pf = nil }, listed("generic")},
		"PF that is gone": {
			usableVF(),
			func(f *facts, _ *rules) { f.pf, f.pfExists = nil, false },
			skip("its PF 0000:6b:00.0 is gone"),
		},
		"PF that is unreadable": {
			usableVF(),
			func(f *facts, _ *rules) { f.pfReadErr = "EIO" },
			skip("its PF 0000:6b:00.0 cannot be read: EIO"),
		},
		"family without services": {
			usableVF(),
			func(f *facts, r *rules) {
				f.vf.Family, _ = device.FamilyOf(0x8086, 0x37c8)
				f.pf.Resource, f.pfReadErr, r.served = "cy", "EIO", []string{"c6xxvf"}
			},
			listed("generic"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := rules{driver: device.DriverVFIO, served: []string{"4xxxvf"}, bind: true}
			if tt.change != nil {
				tt.change(&tt.facts, &r)
			}
			got := decide(&tt.facts, &r)
			if (got.device != nil) != (got.action == actionList) {
				t.Errorf("device %v with action %v", got.device, got.action)
			}
			if got.action == actionSkip && got.reason != "" && tt.facts.vf != nil &&
				skipClass(tt.facts.vf, got.reason, tt.facts.withdrawn) == status.ClassOther {
				t.Errorf("%q has no class", got.reason)
			}
			got.device = nil
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("decide = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestUnhealthyReasonOfAListedVF(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(f *facts)
		want   string
	}{
		"healthy":   {func(*facts) {}, ""},
		"no state":  {func(f *facts) { f.pf.State = "" }, ""},
		"no PF":     {func(f *facts) { f.pf = nil }, ""},
		"PF down":   {func(f *facts) { f.pf.State = "down" }, "its PF 0000:6b:00.0 is down"},
		"PF failed": {func(f *facts) { f.pf.unhealthy = "failed x" }, "its PF 0000:6b:00.0 failed x"},
		"PF down and failed": {
			func(f *facts) { f.pf.State, f.pf.unhealthy = "down", "failed x" },
			"its PF 0000:6b:00.0 is down",
		},
		"VF failed": {func(f *facts) { f.vf.unhealthy = "had a PCI error" }, "it had a PCI error"},
		"held": {
			func(f *facts) {
				f.listed, f.vf.Node.Releasing, f.vf.Node.Missing, f.pf.State = true, true, "held", "down"
			},
			"held",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := usableVF()
			tt.change(&f)
			r := rules{driver: device.DriverVFIO, served: []string{"4xxxvf"}, bind: true}
			d := decide(&f, &r).device
			want := &devtree.Device{ID: "0000:6b:00.1", Health: devtree.Healthy}
			if tt.want != "" {
				want.Health, want.Reason = devtree.Unhealthy, tt.want
			}
			got := &devtree.Device{ID: d.ID, Health: d.Health, Reason: d.Reason}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("device (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNUMANodeOfADevice(t *testing.T) {
	for node, want := range map[int][]int{-1: nil, 0: {0}, 1: {1}} {
		f := usableVF()
		f.vf.NUMANode = node
		if diff := cmp.Diff(want, newDevice(&f, &rules{driver: device.DriverVFIO}, "cy").NUMANodes); diff != "" {
			t.Errorf("NUMA nodes of a VF on node %d (-want +got):\n%s", node, diff)
		}
	}
}
