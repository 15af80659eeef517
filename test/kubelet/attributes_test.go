// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/kubernetes/pkg/apis/resource"
	"k8s.io/kubernetes/pkg/apis/resource/validation"

	"qatplugin/devtree"
)

// sliceOf returns a ResourceSlice with a device that has these attributes, and a taint with the
// cause as its value.
func sliceOf(attributes map[string]any, cause string) *resource.ResourceSlice {
	node := "node"
	d := resource.Device{
		Name:       "device",
		Attributes: map[resource.QualifiedName]resource.DeviceAttribute{},
		Taints:     []resource.DeviceTaint{{Key: "qat.intel.com/unhealthy", Value: cause, Effect: "NoSchedule"}},
	}
	for name, value := range attributes {
		var a resource.DeviceAttribute
		switch v := value.(type) {
		case bool:
			a.BoolValue = &v
		case int64:
			a.IntValue = &v
		case string:
			a.StringValue = &v
		case devtree.Version:
			text := string(v)
			a.VersionValue = &text
		}
		d.Attributes[resource.QualifiedName(name)] = a
	}
	s := &resource.ResourceSlice{Spec: resource.ResourceSliceSpec{
		Driver:   "qat.intel.com",
		Pool:     resource.ResourcePool{Name: node, ResourceSliceCount: 1},
		NodeName: &node,
		Devices:  []resource.Device{d},
	}}
	s.Name = "slice"
	return s
}

// A device that the API server rejects makes it reject the whole slice, so a Tree must not have
// such a device.
func TestTreesHaveOnlyDevicesThatTheAPIServerAccepts(t *testing.T) {
	if rejected := validation.ValidateResourceSlice(sliceOf(nil, "a")); len(rejected) > 0 {
		t.Fatalf("not even a device without attributes is accepted: %v", rejected)
	}
	long := strings.Repeat("x", 65)
	texts := []string{
		"", "a", "A1", "_", "1", "-", "a-b", "a_b", "a.b", "a b", "größe", "\xff", ".a", "a.", "a..b", "-a", "a-",
		"a\n",
		"0000:6b:00.1", "sym;asym", "1.2.3", "1.2", "01.2.3", "v1.2.3", "1.2.3-", "1.2.3-rc.1", "1.2.3-01",
		"1.2.3+01", "1.2.3-a+b.c", "1.2.3+", "1.2.3\n", "1.2.3-ä", "1.2.3-" + long[:58], "1.2.3-" + long[:59],
		long[:32], long[:33], long[:63], long[:64], long,
	}
	check := func(what string, attributes map[string]any, cause string) {
		d := &devtree.Device{ID: "a", Health: devtree.Unhealthy, Reason: "down", Cause: cause, Attributes: attributes}
		err := new(devtree.Tree).Edit().Put("cy", d)
		rejected := validation.ValidateResourceSlice(sliceOf(attributes, cause))
		if (err == nil) != (len(rejected) == 0) {
			t.Errorf("%s: Put returned %v, and the API server's validation %v", what, err, rejected)
		}
	}
	for _, a := range texts {
		check(fmt.Sprintf("cause %q", a), nil, a)
		check(fmt.Sprintf("version %q", a), map[string]any{"v": devtree.Version(a)}, "")
		check(fmt.Sprintf("name %q", a), map[string]any{a: int64(1)}, "")
		for _, b := range texts {
			check(fmt.Sprintf("name %q/%q", a, b), map[string]any{a + "/" + b: true}, "")
		}
		if a != "\xff" { // which JSON and protocol buffers cannot carry, and validation does not see
			check(fmt.Sprintf("string %q", a), map[string]any{"s": a}, "")
		}
	}
	for _, n := range []int{0, 31, 32, 33} {
		attributes := map[string]any{}
		for i := range n {
			attributes[fmt.Sprint("a", i)] = true
		}
		check(fmt.Sprintf("%d attributes", n), attributes, "")
	}
}
