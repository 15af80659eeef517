// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/devtree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vf returns a Healthy device with the fields that a QAT VF sets.
func vf(id string) *devtree.Device {
	return &devtree.Device{
		ID:        id,
		Health:    devtree.Healthy,
		NUMANodes: []int{0},
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{
				{HostPath: "/dev/vfio/" + id, ContainerPath: "/dev/vfio/" + id, Permissions: "rw"},
				{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
			},
			Env: map[string]string{"QAT0": id},
		},
	}
}

// unhealthy returns the vf as an Unhealthy device.
func unhealthy(id string) *devtree.Device {
	d := vf(id)
	d.Health, d.Reason = devtree.Unhealthy, "its PF 0000:6b:00.0 is down"
	return d
}

// full returns a device that sets every field.
func full(id string) *devtree.Device {
	return &devtree.Device{
		ID:        id,
		Health:    devtree.Unhealthy,
		Reason:    "down",
		NUMANodes: []int{0, 1},
		Cause:     "pf-down",
		Attributes: map[string]any{
			"family":                          "4xxx",
			"sym":                             true,
			"resource.kubernetes.io/numaNode": int64(1),
			"driverVersion":                   devtree.Version("1.2.3"),
		},
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{
				{HostPath: "/dev/vfio/1", ContainerPath: "/dev/vfio/1", Permissions: "rwm"},
			},
			Mounts:      []devtree.Mount{{HostPath: "/sys/a", ContainerPath: "/sys/b", ReadOnly: true}},
			Env:         map[string]string{"A": "1"},
			Annotations: map[string]string{"a": "1"},
			CDINames:    []string{"intel.com/qat=a"},
		},
	}
}

// bdf returns the PCI address of the n-th VF of a host.
func bdf(n int) string { return fmt.Sprintf("0000:%02x:%02x.%d", 0x6b+n/256, n/8%32, n%8) }

func mustPut(t testing.TB, b *devtree.Builder, resource string, devices ...*devtree.Device) {
	t.Helper()
	for _, d := range devices {
		if err := b.Put(resource, d); err != nil {
			t.Fatal(err)
		}
	}
}

// treeOf returns a Tree with one resource that has these devices.
func treeOf(t testing.TB, resource string, devices ...*devtree.Device) *devtree.Tree {
	t.Helper()
	b := new(devtree.Tree).Edit()
	mustPut(t, b, resource, devices...)
	return b.Build()
}
