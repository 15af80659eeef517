// SPDX-License-Identifier: Apache-2.0

package devicemanager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	kubelet "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager/bitmask"

	"qatplugin/devtree"
)

// Pod returns a pod. Its name is also its UID.
func Pod(name string, containers ...v1.Container) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec:       v1.PodSpec{Containers: containers},
	}
}

// Container returns a container that requests n devices of a resource.
func Container(name, resourceName string, n int64) v1.Container {
	limits := v1.ResourceList{v1.ResourceName(resourceName): *resource.NewQuantity(n, resource.DecimalSI)}
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: limits}}
}

// Admit admits a pod like a kubelet: it allocates devices for each init container and container, in
// order. If that fails for one of them, the pod is rejected and its devices are free again.
func (m *Manager) Admit(pod *v1.Pod) error {
	m.pods.Lock()
	defer m.pods.Unlock()
	running := m.running()
	if running == nil {
		return fmt.Errorf("admit pod %q: %w", pod.Name, errStopped)
	}
	m.mu.Lock()
	m.active[pod.UID] = pod
	m.mu.Unlock()
	for _, c := range allContainers(pod) {
		if err := running.impl.Allocate(pod, &c); err != nil {
			m.forget(pod)
			running.impl.UpdateAllocatedDevices()
			return fmt.Errorf("admit pod %q: container %q: %w", pod.Name, c.Name, err)
		}
	}
	return nil
}

func allContainers(pod *v1.Pod) []v1.Container {
	return slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
}

// Remove ends a pod. Its devices are free again.
func (m *Manager) Remove(pod *v1.Pod) {
	m.pods.Lock()
	defer m.pods.Unlock()
	m.forget(pod)
	if running := m.running(); running != nil {
		running.impl.UpdateAllocatedDevices()
	}
}

func (m *Manager) forget(pod *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.active, pod.UID)
	delete(m.affinity, pod.UID)
}

// StartContainer does what a kubelet does when it starts a container of an admitted pod: it calls
// PreStartContainer, if the plugin asked for it, and GetDeviceRunContainerOptions. It returns what
// the kubelet passes to the container runtime for the devices, or nil if the container has none.
func (m *Manager) StartContainer(ctx context.Context, pod *v1.Pod, container string) (*devtree.ContainerEdits, error) {
	m.pods.Lock()
	defer m.pods.Unlock()
	options, err := m.runContainerOptions(ctx, pod, container)
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
		edits.DeviceNodes = append(edits.DeviceNodes, devtree.DeviceNode{
			HostPath:      d.PathOnHost,
			ContainerPath: d.PathInContainer,
			Permissions:   d.Permissions,
		})
	}
	for _, x := range options.Mounts {
		edits.Mounts = append(edits.Mounts, devtree.Mount{
			HostPath:      x.HostPath,
			ContainerPath: x.ContainerPath,
			ReadOnly:      x.ReadOnly,
		})
	}
	for _, d := range options.CDIDevices {
		edits.CDINames = append(edits.CDINames, d.Name)
	}
	return edits, nil
}

func (m *Manager) runContainerOptions(
	ctx context.Context, pod *v1.Pod, name string,
) (*kubelet.DeviceRunContainerOptions, error) {
	running := m.running()
	if running == nil {
		return nil, errStopped
	}
	for _, c := range allContainers(pod) {
		if c.Name == name {
			return running.impl.GetDeviceRunContainerOptions(ctx, pod, &c)
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

// Assigned returns the IDs of the devices of a resource that a container has, sorted.
func (m *Manager) Assigned(pod *v1.Pod, container, resourceName string) []string {
	running := m.running()
	if running == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(running.impl.GetDevices(string(pod.UID), container)[resourceName]))
}

// Align sets the NUMA nodes that the topology manager aligns a pod to, from its next Admit on.
func (m *Manager) Align(pod *v1.Pod, nodes ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.affinity[pod.UID] = nodes
}

// topology is the part of the topology manager that the device manager uses.
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
		klog.ErrorS(err, "Ignoring invalid NUMA nodes", "pod", podUID, "nodes", nodes)
		return topologymanager.TopologyHint{}
	}
	return topologymanager.TopologyHint{NUMANodeAffinity: mask, Preferred: true}
}

func (topology) GetPolicy() topologymanager.Policy { return topologymanager.NewNonePolicy() }
func (topology) Name() string                      { return "test" }
