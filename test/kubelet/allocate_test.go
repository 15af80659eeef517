package kubelet

import (
	"context"
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

// sorted compares edits whatever the order in which the device manager, which keeps sets, handed over the devices.
func sorted() cmp.Options {
	return cmp.Options{
		cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b devtree.DeviceNode) bool { return a.HostPath < b.HostPath }),
		cmpopts.SortSlices(func(a, b devtree.Mount) bool { return a.HostPath < b.HostPath }),
		cmpopts.SortSlices(strings.Compare),
	}
}

func TestContainerGetsItsDevicesEdits(t *testing.T) {
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

	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 2))
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
	if diff := cmp.Diff(want, got, sorted()); diff != "" {
		t.Errorf("container's edits (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{deviceID(0), deviceID(1)}, n.Assigned(pod, "c", generic)); diff != "" {
		t.Errorf("container's devices (-want +got):\n%s", diff)
	}
}

// mustRun admits the pod and starts the container.
func (n *node) mustRun(pod *v1.Pod, container string) *devtree.ContainerEdits {
	n.t.Helper()
	if err := n.Admit(pod); err != nil {
		n.t.Fatal(err)
	}
	edits, err := n.StartContainer(n.t.Context(), pod, container)
	if err != nil {
		n.t.Fatal(err)
	}
	if edits == nil {
		n.t.Fatalf("container %q of pod %q got no devices", container, pod.Name)
	}
	return edits
}

func TestEnvironmentOfTwoContainersIsNotMixed(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 2))
	n.startPlugin(p)
	n.wantCount(generic, 2, 2)
	pod := devicemanager.Pod("pod", devicemanager.Container("a", generic, 1), devicemanager.Container("b", generic, 1))
	a, b := n.mustRun(pod, "a"), n.mustRun(pod, "b")
	for name, value := range a.Env {
		if _, both := b.Env[name]; both || len(a.Env) != 1 || len(b.Env) != 1 {
			t.Errorf("%s=%s: containers have %v and %v, want one variable each, of different devices", name, value, a.Env, b.Env)
		}
	}
}

func TestOnlyHealthyDevicesAreGiven(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, func(b *devtree.Builder) error {
		for i := range 8 {
			health := devtree.Unhealthy
			if i == 5 {
				health = devtree.Healthy
			}
			if err := b.Put("generic", device(i, health)); err != nil {
				return err
			}
		}
		return nil
	})
	n.startPlugin(p)
	n.wantCount(generic, 8, 1)

	if err := n.Admit(devicemanager.Pod("greedy", devicemanager.Container("c", generic, 2))); err == nil {
		t.Error("a pod that wants two devices where one is healthy was admitted")
	}
	pod := devicemanager.Pod("modest", devicemanager.Container("c", generic, 1))
	n.mustRun(pod, "c")
	if diff := cmp.Diff([]string{deviceID(5)}, n.Assigned(pod, "c", generic)); diff != "" {
		t.Errorf("container's devices (-want +got):\n%s", diff)
	}
}

func TestNUMANodesAreHonoured(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 8)) // even ones on node 0, odd ones on node 1
	n.startPlugin(p)
	n.wantCount(generic, 8, 8)
	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 4))
	n.Align(pod, 1)
	n.mustRun(pod, "c")
	if diff := cmp.Diff([]string{deviceID(1), deviceID(3), deviceID(5), deviceID(7)}, n.Assigned(pod, "c", generic)); diff != "" {
		t.Errorf("devices of a pod on NUMA node 1 (-want +got):\n%s", diff)
	}
}

func TestDevicesOfARemovedPodAreFree(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 4))
	n.startPlugin(p)
	n.wantCount(generic, 4, 4)
	for range 3 {
		pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 4))
		n.mustRun(pod, "c")
		if err := n.Admit(devicemanager.Pod("late", devicemanager.Container("c", generic, 1))); err == nil {
			t.Error("a device was given twice")
		}
		n.Remove(pod)
	}
}

func TestAllocationSurvivesAKubeletRestart(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 4))
	n.startPlugin(p)
	n.wantTree(tree)
	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 2))
	before := n.mustRun(pod, "c")
	had := n.Assigned(pod, "c", generic)

	n.restart()
	n.wantTree(tree)
	after, err := n.StartContainer(t.Context(), pod, "c")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after, sorted()); diff != "" {
		t.Errorf("container's edits (-before +after the restart):\n%s", diff)
	}
	other := devicemanager.Pod("other", devicemanager.Container("c", generic, 2))
	n.mustRun(other, "c")
	for _, id := range n.Assigned(other, "c", generic) {
		if slices.Contains(had, id) {
			t.Errorf("device %s was given twice", id)
		}
	}
}

// annotatingPlugin adds to what each container gets.
type annotatingPlugin struct {
	fakePlugin
	own func(devices []*devtree.Device) (*devtree.ContainerEdits, error)
}

func (p *annotatingPlugin) Allocate(_ context.Context, _ string, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
	return p.own(devices)
}

func (p *annotatingPlugin) PostAllocate(_ context.Context, resource string, _ []*devtree.Device, edits *devtree.ContainerEdits) error {
	edits.Annotations = map[string]string{"example.com/resource": resource}
	return nil
}

func TestPluginDecidesWhatAContainerGets(t *testing.T) {
	def := device(0, devtree.Healthy).ContainerEdits
	tests := []struct {
		name string
		own  func([]*devtree.Device) (*devtree.ContainerEdits, error)
		want devtree.ContainerEdits
	}{
		{"its own edits", func(devices []*devtree.Device) (*devtree.ContainerEdits, error) {
			return &devtree.ContainerEdits{Env: map[string]string{"QAT0": devices[0].ID}}, nil
		}, devtree.ContainerEdits{Env: map[string]string{"QAT0": deviceID(0)}}},
		{"the devices' edits", func([]*devtree.Device) (*devtree.ContainerEdits, error) {
			return nil, kubeletapi.ErrUseDefault
		}, def},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, p := startNode(t), &annotatingPlugin{own: tt.own}
			p.edit(t, healthyDevices("generic", 1))
			n.startPlugin(p)
			n.wantCount(generic, 1, 1)
			tt.want.Annotations = map[string]string{"example.com/resource": "generic"}
			got := n.mustRun(devicemanager.Pod("pod", devicemanager.Container("c", generic, 1)), "c")
			if diff := cmp.Diff(&tt.want, got, sorted()); diff != "" {
				t.Errorf("container's edits (-want +got):\n%s", diff)
			}
		})
	}
}
