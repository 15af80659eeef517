// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/deviceattribute"

	"qatplugin/internal/lookalike"
)

// Constraints such as matchAttribute compare the standard attributes of devices of different
// drivers, so the values must be those of Kubernetes' own helper.
func TestStandardAttributesAreThoseOfTheHelper(t *testing.T) {
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	want := map[string]map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{} // by bus ID
	for _, pf := range []lookalike.PF{
		{Address: "0000:6b:00.0", Services: "sym;asym"},
		{Address: "0001:3b:00.0", Services: "dc", Bridge: true},
	} {
		must(t, host.AddPF(pf))
		must(t, host.SetVFs(pf.Address, 2))
		for _, vf := range host.VFs(pf.Address) {
			must(t, host.Bind(vf, "vfio-pci"))
			id, err := deviceattribute.GetPCIBusIDAttribute(vf)
			must(t, err)
			root, err := deviceattribute.GetPCIeRootAttributeByPCIBusID(vf,
				deviceattribute.WithFSFromRoot(host.Sysfs()))
			must(t, err)
			want[vf] = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{id.Name: id.Value, root.Name: root.Value}
		}
	}
	got := map[string]map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}
	for _, s := range startDriver(t, overlay{name: "dra", dir: "qat_dra_driver"}, host).Slices() {
		for _, d := range s.Spec.Devices {
			vf := stringOf(d.Attributes[deviceattribute.StandardDeviceAttributePCIBusID])
			got[vf] = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}
			for name := range want[vf] {
				got[vf][name] = d.Attributes[name]
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("standard attributes (-helper +published):\n%s", diff)
	}
}
