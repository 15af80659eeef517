// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/deviceattribute"

	"qatplugin/internal/lookalike"
)

type attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute

func TestAttributes(t *testing.T) {
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci", "disable_denylist=1"))
	var vfs []string
	for _, pf := range []lookalike.PF{
		{Address: "0000:3d:00.0", DeviceID: "37c8", NUMANode: -1},
		{Address: "0000:6b:00.0", Services: "sym;asym"},
		{Address: "0001:3b:00.0", Services: "dc", NUMANode: 1, Bridge: true},
	} {
		must(t, host.AddPF(pf))
		must(t, host.SetVFs(pf.Address, 2))
		vfs = append(vfs, host.VFs(pf.Address)...)
	}
	const guest = "0000:05:00.0"
	must(t, host.AddVF(lookalike.VF{Address: guest, NUMANode: -1}))
	vfs = append(vfs, guest)
	for _, vf := range vfs {
		must(t, host.Bind(vf, "vfio-pci"))
	}
	published := map[string]attributes{} // by bus ID
	for _, s := range startDriver(t, overlay{name: "dra", dir: "qat_dra_driver"}, host).Slices() {
		for _, d := range s.Spec.Devices {
			published[stringOf(d.Attributes[deviceattribute.StandardDeviceAttributePCIBusID])] = d.Attributes
		}
	}
	t.Run("standard", func(t *testing.T) { checkStandardAttributes(t, host, vfs, published) })
	t.Run("documented selectors", func(t *testing.T) { checkDocumentedSelectors(t, published) })
}

// checkStandardAttributes compares the standard attributes with those of Kubernetes' own helper.
// Constraints such as matchAttribute compare them between devices of different drivers.
func checkStandardAttributes(t *testing.T, host *lookalike.Host, vfs []string, published map[string]attributes) {
	t.Helper()
	want, got := map[string]attributes{}, map[string]attributes{}
	for _, vf := range vfs {
		id, err := deviceattribute.GetPCIBusIDAttribute(vf)
		must(t, err)
		root, err := deviceattribute.GetPCIeRootAttributeByPCIBusID(vf, deviceattribute.WithFSFromRoot(host.Sysfs()))
		must(t, err)
		want[vf] = attributes{id.Name: id.Value, root.Name: root.Value}
		got[vf] = attributes{id.Name: published[vf][id.Name], root.Name: published[vf][root.Name]}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("standard attributes (-helper +published):\n%s", diff)
	}
}

var celBlock = regexp.MustCompile("(?s)```cel\n(.*?)```")

// checkDocumentedSelectors evaluates the selectors in docs/dra-attributes.md. Each must match some
// of the devices and not all, without an error for any.
func checkDocumentedSelectors(t *testing.T, published map[string]attributes) {
	t.Helper()
	text, err := os.ReadFile("../../docs/dra-attributes.md")
	must(t, err)
	blocks := celBlock.FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("there are no selectors")
	}
	for _, block := range blocks {
		expression, matches := string(block[1]), 0
		for _, a := range published {
			if matchesDevice(t, expression, inCEL(driverName, &resourcev1.Device{Attributes: a})) {
				matches++
			}
		}
		if matches == 0 || matches == len(published) {
			t.Errorf("%d of %d devices match\n%s", matches, len(published), expression)
		}
	}
}
