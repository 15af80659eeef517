// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/test/kubelet/devicemanager"
)

// anyOrder ignores the order of edits, because the device manager requests devices in no particular
// order.
func anyOrder() cmp.Options {
	return cmp.Options{
		cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b devtree.DeviceNode) bool { return a.HostPath < b.HostPath }),
		cmpopts.SortSlices(func(a, b devtree.Mount) bool { return a.HostPath < b.HostPath }),
		cmpopts.SortSlices(strings.Compare),
	}
}

// podOf returns a pod with one container, c, that requests devices of the resource generic.
func podOf(name string, devices int64) *v1.Pod {
	return devicemanager.Pod(name, devicemanager.Container("c", generic, devices))
}

// wantAssigned checks which devices of the resource generic the container c of a pod has.
func (n *node) wantAssigned(pod *v1.Pod, numbers ...int) {
	n.t.Helper()
	if diff := cmp.Diff(deviceIDs(numbers...), n.Assigned(pod, "c", generic)); diff != "" {
		n.t.Errorf("devices of pod %q (-want +got):\n%s", pod.Name, diff)
	}
}

func TestContainerGetsEditsOfItsDevices(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, func(b *devtree.Builder) error {
		for i := range 2 {
			d := device(i, devtree.Healthy)
			d.Annotations = map[string]string{"example.com/" + string('a'+rune(i)): d.ID}
			d.CDINames = []string{"intel.com/qat=" + string('a'+rune(i))}
			d.Mounts = []devtree.Mount{{HostPath: "/etc/shared", ContainerPath: "/etc/inside", ReadOnly: true}}
			if err := b.Put("generic", d); err != nil {
				return err
			}
		}
		return nil
	})
	n.startPlugin(p)
	n.wantCount(generic, 2, 2)

	pod := podOf("pod", 2)
	got := n.mustRun(pod, "c")
	want := &devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/vfio/0", ContainerPath: "/dev/vfio/0", Permissions: "rw"},
			{HostPath: "/dev/vfio/1", ContainerPath: "/dev/vfio/1", Permissions: "rw"},
			{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
		},
		Mounts:      []devtree.Mount{{HostPath: "/etc/shared", ContainerPath: "/etc/inside", ReadOnly: true}},
		Env:         map[string]string{"DEVICE_0": deviceID(0), "DEVICE_1": deviceID(1)},
		Annotations: map[string]string{"example.com/a": deviceID(0), "example.com/b": deviceID(1)},
		CDINames:    []string{"intel.com/qat=a", "intel.com/qat=b"},
	}
	if diff := cmp.Diff(want, got, anyOrder()); diff != "" {
		t.Errorf("edits of the container (-want +got):\n%s", diff)
	}
	n.wantAssigned(pod, 0, 1)
}

func TestContainersOfPodHaveSeparateEnvironments(t *testing.T) {
	n, _ := serveDevices(t, &fakePlugin{}, 2)
	pod := devicemanager.Pod("pod", devicemanager.Container("a", generic, 1), devicemanager.Container("b", generic, 1))
	a, b := n.mustRun(pod, "a").Env, n.mustRun(pod, "b").Env
	if len(a) != 1 || len(b) != 1 || maps.Equal(a, b) {
		t.Errorf("environments are %v and %v, want one variable each, of different devices", a, b)
	}
}

func TestOnlyHealthyDevicesAreAllocated(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, putDevices("generic", 8, devtree.Unhealthy))
	p.edit(t, func(b *devtree.Builder) error { return b.Put("generic", device(5, devtree.Healthy)) })
	n.startPlugin(p)
	n.wantCount(generic, 8, 1)

	if err := n.Admit(podOf("rejected", 2)); err == nil {
		t.Error("a pod that requests two devices was admitted, with one healthy device")
	}
	pod := podOf("pod", 1)
	n.mustRun(pod, "c")
	n.wantAssigned(pod, 5)
}

func TestDevicesAreAlignedToNUMANode(t *testing.T) {
	n, _ := serveDevices(t, &fakePlugin{}, 8) // those with even numbers are on node 0, the others on node 1
	pod := podOf("pod", 4)
	n.Align(pod, 1)
	n.mustRun(pod, "c")
	n.wantAssigned(pod, 1, 3, 5, 7)
}

func TestDevicesOfRemovedPodAreFree(t *testing.T) {
	n, _ := serveDevices(t, &fakePlugin{}, 4)
	for range 3 {
		pod := podOf("pod", 4)
		n.mustRun(pod, "c")
		if err := n.Admit(podOf("late", 1)); err == nil {
			t.Error("a device was allocated twice")
		}
		n.Remove(pod)
	}
}

func TestAllocationSurvivesKubeletRestart(t *testing.T) {
	n, tree := serveDevices(t, &fakePlugin{}, 4)
	pod := podOf("pod", 2)
	before := n.mustRun(pod, "c")
	assigned := n.Assigned(pod, "c", generic)

	n.restart()
	n.wantTree(tree)
	after, err := n.StartContainer(t.Context(), pod, "c")
	must(t, err)
	if diff := cmp.Diff(before, after, anyOrder()); diff != "" {
		t.Errorf("edits of the container (-before +after the restart):\n%s", diff)
	}
	other := podOf("other", 2)
	n.mustRun(other, "c")
	for _, id := range n.Assigned(other, "c", generic) {
		if slices.Contains(assigned, id) {
			t.Errorf("device %s was allocated twice", id)
		}
	}
}

// allocatingPlugin decides what containers get.
type allocatingPlugin struct {
	fakePlugin
	allocate func(devices []*devtree.Device) (*devtree.ContainerEdits, error)
}

func (p *allocatingPlugin) Allocate(
	_ context.Context, _ string, devices []*devtree.Device,
) (*devtree.ContainerEdits, error) {
	return p.allocate(devices)
}

func (p *allocatingPlugin) PostAllocate(
	_ context.Context, resource string, _ []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	edits.Annotations = map[string]string{"example.com/resource": resource}
	return nil
}

func TestContainerGetsEditsOfAllocator(t *testing.T) {
	for _, test := range []struct {
		name     string
		allocate func([]*devtree.Device) (*devtree.ContainerEdits, error)
		want     devtree.ContainerEdits
	}{
		{
			"edits of its own",
			func(devices []*devtree.Device) (*devtree.ContainerEdits, error) {
				return &devtree.ContainerEdits{Env: map[string]string{"QAT0": devices[0].ID}}, nil
			},
			devtree.ContainerEdits{Env: map[string]string{"QAT0": deviceID(0)}},
		},
		{
			"the edits of the devices",
			func([]*devtree.Device) (*devtree.ContainerEdits, error) { return nil, kubeletapi.ErrUseDefault },
			device(0, devtree.Healthy).ContainerEdits,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, _ := serveDevices(t, &allocatingPlugin{allocate: test.allocate}, 1)
			test.want.Annotations = map[string]string{"example.com/resource": "generic"}
			if diff := cmp.Diff(&test.want, n.mustRun(podOf("pod", 1), "c"), anyOrder()); diff != "" {
				t.Errorf("edits of the container (-want +got):\n%s", diff)
			}
		})
	}
}
