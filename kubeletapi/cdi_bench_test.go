package kubeletapi

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
)

// One device of many gets another node: its spec is written, and the Tree handed on.
func BenchmarkCDIOneChange(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			c := newCDISpecs(&config{cdiDir: b.TempDir(), cdiClass: "vf"}, namespace, klog.Logger{}, func(*devtree.Tree) {})
			builder := new(devtree.Tree).Edit()
			for i := range n {
				put(b, builder, "yellow", device(fmt.Sprintf("%04d", i)))
			}
			c.bring(builder.Build())
			for i := 0; b.Loop(); i++ {
				d := device("0000")
				d.DeviceNodes[0].HostPath = fmt.Sprintf("/dev/color/%d", i)
				put(b, builder, "yellow", d)
				if !c.bring(builder.Build()) {
					b.Fatal("not written")
				}
			}
		})
	}
}

// What a container runtime has to do when one spec of 1024 devices changed: it reads them all (cdi.Cache, refresh). This is why all devices of a
// class are in one file.
func BenchmarkRuntimeReadsSpecs(b *testing.B) {
	const n = 1024
	var devices []*cdiDevice
	for i := range n {
		d, err := newCDIDevice("vf", device(fmt.Sprintf("0000:6b:%02x.%d", i/8, i%8)))
		if err != nil {
			b.Fatal(err)
		}
		devices = append(devices, d)
	}
	for _, files := range []int{1, n} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			dir := b.TempDir()
			for i := range files {
				part := devices[i*n/files : (i+1)*n/files]
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), specText(namespace, "vf", part), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			cache, err := cdi.NewCache(cdi.WithSpecDirs(dir), cdi.WithAutoRefresh(false))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := cache.Refresh(); err != nil || len(cache.ListDevices()) != n {
					b.Fatal(err, len(cache.ListDevices()))
				}
			}
		})
	}
}

// The same change with a file for each device, to compare with BenchmarkCDIOneChange.
func BenchmarkCDIFilePerDevice(b *testing.B) {
	path := filepath.Join(b.TempDir(), "one.json")
	d, err := newCDIDevice("vf", device("0000"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := replaceFile(path, specText(namespace, "vf", []*cdiDevice{d})); err != nil {
			b.Fatal(err)
		}
	}
}
