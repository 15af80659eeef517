package qat

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
)

func TestWhatAContainerGets(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	must(t, h.Bind(vfA1, driverVFIO))
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	group := *f.functions[Address{Bus: 0x6b, Function: 1}].Group
	node := fmt.Sprintf("/dev/vfio/%d", group)
	want := &devtree.Device{
		ID: vfA1, Health: devtree.Healthy, NUMANodes: []int{1},
		ContainerEdits: devtree.ContainerEdits{DeviceNodes: []devtree.DeviceNode{
			{HostPath: node, ContainerPath: node, Permissions: "rw"},
			{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
		}},
	}
	if diff := cmp.Diff(want, f.tree.Resource("cy").Device(vfA1)); diff != "" {
		t.Errorf("device (-want +got):\n%s", diff)
	}
}

func TestWhatAContainerGetsThroughUIO(t *testing.T) {
	h, err := lookalike.New(t.TempDir())
	must(t, err)
	must(t, h.LoadDriver(driverUIO))
	must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0", NUMANode: -1}))
	must(t, h.Bind("0000:00:05.0", driverUIO))
	f := newFoldOf(h, 0)
	f.host.dpdkDriver = driverUIO
	must(t, f.lookAtAll(time.Now()))
	want := &devtree.Device{
		ID: "0000:00:05.0", Health: devtree.Healthy,
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{{HostPath: "/dev/uio0", ContainerPath: "/dev/uio0", Permissions: "rw"}},
			Mounts:      []devtree.Mount{{HostPath: "/sys/class/uio/uio0/device", ContainerPath: "/sys/class/uio/uio0/device"}},
		},
	}
	if diff := cmp.Diff(want, f.tree.Resource("generic").Device("0000:00:05.0")); diff != "" {
		t.Errorf("device (-want +got):\n%s", diff)
	}
}

func TestVFIOInterface(t *testing.T) {
	group := []devtree.DeviceNode{
		{HostPath: "/dev/vfio/G", ContainerPath: "/dev/vfio/G", Permissions: "rw"},
		{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
	}
	cdev := []devtree.DeviceNode{
		{HostPath: "/dev/vfio/devices/vfio0", ContainerPath: "/dev/vfio/devices/vfio0", Permissions: "rw"},
		{HostPath: "/dev/iommu", ContainerPath: "/dev/iommu", Permissions: "rw"},
	}
	const onlyCdev, onlyGroup, both = 1, 2, 3
	tests := map[string]struct {
		kernel int
		flag   string
		want   []devtree.DeviceNode // nil: not listed
	}{
		"auto is the group when both are there":   {both, vfioAuto, group},
		"auto is the cdev of a kernel without":    {onlyCdev, vfioAuto, cdev},
		"auto is the group of an old kernel":      {onlyGroup, vfioAuto, group},
		"cdev is the cdev":                        {both, vfioCdev, cdev},
		"group is the group":                      {both, vfioGroup, group},
		"cdev on an old kernel lists nothing":     {onlyGroup, vfioCdev, nil},
		"group on a kernel without lists nothing": {onlyCdev, vfioGroup, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var opts []lookalike.Option
			if test.kernel != onlyGroup {
				opts = append(opts, lookalike.WithIOMMUFD())
			}
			h := newHost4xxx(t, opts...)
			must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
			must(t, h.Bind(vfA1, driverVFIO))
			if test.kernel != onlyGroup {
				must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o644))
			}
			f := newFoldOf(h, 0)
			f.host.vfio = test.flag
			fn, err := f.host.look(Address{Bus: 0x6b, Function: 1})
			must(t, err)
			node := fmt.Sprintf("vfio/%d", *fn.Group)
			if test.kernel == onlyCdev {
				must(t, os.Remove(filepath.Join(h.Dev(), node)))
			}
			must(t, f.lookAtAll(time.Now()))
			var got []devtree.DeviceNode
			if d := f.tree.Resource("cy").Device(vfA1); d != nil {
				got = d.DeviceNodes
			}
			var want []devtree.DeviceNode
			for _, n := range test.want {
				n.HostPath, n.ContainerPath = strings.Replace(n.HostPath, "vfio/G", node, 1), strings.Replace(n.ContainerPath, "vfio/G", node, 1)
				want = append(want, n)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestALimitKeepsThePlaceOfWhatIsListed(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 8))
	vfs := h.VFs(pfA)
	for _, vf := range vfs[4:] {
		must(t, h.Bind(vf, driverVFIO))
	}
	f := newFoldOf(h, 4)
	look := func() []string {
		t.Helper()
		must(t, f.lookAtAll(time.Now()))
		return lists(f.tree)["cy"]
	}
	if diff := cmp.Diff(vfs[4:], look()); diff != "" {
		t.Fatalf("at first (-want +got):\n%s", diff)
	}
	for _, vf := range vfs[:4] {
		must(t, h.Bind(vf, driverVFIO)) // lower addresses, but later
	}
	if diff := cmp.Diff(vfs[4:], look()); diff != "" {
		t.Fatalf("when more came (-want +got):\n%s", diff)
	}
	hidden := slices.Sorted(maps.Values(f.left))
	if want := slices.Repeat([]string{"hidden by -max-num-devices=4"}, 4); !slices.Equal(hidden, want) {
		t.Errorf("why the others are not listed: %q, want %q", hidden, want)
	}
	must(t, h.Unbind(vfs[6]))
	if diff := cmp.Diff([]string{vfs[0], vfs[4], vfs[5], vfs[7]}, look()); diff != "" {
		t.Errorf("when one went, the lowest of the hidden takes its place (-want +got):\n%s", diff)
	}
}

func TestFamiliesThatAreNotServedAreLeftAlone(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 2))
	bindAll(t, h, pfA, driverVFIO)
	f := newFoldOf(h, 0)
	f.vfDrivers = map[string]bool{"c6xxvf": true}
	must(t, f.lookAtAll(time.Now()))
	if diff := cmp.Diff(map[string][]string{}, lists(f.tree)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}
