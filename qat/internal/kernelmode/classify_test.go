// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"testing"

	"qatplugin/events"
	"qatplugin/qat/internal/hostwatch"
)

func TestClassify(t *testing.T) {
	const devpath = "/devices/pci0000:3b/0000:3b:00.0"
	m := &mode{reader: reader{sysfs: "/host/sys", dev: "/host/dev", etc: "/host/etc"}}
	function := Key{kind: keyFunction, address: address(t, "0000:3b:00.0")}
	removed := function
	removed.removed = true
	stack, files, none := Key{kind: keyStack}, Key{kind: keyFiles}, Key{}
	// A message is a uevent, a path is an event of inotify.
	for name, test := range map[string]struct {
		message, path string
		want          Key
	}{
		"a function is bound": {
			message: message("bind", devpath, "SUBSYSTEM=pci", "PCI_CLASS=B4000"),
			want:    function,
		},
		"a function behind a bridge changes": {
			message: message("change", "/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0", "SUBSYSTEM=pci"),
			want:    function,
		},
		"a function is removed": {
			message: message("remove", devpath, "SUBSYSTEM=pci", "PCI_CLASS=b4000"),
			want:    removed,
		},
		"a UIO device is added": {
			message: message("add", devpath+"/uio/uio0", "SUBSYSTEM=uio", "DEVNAME=uio0"),
			want:    function,
		},
		"a UIO device is removed": {
			message: message("remove", devpath+"/uio/uio0", "SUBSYSTEM=uio", "DEVNAME=uio0"),
			want:    removed,
		},
		"a UIO device of no function": {
			message: message("add", "/devices/virtual/uio/uio0", "SUBSYSTEM=uio", "DEVNAME=uio0"),
			want:    none,
		},
		"a function of another class": {
			message: message("bind", devpath, "SUBSYSTEM=pci", "PCI_CLASS=20000"),
			want:    none,
		},
		"a function of a class with more digits": {
			message: message("bind", devpath, "SUBSYSTEM=pci", "PCI_CLASS=B40000"),
			want:    none,
		},
		"an IOMMU is added": {
			message: message("add", "/devices/virtual/iommu/dmar0", "SUBSYSTEM=iommu"),
			want:    files,
		},
		"a control node is added": {
			message: message("add", "/devices/virtual/usdm_drv/usdm_drv", "SUBSYSTEM=usdm_drv", "DEVNAME=usdm_drv"),
			want:    stack,
		},
		"another device is added": {
			message: message("add", "/devices/virtual/net/veth0", "SUBSYSTEM=net"),
			want:    none,
		},
		"a configuration file":               {path: "/host/etc/c6xxvf_dev12.conf", want: stack},
		"the directory of the configuration": {path: "/host/etc", want: stack},
		"a ConfigMap":                        {path: "/host/etc/..data", want: stack},
		"an editor's file":                   {path: "/host/etc/.c6xx_dev0.conf.swp", want: none},
		"another file in /etc":               {path: "/host/etc/passwd", want: none},
		"/dev":                               {path: "/host/dev", want: stack},
		"a control node":                     {path: "/host/dev/qat_adf_ctl", want: stack},
		"another control node":               {path: "/host/dev/qat_dev_processes", want: stack},
		"the last control node":              {path: "/host/dev/usdm_drv", want: stack},
		"a UIO node":                         {path: "/host/dev/uio0", want: files},
		"another node":                       {path: "/host/dev/null", want: none},
		"the drivers":                        {path: "/host/sys/bus/pci/drivers", want: files},
		"a driver":                           {path: "/host/sys/bus/pci/drivers/c6xx", want: files},
		"a function of a driver": {
			path: "/host/sys/bus/pci/drivers/c6xx/0000:3b:00.0",
			want: stack,
		},
		"another file of a driver": {
			path: "/host/sys/bus/pci/drivers/c6xx/unbind",
			want: none,
		},
		"the IOMMUs":                              {path: "/host/sys/class/iommu", want: files},
		"an IOMMU":                                {path: "/host/sys/class/iommu/dmar0", want: files},
		"the UIO devices of a function":           {path: "/host/sys" + devpath + "/uio", want: stack},
		"another directory of sysfs":              {path: "/host/sys/class/net", want: none},
		"a directory with the root as its prefix": {path: "/host/system/bus/pci/drivers/c6xx", want: none},
		"another directory":                       {path: "/tmp/c6xx_dev0.conf", want: none},
	} {
		t.Run(name, func(t *testing.T) {
			e := &events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte(test.path)}
			if test.message != "" {
				e = uevent(t, test.message)
			}
			key, verdict := m.Classify(e)
			want := hostwatch.Relevant
			if test.want == none {
				want = hostwatch.Irrelevant
			}
			if key != test.want || verdict != want {
				t.Errorf("got %+v, %v, want %+v, %v", key, verdict, test.want, want)
			}
			if n := testing.AllocsPerRun(100, func() { m.Classify(e) }); n > 0 {
				t.Errorf("it allocates %v times, want 0", n)
			}
		})
	}
}

func TestKeysHaveNames(t *testing.T) {
	for want, key := range map[string]Key{
		"0000:3b:00.0":      {address: address(t, "0000:3b:00.0")},
		"QAT driver stack":  {kind: keyStack},
		"drivers and nodes": {kind: keyFiles},
		"adf_ctl":           {kind: keyAnswer},
	} {
		if got := key.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
