package devtree_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/devtree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vf is a Healthy device with everything that a real one has.
func vf(id string) *devtree.Device {
	return &devtree.Device{
		ID: id, Health: devtree.Healthy, NUMANodes: []int{0},
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{
				{HostPath: "/dev/vfio/" + id, ContainerPath: "/dev/vfio/" + id, Permissions: "rw"},
				{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
			},
			Env: map[string]string{"QAT0": id},
		},
	}
}

// bdf is the address of the n-th VF of a host.
func bdf(n int) string { return fmt.Sprintf("0000:%02x:%02x.%d", 0x6b+n/256, n/8%32, n%8) }

func mustPut(t testing.TB, b *devtree.Builder, resource string, devices ...*devtree.Device) {
	t.Helper()
	for _, d := range devices {
		if err := b.Put(resource, d); err != nil {
			t.Fatal(err)
		}
	}
}

// treeOf is a Tree with one resource of these devices.
func treeOf(t testing.TB, resource string, devices ...*devtree.Device) *devtree.Tree {
	t.Helper()
	b := new(devtree.Tree).Edit()
	mustPut(t, b, resource, devices...)
	return b.Build()
}
