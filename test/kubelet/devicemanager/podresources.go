// SPDX-License-Identifier: Apache-2.0

package devicemanager

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
)

// PodResourcesSocket is where a kubelet serves the PodResources API.
const PodResourcesSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

// ServePodResources serves the kubelet's PodResources API v1 on PodResourcesSocket until stop is
// called. The server is the kubelet's own. It reports the admitted pods, with the devices that the
// device manager gave them. While the Manager is stopped, it reports no pods, like a kubelet that
// has just started.
func (m *Manager) ServePodResources(ctx context.Context) (stop func(), err error) {
	if err := os.MkdirAll(filepath.Dir(PodResourcesSocket), 0o750); err != nil {
		return nil, fmt.Errorf("serve the PodResources API: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", PodResourcesSocket)
	if err != nil {
		return nil, fmt.Errorf("serve the PodResources API: %w", err)
	}
	server := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(ctx,
		podresources.PodResourcesProviders{
			Pods:             podsProvider{m},
			Devices:          devicesProvider{m},
			Cpus:             noResources{},
			Memory:           noResources{},
			DynamicResources: noResources{},
		}))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	return func() { server.Stop(); <-done }, nil
}

// podsProvider is the part of the kubelet that knows its pods.
type podsProvider struct{ m *Manager }

func (p podsProvider) GetActivePods() []*v1.Pod {
	if p.m.running() == nil {
		return nil
	}
	return p.m.activePods()
}

func (p podsProvider) GetPods() []*v1.Pod { return p.GetActivePods() }

func (p podsProvider) GetPodByName(namespace, name string) (*v1.Pod, bool) {
	for _, pod := range p.GetActivePods() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

// devicesProvider is the part of the kubelet's container manager that asks the device manager
// (k8s.io/kubernetes/pkg/kubelet/cm/container_manager_linux.go).
type devicesProvider struct{ m *Manager }

func (p devicesProvider) UpdateAllocatedDevices() {
	if running := p.m.running(); running != nil {
		running.impl.UpdateAllocatedDevices()
	}
}

// GetDevices reports each device once for each of its NUMA nodes, as the container manager does.
func (p devicesProvider) GetDevices(podUID, container string) (list []*podresourcesapi.ContainerDevices) {
	running := p.m.running()
	if running == nil {
		return nil
	}
	for resource, devices := range running.impl.GetDevices(podUID, container) {
		for id, device := range devices {
			topology := device.GetTopology()
			if topology == nil {
				list = append(list, &podresourcesapi.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
			}
			for _, node := range topology.GetNodes() {
				list = append(list, &podresourcesapi.ContainerDevices{
					ResourceName: resource,
					DeviceIds:    []string{id},
					Topology: &podresourcesapi.TopologyInfo{
						Nodes: []*podresourcesapi.NUMANode{{ID: node.GetID()}},
					},
				})
			}
		}
	}
	return list
}

func (p devicesProvider) GetAllocatableDevices() []*podresourcesapi.ContainerDevices { return nil }

// noResources provides no CPUs, memory or claims.
type noResources struct{}

func (noResources) GetCPUs(string, string) []int64                              { return nil }
func (noResources) GetAllocatableCPUs() []int64                                 { return nil }
func (noResources) GetMemory(string, string) []*podresourcesapi.ContainerMemory { return nil }
func (noResources) GetAllocatableMemory() []*podresourcesapi.ContainerMemory    { return nil }
func (noResources) GetDynamicResources(*v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
