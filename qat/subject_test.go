package qat

import (
	"strings"
	"testing"

	"qatplugin/events"
)

func uevent(t testing.TB, header string, variables ...string) *events.Event {
	t.Helper()
	e := &events.Event{}
	must(t, events.ParseUevent(e, []byte(header+"\x00"+strings.Join(variables, "\x00")+"\x00")))
	return e
}

func inotify(path string) *events.Event {
	return &events.Event{Origin: events.Inotify, Action: events.Create, Path: []byte(path)}
}

func TestSubject(t *testing.T) {
	vf := subject{address: Address{Bus: 0x6b, Function: 1}}
	pf := subject{address: Address{Bus: 0x6b}}
	tests := map[string]struct {
		event    *events.Event
		want     subject
		resync   bool
		relevant bool
	}{
		"a VF":                       {uevent(t, "add@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci", "PCI_ID=8086:4941"), vf, false, true},
		"a VF whose ID is not told":  {uevent(t, "unbind@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci"), vf, false, true},
		"another device":             {uevent(t, "add@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci", "PCI_ID=8086:1572"), subject{}, false, false},
		"a VFIO device":              {uevent(t, "remove@/devices/pci0000:6b/0000:6b:00.1/vfio-dev/vfio3", "SUBSYSTEM=vfio-dev"), vf, false, true},
		"a VF that goes":             {uevent(t, "remove@/devices/pci0000:6b/0000:6b:00.1", "SUBSYSTEM=pci", "PCI_ID=8086:4941"), vf, false, true},
		"a UIO device":               {uevent(t, "add@/devices/pci0000:6b/0000:6b:00.1/uio/uio0", "SUBSYSTEM=uio"), vf, false, true},
		"a VFIO group":               {uevent(t, "add@/devices/virtual/vfio/12", "SUBSYSTEM=vfio", "DEVNAME=vfio/12"), subject{kind: subjectGroup, group: 12}, false, true},
		"a noiommu group":            {uevent(t, "add@/devices/virtual/vfio/noiommu-3", "SUBSYSTEM=vfio"), subject{kind: subjectGroup, group: 3}, false, true},
		"the VFIO container":         {uevent(t, "add@/devices/virtual/misc/vfio", "SUBSYSTEM=misc", "DEVNAME=vfio/vfio"), subject{}, false, false},
		"the DPDK driver":            {uevent(t, "add@/bus/pci/drivers/vfio-pci", "SUBSYSTEM=drivers"), subject{kind: subjectDriver}, false, true},
		"another driver":             {uevent(t, "add@/bus/pci/drivers/ixgbe", "SUBSYSTEM=drivers"), subject{}, false, false},
		"a network interface":        {uevent(t, "add@/devices/pci0000:00/0000:00:03.0/virtio0/net/eth0", "SUBSYSTEM=net"), subject{}, false, false},
		"an entry of bus/pci":        {inotify("/s/bus/pci/devices/0000:6b:00.1"), vf, false, true},
		"bus/pci/devices itself":     {inotify("/s/bus/pci/devices"), subject{}, true, true},
		"the driver's directory":     {inotify("/s/bus/pci/drivers/vfio-pci"), subject{kind: subjectDriver}, false, true},
		"another driver's directory": {inotify("/s/bus/pci/drivers/vfio"), subject{kind: subjectDriver}, false, false},
		"a link of a VF":             {inotify("/s/devices/pci0000:6b/0000:6b:00.1/driver"), vf, false, true},
		"a PF's services":            {inotify("/s/devices/pci0000:6b/0000:6b:00.0/qat/cfg_services"), pf, false, true},
		"a PF's debugfs":             {inotify("/s/kernel/debug/qat_4xxx_0000:6b:00.0/heartbeat"), pf, false, true},
		"a PF's debugfs itself":      {inotify("/s/kernel/debug/qat_4xxx_0000:6b:00.0"), pf, false, true},
		"another debugfs":            {inotify("/s/kernel/debug/tracing"), subject{}, false, false},
		"a group's node":             {inotify("/d/vfio/12"), subject{kind: subjectGroup, group: 12}, false, true},
		"a noiommu node":             {inotify("/d/vfio/noiommu-3"), subject{kind: subjectGroup, group: 3}, false, true},
		"/dev/vfio itself":           {inotify("/d/vfio"), subject{kind: subjectNodes}, false, true},
		"a UIO node":                 {inotify("/d/uio4"), subject{kind: subjectNodes}, false, true},
		"another node":               {inotify("/d/null"), subject{}, false, false},
		"a sibling of the root":      {inotify("/sys2/devices/pci0000:6b/0000:6b:00.1"), subject{}, false, false},
	}
	c := classifier{sysfs: "/s", dev: "/d", driver: driverVFIO}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, resync, relevant := c.subject(test.event)
			if !relevant {
				got = test.want
			}
			if got != test.want || resync != test.resync || relevant != test.relevant {
				t.Errorf("subject of %s = %v, resync %v, relevant %v; want %v, %v, %v", test.event.Path, got, resync, relevant, test.want, test.resync, test.relevant)
			}
			if n := testing.AllocsPerRun(100, func() { c.subject(test.event) }); n > 0 {
				t.Errorf("it allocates %v times, want 0: it runs in the reader of a socket", n)
			}
		})
	}
}
