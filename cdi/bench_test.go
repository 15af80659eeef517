// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/klog/v2"
	cdilib "tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
)

// benchDevice returns a device like a VF: a node of its own and a shared one.
func benchDevice(id string) *devtree.Device {
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/color/" + id, ContainerPath: "/dev/color/" + id, Permissions: "rw"},
			{HostPath: "/dev/color/all", ContainerPath: "/dev/color/all", Permissions: "rw"},
		},
	}}
}

// BenchmarkOneChange gives one device of many another node: its spec is written, and
// the Tree published.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			config := Config{Dir: b.TempDir(), Vendor: vendor, Class: "vf"}
			disk := disk{replaceFile, removeFile, noWatch}
			s := newSyncer(config, program, klog.Logger{}, func(*devtree.Tree) {}, disk, func() {})
			tree := new(devtree.Tree)
			for i := range n {
				tree = with(b, tree, "yellow", benchDevice(fmt.Sprintf("%04d", i)))
			}
			s.sync(tree)
			for i := 0; b.Loop(); i++ {
				d := benchDevice("0000")
				d.DeviceNodes[0].HostPath = fmt.Sprintf("/dev/color/%d", i)
				tree = with(b, tree, "yellow", d)
				if found := s.sync(tree); len(found) > 0 {
					b.Fatal(found)
				}
			}
		})
	}
}

// BenchmarkRuntimeReadsSpecs measures what a container runtime does when one spec of
// 1024 devices has changed: it reads all of them (cdi.Cache, refresh). This is why all
// devices of a class are in one file.
func BenchmarkRuntimeReadsSpecs(b *testing.B) {
	const n = 1024
	var list []*entry
	for i := range n {
		s, err := newEntry("vf", benchDevice(fmt.Sprintf("0000:6b:%02x.%d", i/8, i%8)))
		if err != nil {
			b.Fatal(err)
		}
		list = append(list, s)
	}
	for _, files := range []int{1, n} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			dir := b.TempDir()
			for i := range files {
				part := list[i*n/files : (i+1)*n/files]
				path := filepath.Join(dir, fmt.Sprintf("%d.json", i))
				if err := os.WriteFile(path, specText(vendor+"/vf", part), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			cache, err := cdilib.NewCache(cdilib.WithSpecDirs(dir), cdilib.WithAutoRefresh(false))
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

// BenchmarkFilePerDevice writes a file for one device, to compare with BenchmarkOneChange.
func BenchmarkFilePerDevice(b *testing.B) {
	path := filepath.Join(b.TempDir(), "one.json")
	s, err := newEntry("vf", benchDevice("0000"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := replaceFile(path, specText(vendor+"/vf", []*entry{s})); err != nil {
			b.Fatal(err)
		}
	}
}
