// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

// variations each change one field of a full device, and together all fields but the ID.
var variations = map[string]func(d *devtree.Device){
	"Health":                 func(d *devtree.Device) { d.Health = devtree.Healthy },
	"Reason":                 func(d *devtree.Device) { d.Reason = "in reset" },
	"NUMANodes":              func(d *devtree.Device) { d.NUMANodes = []int{1} },
	"NUMANodes nil":          func(d *devtree.Device) { d.NUMANodes = nil },
	"DeviceNodes":            func(d *devtree.Device) { d.DeviceNodes = append(d.DeviceNodes, d.DeviceNodes[0]) },
	"DeviceNode.HostPath":    func(d *devtree.Device) { d.DeviceNodes[0].HostPath = "/dev/vfio/2" },
	"DeviceNode.Container":   func(d *devtree.Device) { d.DeviceNodes[0].ContainerPath = "/dev/vfio/2" },
	"DeviceNode.Permissions": func(d *devtree.Device) { d.DeviceNodes[0].Permissions = "rw" },
	"Mounts":                 func(d *devtree.Device) { d.Mounts = nil },
	"Mount.HostPath":         func(d *devtree.Device) { d.Mounts[0].HostPath = "/sys/c" },
	"Mount.ContainerPath":    func(d *devtree.Device) { d.Mounts[0].ContainerPath = "/sys/c" },
	"Mount.ReadOnly":         func(d *devtree.Device) { d.Mounts[0].ReadOnly = false },
	"Env name":               func(d *devtree.Device) { d.Env = map[string]string{"B": "1"} },
	"Env value":              func(d *devtree.Device) { d.Env["A"] = "2" },
	"Annotations name":       func(d *devtree.Device) { d.Annotations = map[string]string{"b": "1"} },
	"Annotations value":      func(d *devtree.Device) { d.Annotations["a"] = "2" },
	"Cause":                  func(d *devtree.Device) { d.Cause = "heartbeat" },
	"Cause none":             func(d *devtree.Device) { d.Cause = "" },
	"Attributes string":      func(d *devtree.Device) { d.Attributes["family"] = "6xxx" },
	"Attributes bool":        func(d *devtree.Device) { d.Attributes["sym"] = false },
	"Attributes int":         func(d *devtree.Device) { d.Attributes["resource.kubernetes.io/numaNode"] = int64(0) },
	"Attributes version":     func(d *devtree.Device) { d.Attributes["driverVersion"] = devtree.Version("1.2.4") },
	"Attributes type":        func(d *devtree.Device) { d.Attributes["driverVersion"] = "1.2.3" },
	"Attributes more":        func(d *devtree.Device) { d.Attributes["asym"] = true },
	"Attributes nil":         func(d *devtree.Device) { d.Attributes = nil },
	"CDINames":               func(d *devtree.Device) { d.CDINames = []string{"intel.com/qat=b"} },
	"CDINames nil":           func(d *devtree.Device) { d.CDINames = nil },
	"CDINames longer":        func(d *devtree.Device) { d.CDINames = append(d.CDINames, "intel.com/qat=c") },
}

func TestDeviceEqualComparesEveryField(t *testing.T) {
	if !full("a").Equal(full("a")) {
		t.Error("equal devices differ")
	}
	if full("a").Equal(full("b")) {
		t.Error("devices with different IDs are equal")
	}
	for name, vary := range variations {
		other := full("a")
		vary(other)
		if other.Equal(full("a")) || full("a").Equal(other) {
			t.Errorf("devices with different %s are equal", name)
		}
	}
}

func TestDeviceEqualTreatsNilAndEmptyFieldsAlike(t *testing.T) {
	var none *devtree.Device
	if !none.Equal(nil) || none.Equal(vf("a")) || vf("a").Equal(nil) {
		t.Error("a nil device must only equal nil")
	}
	unset := &devtree.Device{ID: "a", Health: devtree.Healthy}
	empty := &devtree.Device{
		ID:         "a",
		Health:     devtree.Healthy,
		NUMANodes:  []int{},
		Attributes: map[string]any{},
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{},
			Mounts:      []devtree.Mount{},
			Env:         map[string]string{},
			Annotations: map[string]string{},
			CDINames:    []string{},
		},
	}
	if !unset.Equal(empty) {
		t.Error("empty fields differ from unset ones")
	}
}

func TestMergeSkipsDuplicatesAndOverwritesVariables(t *testing.T) {
	first := &devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{"/dev/vfio/1", "/dev/vfio/1", "rw"},
			{"/dev/vfio/vfio", "/dev/vfio/vfio", "rw"},
		},
		Mounts:      []devtree.Mount{{"/a", "/a", true}},
		Env:         map[string]string{"QAT0": "1", "SECTION": "SHIM"},
		Annotations: map[string]string{"a": "1"},
		CDINames:    []string{"intel.com/qat=1"},
	}
	second := &devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{"/dev/vfio/2", "/dev/vfio/2", "rw"},
			{"/dev/vfio/vfio", "/dev/vfio/vfio", "rw"},
		},
		Mounts:      []devtree.Mount{{"/a", "/a", true}, {"/a", "/a", false}},
		Env:         map[string]string{"QAT1": "2", "SECTION": "SSL"},
		Annotations: map[string]string{"a": "2"},
		CDINames:    []string{"intel.com/qat=1", "intel.com/qat=2"},
	}
	want := devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{"/dev/vfio/1", "/dev/vfio/1", "rw"},
			{"/dev/vfio/vfio", "/dev/vfio/vfio", "rw"},
			{"/dev/vfio/2", "/dev/vfio/2", "rw"},
		},
		Mounts:      []devtree.Mount{{"/a", "/a", true}, {"/a", "/a", false}},
		Env:         map[string]string{"QAT0": "1", "QAT1": "2", "SECTION": "SSL"},
		Annotations: map[string]string{"a": "2"},
		CDINames:    []string{"intel.com/qat=1", "intel.com/qat=2"},
	}
	var got devtree.ContainerEdits
	got.Merge(first)
	got.Merge(second)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMergeDoesNotModifySource(t *testing.T) {
	d := treeOf(t, "cy", full("a")).Resource("cy").Device("a")
	var edits devtree.ContainerEdits
	edits.Merge(&d.ContainerEdits)
	edits.Merge(&vf("b").ContainerEdits)
	edits.Env["A"], edits.Annotations["a"] = "changed", "changed"
	edits.DeviceNodes[0].HostPath, edits.Mounts[0].HostPath, edits.CDINames[0] = "changed", "changed", "changed"
	if diff := cmp.Diff(full("a"), d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
