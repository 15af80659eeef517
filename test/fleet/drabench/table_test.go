// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	resourceapi "k8s.io/api/resource/v1"
)

func TestTableShowsEachDriver(t *testing.T) {
	drivers := []driver{{name: "this driver"}, {name: "Intel's driver", static: true}}
	results := []result{{vfs: 64, samples: []samples{
		{
			start: []time.Duration{30 * time.Millisecond, 10 * time.Millisecond}, memory: []int{1024, 2048},
			visible: []time.Duration{4 * time.Millisecond, 6 * time.Millisecond, 5 * time.Millisecond},
			changes: 100, writes: 150, stormWrites: 30, stormed: 3 * time.Second,
			late: []time.Duration{7 * time.Millisecond},
		},
		{start: []time.Duration{time.Second}, memory: []int{512}},
	}}, {vfs: 1024, samples: []samples{{start: []time.Duration{time.Second}, memory: []int{1024}}, {}}}}
	want := "| VFs | measured | this driver | Intel's driver |\n| --- | --- | --- | --- |\n" +
		"| 64 | start to all slices visible, ms | 30.0 | 1000 |\n" +
		"| 64 | change to visible, p50, ms | 5.00 |  |\n" +
		"| 64 | change to visible, p99, ms | 6.00 |  |\n" +
		"| 64 | writes a change | 1.50 |  |\n" +
		"| 64 | storm: writes a second | 10.0 |  |\n" +
		"| 64 | storm: its end to the last write, ms | 7.00 |  |\n" +
		"| 64 | resident memory, MiB | 2.00 | 0.50 |\n" +
		"| 1024 | start to all slices visible, ms | 1000 | none |\n" +
		"| 1024 | change to visible, p50, ms |  |  |\n" +
		"| 1024 | change to visible, p99, ms |  |  |\n" +
		"| 1024 | writes a change |  |  |\n" +
		"| 1024 | storm: writes a second |  |  |\n" +
		"| 1024 | storm: its end to the last write, ms |  |  |\n" +
		"| 1024 | resident memory, MiB | 1.00 | none |\n"
	if got := table(drivers, results); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func TestPoolIsCompleteWithAllSlicesOfOneGeneration(t *testing.T) {
	slice := func(generation, count int64, devices ...string) *resourceapi.ResourceSlice {
		s := &resourceapi.ResourceSlice{}
		s.Spec.Pool = resourceapi.ResourcePool{Generation: generation, ResourceSliceCount: count}
		for _, d := range devices {
			s.Spec.Devices = append(s.Spec.Devices, resourceapi.Device{Name: d})
		}
		return s
	}
	for _, tt := range []struct {
		name   string
		slices []*resourceapi.ResourceSlice
		want   bool
	}{
		{"none", nil, false},
		{"one of two", []*resourceapi.ResourceSlice{slice(1, 2, "a", "b")}, false},
		{"two generations", []*resourceapi.ResourceSlice{slice(1, 2, "a"), slice(2, 2, "b")}, false},
		{"device missing", []*resourceapi.ResourceSlice{slice(1, 1, "a")}, false},
		{"all", []*resourceapi.ResourceSlice{slice(2, 2, "a"), slice(2, 2, "b")}, true},
	} {
		p := &pool{slices: map[string]*resourceapi.ResourceSlice{}}
		for i, s := range tt.slices {
			p.slices[string(rune('a'+i))] = s
		}
		if got := complete(2)(p); got != tt.want {
			t.Errorf("%s: complete is %t", tt.name, got)
		}
	}
	p := &pool{slices: map[string]*resourceapi.ResourceSlice{"x": slice(1, 1, "a", "b")}}
	p.slices["x"].Spec.Devices[1].Taints = []resourceapi.DeviceTaint{{Key: "k"}}
	for device, want := range map[string]bool{"a": false, "b": true} {
		if !tainted(device, want)(p) || tainted(device, !want)(p) {
			t.Errorf("device %s: tainted is not %t", device, want)
		}
	}
	if tainted("c", false)(p) {
		t.Error("a device that does not exist counts as one without a taint")
	}
}
