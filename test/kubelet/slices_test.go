// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/apis/resource"
	resourceconversion "k8s.io/kubernetes/pkg/apis/resource/v1"
	"k8s.io/kubernetes/pkg/apis/resource/validation"

	"qatplugin/internal/apitest"
)

// TestAPIServerInMemoryChecksSlicesAsKubernetes compares the rules of the API server that unit
// tests use with the real ones.
func TestAPIServerInMemoryChecksSlicesAsKubernetes(t *testing.T) {
	node, long := "n1", strings.Repeat("x", 65)
	devices := func(n int, taint string) (all []resourcev1.Device) {
		for i := range n {
			d := resourcev1.Device{Name: fmt.Sprintf("d-%d", i)}
			if taint != "" {
				d.Taints = []resourcev1.DeviceTaint{{Key: taint, Effect: resourcev1.DeviceTaintEffectNoSchedule}}
			}
			all = append(all, d)
		}
		return all
	}
	device := func(name string) func(*resourcev1.ResourceSlice) {
		return func(s *resourcev1.ResourceSlice) { s.Spec.Devices = []resourcev1.Device{{Name: name}} }
	}
	attribute := func(name string, value resourcev1.DeviceAttribute) func(*resourcev1.ResourceSlice) {
		return func(s *resourcev1.ResourceSlice) {
			s.Spec.Devices = devices(1, "")
			s.Spec.Devices[0].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
				resourcev1.QualifiedName(name): value,
			}
		}
	}
	taint := func(taint resourcev1.DeviceTaint) func(*resourcev1.ResourceSlice) {
		return func(s *resourcev1.ResourceSlice) {
			s.Spec.Devices = devices(1, "")
			s.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{taint}
		}
	}
	attributes := func(n int) func(*resourcev1.ResourceSlice) {
		return func(s *resourcev1.ResourceSlice) {
			s.Spec.Devices = devices(1, "")
			s.Spec.Devices[0].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}
			for i := range n {
				s.Spec.Devices[0].Attributes[resourcev1.QualifiedName(fmt.Sprintf("a%d", i))] =
					resourcev1.DeviceAttribute{BoolValue: new(true)}
			}
		}
	}
	text := func(s string) resourcev1.DeviceAttribute { return resourcev1.DeviceAttribute{StringValue: &s} }
	version := func(s string) resourcev1.DeviceAttribute { return resourcev1.DeviceAttribute{VersionValue: &s} }
	pool := func(edit func(*resourcev1.ResourcePool)) func(*resourcev1.ResourceSlice) {
		return func(s *resourcev1.ResourceSlice) { edit(&s.Spec.Pool) }
	}
	for _, tt := range []struct {
		name string
		edit func(*resourcev1.ResourceSlice)
	}{
		{"no devices", func(*resourcev1.ResourceSlice) {}},
		{"128 devices", func(s *resourcev1.ResourceSlice) { s.Spec.Devices = devices(128, "") }},
		{"129 devices", func(s *resourcev1.ResourceSlice) { s.Spec.Devices = devices(129, "") }},
		{"64 tainted devices", func(s *resourcev1.ResourceSlice) { s.Spec.Devices = devices(64, "a.b/c") }},
		{"65 devices, one tainted", func(s *resourcev1.ResourceSlice) {
			s.Spec.Devices = append(devices(64, ""), devices(65, "a.b/c")[64])
		}},
		{"two devices of one name", func(s *resourcev1.ResourceSlice) {
			s.Spec.Devices = append(devices(1, ""), devices(1, "")...)
		}},
		{"device with a dot", device("a.b")},
		{"device with a long name", device(long)},
		{"32 attributes", attributes(32)},
		{"33 attributes", attributes(33)},
		{"attribute with a domain", attribute("resource.kubernetes.io/pciBusID", text("0000:6b:00.1"))},
		{"attribute with an empty domain", attribute("/a", text("a"))},
		{"attribute with a bad domain", attribute("a_b/c", text("a"))},
		{"attribute without a name", attribute("a.b/", text("a"))},
		{"attribute that is no identifier", attribute("a-b", text("a"))},
		{"attribute that begins with a digit", attribute("1a", text("a"))},
		{"attribute with a name of 33 bytes", attribute(strings.Repeat("a", 33), text("a"))},
		{"attribute without a value", attribute("a", resourcev1.DeviceAttribute{})},
		{"attribute with two values", attribute("a", resourcev1.DeviceAttribute{
			BoolValue: new(true), IntValue: new(int64(1)),
		})},
		{"text of 64 bytes", attribute("a", text(long[1:]))},
		{"text of 65 bytes", attribute("a", text(long))},
		{"version", attribute("a", version("1.2.3-rc.1+build.5"))},
		{"version of two parts", attribute("a", version("1.2"))},
		{"version with a zero", attribute("a", version("1.02.3"))},
		{"version with a v", attribute("a", version("v1.2.3"))},
		{"taint", taint(resourcev1.DeviceTaint{Key: "a.b/c", Value: "heartbeat", Effect: "NoExecute"})},
		{"taint with the effect None", taint(resourcev1.DeviceTaint{Key: "a", Effect: "None"})},
		{"taint without an effect", taint(resourcev1.DeviceTaint{Key: "a"})},
		{"taint with a bad effect", taint(resourcev1.DeviceTaint{Key: "a", Effect: "PreferNoSchedule"})},
		{"taint without a key", taint(resourcev1.DeviceTaint{Effect: "NoExecute"})},
		{"taint with a bad value", taint(resourcev1.DeviceTaint{Key: "a", Value: "a b", Effect: "NoExecute"})},
		{"taint with a long value", taint(resourcev1.DeviceTaint{Key: "a", Value: long, Effect: "NoExecute"})},
		{"count of zero", pool(func(p *resourcev1.ResourcePool) { p.ResourceSliceCount = 0 })},
		{"generation of zero", pool(func(p *resourcev1.ResourcePool) { p.Generation = 0 })},
		{"negative generation", pool(func(p *resourcev1.ResourcePool) { p.Generation = -1 })},
		{"pool with a bad name", pool(func(p *resourcev1.ResourcePool) { p.Name = "a_b" })},
		{"driver with a bad name", func(s *resourcev1.ResourceSlice) { s.Spec.Driver = "a_b" }},
		{"driver with a long name", func(s *resourcev1.ResourceSlice) { s.Spec.Driver = long }},
		{"no node", func(s *resourcev1.ResourceSlice) { s.Spec.NodeName = nil }},
		{"slice with a bad name", func(s *resourcev1.ResourceSlice) { s.Name = "a_b" }},
		{"owner without a UID", func(s *resourcev1.ResourceSlice) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slice := &resourcev1.ResourceSlice{
				ObjectMeta: metav1.ObjectMeta{Name: "s"},
				Spec: resourcev1.ResourceSliceSpec{
					Driver:   "color.example.com",
					NodeName: &node,
					Pool:     resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1},
				},
			}
			tt.edit(slice)
			internal := &resource.ResourceSlice{}
			convert := resourceconversion.Convert_v1_ResourceSlice_To_resource_ResourceSlice
			if err := convert(slice.DeepCopy(), internal, nil); err != nil {
				t.Fatal(err)
			}
			want := validation.ValidateResourceSlice(internal).ToAggregate()
			if got := apitest.New().AddSlice(slice); (got == nil) != (want == nil) {
				t.Errorf("the API server in memory says %v, Kubernetes %v", got, want)
			}
		})
	}
}
