package devicemanager

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager/bitmask"

	"qatplugin/devtree"
)

// Pod makes a pod of that name, which is also its UID.
func Pod(name string, containers ...v1.Container) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Containers: containers}}
}

// Container makes a container that asks for n devices of the resource.
func Container(name, resourceName string, n int64) v1.Container {
	limits := v1.ResourceList{v1.ResourceName(resourceName): *resource.NewQuantity(n, resource.DecimalSI)}
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: limits}}
}

// Admit takes the pod in as a kubelet does: devices are chosen and allocated for each init container and container, in their order.
// When that fails for one, the pod is refused and what it got before is free again.
func (m *Manager) Admit(pod *v1.Pod) error {
	m.pods.Lock()
	defer m.pods.Unlock()
	r := m.current()
	if r == nil {
		return fmt.Errorf("admit pod %q: %w", pod.Name, ErrStopped)
	}
	m.mu.Lock()
	m.active[pod.UID] = pod
	m.mu.Unlock()
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if err := r.impl.Allocate(pod, &c); err != nil {
			m.forget(pod)
			r.impl.UpdateAllocatedDevices()
			return fmt.Errorf("admit pod %q: container %q: %w", pod.Name, c.Name, err)
		}
	}
	return nil
}

// Remove ends the pod: its devices are free for others.
func (m *Manager) Remove(pod *v1.Pod) {
	m.pods.Lock()
	defer m.pods.Unlock()
	m.forget(pod)
	if r := m.current(); r != nil {
		r.impl.UpdateAllocatedDevices()
	}
}

func (m *Manager) forget(pod *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.active, pod.UID)
	delete(m.affinity, pod.UID)
}

// StartContainer is what a kubelet does when it starts the container of an admitted pod: PreStartContainer, when the plugin asked for it, then
// GetDeviceRunContainerOptions. The result is what the container runtime is handed for the devices, nil when the container has none.
func (m *Manager) StartContainer(ctx context.Context, pod *v1.Pod, container string) (*devtree.ContainerEdits, error) {
	m.pods.Lock()
	defer m.pods.Unlock()
	r := m.current()
	if r == nil {
		return nil, fmt.Errorf("start container %q of pod %q: %w", container, pod.Name, ErrStopped)
	}
	c, err := find(pod, container)
	if err != nil {
		return nil, fmt.Errorf("start container %q of pod %q: %w", container, pod.Name, err)
	}
	options, err := r.impl.GetDeviceRunContainerOptions(ctx, pod, c)
	if err != nil {
		return nil, fmt.Errorf("start container %q of pod %q: %w", container, pod.Name, err)
	}
	if options == nil {
		return nil, nil
	}
	edits := &devtree.ContainerEdits{}
	for _, e := range options.Envs {
		set(&edits.Env, e.Name, e.Value)
	}
	for _, a := range options.Annotations {
		set(&edits.Annotations, a.Name, a.Value)
	}
	for _, d := range options.Devices {
		edits.DeviceNodes = append(edits.DeviceNodes, devtree.DeviceNode{HostPath: d.PathOnHost, ContainerPath: d.PathInContainer, Permissions: d.Permissions})
	}
	for _, x := range options.Mounts {
		edits.Mounts = append(edits.Mounts, devtree.Mount{HostPath: x.HostPath, ContainerPath: x.ContainerPath, ReadOnly: x.ReadOnly})
	}
	for _, d := range options.CDIDevices {
		edits.CDINames = append(edits.CDINames, d.Name)
	}
	return edits, nil
}

func find(pod *v1.Pod, name string) (*v1.Container, error) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == name {
			return &c, nil
		}
	}
	return nil, errors.New("the pod has no such container")
}

func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

// Assigned are the IDs of the resource's devices that the container of the pod has, ascending.
func (m *Manager) Assigned(pod *v1.Pod, container, resourceName string) []string {
	r := m.current()
	if r == nil {
		return nil
	}
	var ids []string
	for id := range r.impl.GetDevices(string(pod.UID), container)[resourceName] {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Align says, as a topology manager would, that the pod belongs on these NUMA nodes. It counts from the next Admit on.
func (m *Manager) Align(pod *v1.Pod, nodes ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.affinity[pod.UID] = nodes
}

// topology is the topology manager's part that the device manager asks.
type topology struct{ m *Manager }

func (t topology) GetAffinity(podUID, _ string) topologymanager.TopologyHint {
	t.m.mu.Lock()
	nodes := t.m.affinity[types.UID(podUID)]
	t.m.mu.Unlock()
	if len(nodes) == 0 {
		return topologymanager.TopologyHint{}
	}
	mask, err := bitmask.NewBitMask(nodes...)
	if err != nil {
		klog.ErrorS(err, "Ignoring NUMA nodes", "pod", podUID, "nodes", nodes)
		return topologymanager.TopologyHint{}
	}
	return topologymanager.TopologyHint{NUMANodeAffinity: mask, Preferred: true}
}

func (topology) GetPolicy() topologymanager.Policy { return topologymanager.NewNonePolicy() }
func (topology) Name() string                      { return "test" }
