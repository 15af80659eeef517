// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"testing"

	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
)

func TestClassify(t *testing.T) {
	vf := Key{address: pci.Address{Bus: 0x6b, Function: 1}}
	pf := Key{address: pci.Address{Bus: 0x6b}}
	tests := map[string]struct {
		event   *events.Event
		want    Key
		verdict hostwatch.Verdict
	}{
		"a VF": {
			event:   uevent(t, "add@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci", "PCI_ID=8086:4941"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"a VF whose ID is not told": {
			event:   uevent(t, "unbind@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"another device": {
			event:   uevent(t, "add@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci", "PCI_ID=8086:1572"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
		"another device in the IOMMU group of a VF": {
			event:   uevent(t, "bind@/devices/pci0000:6b/0000:6b:1e.0", "SUBSYSTEM=pci", "PCI_ID=8086:1572"),
			want:    Key{address: pci.Address{Bus: 0x6b, Device: 0x1e}},
			verdict: hostwatch.Relevant,
		},
		"a VFIO device": {
			event:   uevent(t, "remove@/devices/pci0000:6b/0000:6b:00.1/vfio-dev/vfio3", "SUBSYSTEM=vfio-dev"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"a VF that goes": {
			event:   uevent(t, "remove@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci", "PCI_ID=8086:4941"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"a UIO device": {
			event:   uevent(t, "add@/devices/pci0000:6b/0000:6b:00.1/uio/uio0", "SUBSYSTEM=uio"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"a VFIO group": {
			event:   uevent(t, "add@/devices/virtual/vfio/12", "SUBSYSTEM=vfio", "DEVNAME=vfio/12"),
			want:    Key{kind: keyGroup, group: 12},
			verdict: hostwatch.Relevant,
		},
		"a noiommu group": {
			event:   uevent(t, "add@/devices/virtual/vfio/noiommu-3", "SUBSYSTEM=vfio"),
			want:    Key{kind: keyGroup, group: 3},
			verdict: hostwatch.Relevant,
		},
		"the VFIO container": {
			event:   uevent(t, "add@/devices/virtual/misc/vfio", "SUBSYSTEM=misc", "DEVNAME=vfio/vfio"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
		"iommufd": {
			event:   uevent(t, "add@/devices/virtual/misc/iommu", "SUBSYSTEM=misc", "DEVNAME=iommu"),
			want:    Key{kind: keyNodes},
			verdict: hostwatch.Relevant,
		},
		"the DPDK driver": {
			event:   uevent(t, "add@/bus/pci/drivers/vfio-pci", "SUBSYSTEM=drivers"),
			want:    Key{kind: keyDriver},
			verdict: hostwatch.Relevant,
		},
		"another driver": {
			event:   uevent(t, "add@/bus/pci/drivers/ixgbe", "SUBSYSTEM=drivers"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
		"the DPDK driver's module": {
			event:   uevent(t, "add@/module/vfio_pci", "SUBSYSTEM=module"),
			want:    Key{kind: keyDriver},
			verdict: hostwatch.Relevant,
		},
		"the module of the parameters": {
			event:   uevent(t, "add@/module/vfio", "SUBSYSTEM=module"),
			want:    Key{kind: keyDriver},
			verdict: hostwatch.Relevant,
		},
		"the module of another DPDK driver": {
			event:   uevent(t, "add@/module/igb_uio", "SUBSYSTEM=module"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
		"a reservation": {
			event:   inotify("/s/devices/pci0000:6b/0000:6b:00.1/driver_override"),
			want:    Key{kind: keyOverride, address: vf.address},
			verdict: hostwatch.Relevant,
		},
		"a NUMA node": {
			event:   inotify("/s/devices/pci0000:6b/0000:6b:00.1/numa_node"),
			want:    Key{kind: keyNUMANode, address: vf.address},
			verdict: hostwatch.Relevant,
		},
		"a parameter": {
			event:   inotify("/s/module/vfio/parameters/enable_unsafe_noiommu_mode"),
			want:    Key{kind: keyDriver},
			verdict: hostwatch.Relevant,
		},
		"a network interface": {
			event:   uevent(t, "add@/devices/pci0000:00/0000:00:03.0/virtio0/net/eth0", "SUBSYSTEM=net"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
		"an entry of bus/pci": {
			event:   inotify("/s/bus/pci/devices/0000:6b:00.1"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"bus/pci/devices itself": {inotify("/s/bus/pci/devices"), Key{}, hostwatch.RelevantToAll},
		"the directory of drivers": {
			event:   inotify("/s/bus/pci/drivers"),
			want:    Key{kind: keyDriver},
			verdict: hostwatch.Relevant,
		},
		"the driver's directory": {
			event:   inotify("/s/bus/pci/drivers/vfio-pci"),
			want:    Key{kind: keyDriver},
			verdict: hostwatch.Relevant,
		},
		"another driver's directory": {
			event:   inotify("/s/bus/pci/drivers/vfio"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
		"a link of a VF": {
			event:   inotify("/s/devices/pci0000:6b/0000:6b:00.1/driver"),
			want:    vf,
			verdict: hostwatch.Relevant,
		},
		"a PF's services": {
			event:   inotify("/s/devices/pci0000:6b/0000:6b:00.0/qat/cfg_services"),
			want:    pf,
			verdict: hostwatch.Relevant,
		},
		"a PF's debugfs": {
			event:   inotify("/s/kernel/debug/qat_4xxx_0000:6b:00.0/heartbeat"),
			want:    pf,
			verdict: hostwatch.Relevant,
		},
		"a PF's debugfs itself": {
			event:   inotify("/s/kernel/debug/qat_4xxx_0000:6b:00.0"),
			want:    pf,
			verdict: hostwatch.Relevant,
		},
		"a PF's debugfs, driver with an underscore": {
			event:   inotify("/s/kernel/debug/qat_a_b_0000:6b:00.0"),
			want:    pf,
			verdict: hostwatch.Relevant,
		},
		"another debugfs":                       {inotify("/s/kernel/debug/tracing"), Key{}, hostwatch.Irrelevant},
		"a group's node, name without a number": {inotify("/d/vfio/noiommu-"), Key{}, hostwatch.Irrelevant},
		"a group's node, number too large":      {inotify("/d/vfio/999999999999"), Key{}, hostwatch.Irrelevant},
		"the VFIO container's node":             {inotify("/d/vfio/vfio"), Key{}, hostwatch.Irrelevant},
		"a group's node": {
			event:   inotify("/d/vfio/12"),
			want:    Key{kind: keyGroup, group: 12},
			verdict: hostwatch.Relevant,
		},
		"a noiommu node": {
			event:   inotify("/d/vfio/noiommu-3"),
			want:    Key{kind: keyGroup, group: 3},
			verdict: hostwatch.Relevant,
		},
		"/dev/vfio itself": {inotify("/d/vfio"), Key{kind: keyNodes}, hostwatch.Relevant},
		"a UIO node":       {inotify("/d/uio4"), Key{kind: keyNodes}, hostwatch.Relevant},
		"iommufd's node":   {inotify("/d/iommu"), Key{kind: keyNodes}, hostwatch.Relevant},
		"another node":     {inotify("/d/null"), Key{}, hostwatch.Irrelevant},
		"a sibling of the root": {
			event:   inotify("/sys2/devices/pci0000:6b/0000:6b:00.1"),
			want:    Key{},
			verdict: hostwatch.Irrelevant,
		},
	}
	c := classifier{
		sysfs:    "/s",
		dev:      "/d",
		driver:   device.DriverVFIO,
		isShared: func(a pci.Address) bool { return a == pci.Address{Bus: 0x6b, Device: 0x1e} },
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, verdict := c.classify(test.event)
			if got != test.want || verdict != test.verdict {
				t.Errorf("classify(%s) = %v, %v; want %v, %v", test.event.Path, got, verdict, test.want, test.verdict)
			}
			if n := testing.AllocsPerRun(100, func() { c.classify(test.event) }); n > 0 {
				t.Errorf("allocates %v times, want 0: it runs in the goroutine that reads a socket", n)
			}
		})
	}
}
