package devtree_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

// sick is a device that must not be handed out.
func sick(id string) *devtree.Device {
	d := vf(id)
	d.Health, d.Reason = devtree.Unhealthy, "its PF 0000:6b:00.0 is down"
	return d
}

// everything is a device that uses every field.
func everything(id string) *devtree.Device {
	return &devtree.Device{
		ID: id, Health: devtree.Unhealthy, Reason: "down", NUMANodes: []int{0, 1},
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{{HostPath: "/dev/vfio/1", ContainerPath: "/dev/vfio/1", Permissions: "rwm"}},
			Mounts:      []devtree.Mount{{HostPath: "/sys/a", ContainerPath: "/sys/b", ReadOnly: true}},
			Env:         map[string]string{"A": "1"},
			Annotations: map[string]string{"a": "1"},
			CDINames:    []string{"intel.com/qat=a"},
		},
	}
}

// variations change one field each; together they change every field of a Device.
var variations = map[string]func(d *devtree.Device){
	"Health":                  func(d *devtree.Device) { d.Health = devtree.Healthy },
	"Reason":                  func(d *devtree.Device) { d.Reason = "in reset" },
	"NUMANodes":               func(d *devtree.Device) { d.NUMANodes = []int{1} },
	"no NUMANodes":            func(d *devtree.Device) { d.NUMANodes = nil },
	"DeviceNodes":             func(d *devtree.Device) { d.DeviceNodes = append(d.DeviceNodes, d.DeviceNodes[0]) },
	"DeviceNode.HostPath":     func(d *devtree.Device) { d.DeviceNodes[0].HostPath = "/dev/vfio/2" },
	"DeviceNode.Container":    func(d *devtree.Device) { d.DeviceNodes[0].ContainerPath = "/dev/vfio/2" },
	"DeviceNode.Permissions":  func(d *devtree.Device) { d.DeviceNodes[0].Permissions = "rw" },
	"Mounts":                  func(d *devtree.Device) { d.Mounts = nil },
	"Mount.HostPath":          func(d *devtree.Device) { d.Mounts[0].HostPath = "/sys/c" },
	"Mount.ContainerPath":     func(d *devtree.Device) { d.Mounts[0].ContainerPath = "/sys/c" },
	"Mount.ReadOnly":          func(d *devtree.Device) { d.Mounts[0].ReadOnly = false },
	"name of an Env":          func(d *devtree.Device) { d.Env = map[string]string{"B": "1"} },
	"value of an Env":         func(d *devtree.Device) { d.Env["A"] = "2" },
	"name of an Annotation":   func(d *devtree.Device) { d.Annotations = map[string]string{"b": "1"} },
	"value of an Annotation":  func(d *devtree.Device) { d.Annotations["a"] = "2" },
	"CDINames":                func(d *devtree.Device) { d.CDINames = []string{"intel.com/qat=b"} },
	"no CDINames":             func(d *devtree.Device) { d.CDINames = nil },
	"more in CDINames at end": func(d *devtree.Device) { d.CDINames = append(d.CDINames, "intel.com/qat=c") },
}

func TestDevicesThatDifferInAnyFieldAreNotEqual(t *testing.T) {
	if !everything("a").Equal(everything("a")) {
		t.Error("two that say the same are not equal")
	}
	if everything("a").Equal(everything("b")) {
		t.Error("two of different IDs are equal")
	}
	for name, vary := range variations {
		other := everything("a")
		vary(other)
		if other.Equal(everything("a")) || everything("a").Equal(other) {
			t.Errorf("two of different %s are equal", name)
		}
	}
}

func TestEqualTakesNilAndEmptyForWhatTheyAre(t *testing.T) {
	var none *devtree.Device
	if !none.Equal(nil) || none.Equal(vf("a")) || vf("a").Equal(nil) {
		t.Error("nil equals only nil")
	}
	bare := &devtree.Device{ID: "a", Health: devtree.Healthy}
	empty := &devtree.Device{ID: "a", Health: devtree.Healthy, NUMANodes: []int{}, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{}, Mounts: []devtree.Mount{}, Env: map[string]string{}, Annotations: map[string]string{}, CDINames: []string{},
	}}
	if !bare.Equal(empty) {
		t.Error("an empty list is another thing than none")
	}
}

func TestMergeRepeatsNothingAndTheLaterWins(t *testing.T) {
	first := &devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{{"/dev/vfio/1", "/dev/vfio/1", "rw"}, {"/dev/vfio/vfio", "/dev/vfio/vfio", "rw"}},
		Mounts:      []devtree.Mount{{"/a", "/a", true}},
		Env:         map[string]string{"QAT0": "1", "SECTION": "SHIM"},
		Annotations: map[string]string{"a": "1"},
		CDINames:    []string{"intel.com/qat=1"},
	}
	second := &devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{{"/dev/vfio/2", "/dev/vfio/2", "rw"}, {"/dev/vfio/vfio", "/dev/vfio/vfio", "rw"}},
		Mounts:      []devtree.Mount{{"/a", "/a", true}, {"/a", "/a", false}},
		Env:         map[string]string{"QAT1": "2", "SECTION": "SSL"},
		Annotations: map[string]string{"a": "2"},
		CDINames:    []string{"intel.com/qat=1", "intel.com/qat=2"},
	}
	want := devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{"/dev/vfio/1", "/dev/vfio/1", "rw"}, {"/dev/vfio/vfio", "/dev/vfio/vfio", "rw"}, {"/dev/vfio/2", "/dev/vfio/2", "rw"},
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

func TestMergeLeavesADeviceOfATreeAsItIs(t *testing.T) {
	d := treeOf(t, "cy", everything("a")).Resource("cy").Device("a")
	var edits devtree.ContainerEdits
	edits.Merge(&d.ContainerEdits)
	edits.Merge(&vf("b").ContainerEdits)
	edits.Env["A"], edits.Annotations["a"] = "changed", "changed"
	edits.DeviceNodes[0].HostPath, edits.Mounts[0].HostPath, edits.CDINames[0] = "changed", "changed", "changed"
	if diff := cmp.Diff(everything("a"), d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
