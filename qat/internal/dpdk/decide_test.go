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
	await := func(class, reason string) decision {
		d := skip(class, reason)
		d.action = actionAwaitNode
		return d
	}
	for name, tt := range map[string]struct {
		facts  facts
		change func(f *facts, r *rules)
		want   decision
	}{
		"usable":     {usableVF(), nil, listed("cy")},
		"no such VF": {facts{}, nil, decision{}},
		"unreadable": {facts{unreadable: "EIO"}, nil, skip(status.ClassUnreadable, "EIO")},
		"partly read": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.readErr = "EIO" },
			skip(status.ClassUnreadable, "EIO"),
		},
		"other family": {
			usableVF(),
			func(_ *facts, r *rules) { r.served = nil },
			skip(status.ClassFamily, "its family's driver 4xxxvf is not one of -kernel-vf-drivers"),
		},

		"held on its way out, listed": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.listed, f.vf.Node = true, device.Node{Missing: releasing, Releasing: true} },
			unhealthy(listed("cy")),
		},
		"held on its way out, not listed": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.vf.Node = device.Node{Missing: releasing, Releasing: true} },
			skip(status.ClassReleasing, releasing),
		},
		"held on its way out for long": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.held, f.vf.Node = true, device.Node{Missing: releasing, Releasing: true} },
			skip(status.ClassReleasing, releasing+" while a workload holds it"),
		},
		"bound without a VFIO device": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.Node = device.Node{Missing: releasing, Releasing: true} },
			await(status.ClassReleasing, releasing),
		},
		"held on its way out, not listed, with attributes": {
			unboundVF(""),
			func(f *facts, r *rules) {
				r.attributes, f.vf.Node = true, device.Node{Missing: releasing, Releasing: true}
			},
			unhealthy(listed("cy")),
		},
		"bound without a VFIO device, with attributes": {
			usableVF(),
			func(f *facts, r *rules) {
				r.attributes, f.vf.Node = true, device.Node{Missing: releasing, Releasing: true}
			},
			await(status.ClassReleasing, releasing),
		},
		"being removed, unbound": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.vf.removing = true },
			skip(status.ClassRemoving, "it is being removed"),
		},
		"being removed, still bound": {usableVF(), func(f *facts, _ *rules) { f.vf.removing = true }, listed("cy")},
		"node missing": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.Group, f.vf.Node.Missing = new(int), "no node" },
			await(status.ClassOther, "no node"),
		},

		"bound without an IOMMU group": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.Group, f.vf.Node = nil, device.Node{Missing: device.NoIOMMUGroup} },
			await(status.ClassNoIOMMUGroup, device.NoIOMMUGroup),
		},
		"IOMMU group unreadable": {
			usableVF(),
			func(f *facts, _ *rules) { f.vf.Group, f.groupErr = new(int), "EIO" },
			skip(status.ClassUnreadable, "its IOMMU group 0 cannot be read: EIO"),
		},
		"IOMMU group in use": {
			usableVF(),
			func(f *facts, _ *rules) {
				f.vf.Group, f.members = new(int), []member{{address: *f.pfAddress, driver: "ixgbe"}}
			},
			skip(status.ClassGroupBlocked,
				"its IOMMU group 0 cannot be used: 0000:6b:00.0 in it is bound to ixgbe"),
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
			skip(status.ClassOtherDriver, "it is bound to ixgbe, which is left alone without -steal"),
		},
		"stolen": {
			unboundVF("ixgbe"),
			func(_ *facts, r *rules) { r.steal = true },
			decision{action: actionBind},
		},
		"binding disabled": {
			unboundVF(""),
			func(_ *facts, r *rules) { r.bind = false },
			skip(status.ClassNotBound, "it is not bound to vfio-pci, and -bind=false leaves binding to others"),
		},
		"driver not loaded": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.driver.Loaded = false },
			skip(status.ClassDriverNotLoaded, "driver vfio-pci is not loaded: modprobe vfio-pci"),
		},

		"no IOMMU group": {
			unboundVF(""),
			func(f *facts, _ *rules) { f.driver.NeedsGroup = true },
			skip(status.ClassNoIOMMUGroup, device.NoIOMMUGroup),
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
			skip(status.ClassDenylist, "vfio-pci refuses C62x devices unless it is loaded with disable_denylist=1 "+
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
			skip(status.ClassRemoving, "its PF 0000:6b:00.0 is gone"),
		},
		"PF that is unreadable": {
			usableVF(),
			func(f *facts, _ *rules) { f.pfReadErr = "EIO" },
			skip(status.ClassUnreadable, "its PF 0000:6b:00.0 cannot be read: EIO"),
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
			got.device = nil
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("decide = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestUnhealthyReasonOfAListedVF(t *testing.T) {
	const pfReason = "its PF 0000:6b:00.0 failed x"
	failed := func(class string) status.Reason { return status.Reason{Class: class, Text: "failed x"} }
	for name, tt := range map[string]struct {
		change func(f *facts)
		reason string
		cause  string
	}{
		"healthy":   {func(*facts) {}, "", ""},
		"no state":  {func(f *facts) { f.pf.State = "" }, "", ""},
		"no PF":     {func(f *facts) { f.pf = nil }, "", ""},
		"PF down":   {func(f *facts) { f.pf.State = "down" }, "its PF 0000:6b:00.0 is down", "pf-down"},
		"heartbeat": {func(f *facts) { f.pf.unhealthy = failed(status.ClassHeartbeat) }, pfReason, "heartbeat"},
		"RAS":       {func(f *facts) { f.pf.unhealthy = failed(status.ClassFatalError) }, pfReason, "fatal-error"},
		"AER of PF": {func(f *facts) { f.pf.unhealthy = failed(status.ClassPCIError) }, pfReason, "pci-error"},
		"PF down and failed": {
			func(f *facts) { f.pf.State, f.pf.unhealthy = "down", failed(status.ClassHeartbeat) },
			"its PF 0000:6b:00.0 is down", "pf-down",
		},
		"AER of VF": {func(f *facts) { f.vf.unhealthy = failed(status.ClassPCIError) }, "it failed x", "pci-error"},
		"held": {
			func(f *facts) {
				f.listed, f.vf.Node.Releasing, f.vf.Node.Missing, f.pf.State = true, true, "held", "down"
			},
			"held", "releasing",
		},
		"withdrawn and down": {
			func(f *facts) { f.listed, f.withdrawn, f.pf.State = true, "in change", "down" },
			"in change", "withdrawn",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := usableVF()
			tt.change(&f)
			for _, attributes := range []bool{false, true} {
				r := rules{driver: device.DriverVFIO, served: []string{"4xxxvf"}, bind: true, attributes: attributes}
				d := decide(&f, &r).device
				want := &devtree.Device{ID: "0000:6b:00.1", Health: devtree.Healthy}
				if tt.reason != "" {
					want.Health, want.Reason = devtree.Unhealthy, tt.reason
				}
				if attributes {
					want.Cause = tt.cause
				}
				got := &devtree.Device{ID: d.ID, Health: d.Health, Reason: d.Reason, Cause: d.Cause}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("device, attributes: %t (-want +got):\n%s", attributes, diff)
				}
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
