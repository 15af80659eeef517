// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"strings"
	"testing"

	"qatplugin/events"
	"qatplugin/qat/internal/hostwatch"
)

func TestClassify(t *testing.T) {
	const pf = "/devices/pci0000:6b/0000:6b:00.0"
	c := classifier{sysfs: "/sys", dir: "/etc/qat"}
	for _, tt := range []struct {
		name    string
		uevent  []string // DEVPATH and variables; nil: an inotify event
		path    string   // of an inotify event
		want    string
		verdict hostwatch.Verdict
	}{
		{name: "PF", uevent: []string{pf, "SUBSYSTEM=pci", "PCI_ID=8086:4940"}, want: "0000:6b:00.0"},
		{name: "VF", uevent: []string{pf[:len(pf)-1] + "1", "SUBSYSTEM=pci", "PCI_ID=8086:4941"}, want: "0000:6b:00.1"},
		{name: "unbind, without an ID", uevent: []string{pf, "SUBSYSTEM=pci"}, want: "0000:6b:00.0"},
		{name: "another device", uevent: []string{pf, "SUBSYSTEM=pci", "PCI_ID=8086:1592"}},
		{name: "another subsystem", uevent: []string{pf + "/vfio-dev/vfio0", "SUBSYSTEM=vfio-dev"}},
		{name: "attribute", path: "/sys" + pf + "/qat/cfg_services", want: "0000:6b:00.0"},
		{name: "debugfs", path: "/sys/kernel/debug/qat_4xxx_0000:6b:00.0/heartbeat", want: "0000:6b:00.0"},
		{name: "new devices", path: "/sys/bus/pci/devices", verdict: hostwatch.RelevantToAll},
		{name: "configuration", path: "/etc/qat", want: "provisioning configuration"},
		{name: "file of the configuration", path: "/etc/qat/qat.yaml", want: "provisioning configuration"},
		{name: "other file", path: "/etc/qatlib.conf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &events.Event{Origin: events.Inotify, Path: []byte(tt.path)}
			if tt.uevent != nil {
				path := tt.uevent[0]
				fields := append([]string{"change@" + path, "ACTION=change", "DEVPATH=" + path}, tt.uevent[1:]...)
				message := strings.Join(append(fields, "SEQNUM=7", ""), "\x00")
				if err := events.ParseUevent(e, []byte(message)); err != nil {
					t.Fatal(err)
				}
			}
			want := tt.verdict
			if tt.want != "" {
				want = hostwatch.Relevant
			}
			var key Key
			var verdict hostwatch.Verdict
			if n := testing.AllocsPerRun(10, func() { key, verdict = c.classify(e) }); n > 0 {
				t.Errorf("%v allocations", n)
			}
			if verdict != want || tt.want != "" && key.String() != tt.want {
				t.Errorf("%v, %v; want %s, %v", key, verdict, tt.want, want)
			}
		})
	}
}
