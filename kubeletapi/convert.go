package kubeletapi

import (
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// listing is a resource in the kubelet's words. It does not change once made.
type listing struct {
	response *pluginapi.ListAndWatchResponse
	healthy  int
}

// converter turns a resource into a listing. What did not change since the resource before it is used again: devtree shares unchanged
// devices by pointer, so one change among a thousand devices converts one device. It serves all streams of one resource.
type converter struct {
	mu      sync.Mutex
	from    *devtree.Resource
	devices []*devtree.Device // of from, in the order of last.response.Devices
	last    *listing
}

// convert returns the same pointer as the call before it when the kubelet would see no difference.
func (c *converter) convert(r *devtree.Resource) *listing {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.from == r {
		return c.last
	}
	var old []*pluginapi.Device
	if c.last != nil {
		old = c.last.response.Devices
	}
	devices := make([]*devtree.Device, 0, r.Len())
	list := make([]*pluginapi.Device, 0, r.Len())
	healthy, i := 0, 0 // i walks the old devices; both are ascending by ID
	for d := range r.Devices() {
		for i < len(old) && old[i].ID < d.ID {
			i++
		}
		var converted *pluginapi.Device
		switch {
		case i < len(old) && c.devices[i] == d:
			converted = old[i]
		case i < len(old) && old[i].ID == d.ID:
			if converted = convertDevice(d); proto.Equal(converted, old[i]) {
				converted = old[i] // what changed is not for the kubelet: a reason, an environment variable
			}
		default:
			converted = convertDevice(d)
		}
		if d.Health == devtree.Healthy {
			healthy++
		}
		devices, list = append(devices, d), append(list, converted)
	}
	c.from, c.devices = r, devices
	if c.last == nil || !slices.Equal(list, old) {
		c.last = &listing{response: &pluginapi.ListAndWatchResponse{Devices: list}, healthy: healthy}
	}
	return c.last
}

func convertDevice(d *devtree.Device) *pluginapi.Device {
	out := &pluginapi.Device{ID: d.ID, Health: string(d.Health)}
	if len(d.NUMANodes) > 0 {
		out.Topology = &pluginapi.TopologyInfo{Nodes: make([]*pluginapi.NUMANode, 0, len(d.NUMANodes))}
		for _, n := range d.NUMANodes {
			out.Topology.Nodes = append(out.Topology.Nodes, &pluginapi.NUMANode{ID: int64(n)})
		}
	}
	return out
}

// convertEdits is the kubelet's form of what one container gets.
func convertEdits(e *devtree.ContainerEdits) *pluginapi.ContainerAllocateResponse {
	out := &pluginapi.ContainerAllocateResponse{Envs: maps.Clone(e.Env), Annotations: maps.Clone(e.Annotations)}
	for _, n := range e.DeviceNodes {
		out.Devices = append(out.Devices, &pluginapi.DeviceSpec{HostPath: n.HostPath, ContainerPath: n.ContainerPath, Permissions: n.Permissions})
	}
	for _, m := range e.Mounts {
		out.Mounts = append(out.Mounts, &pluginapi.Mount{HostPath: m.HostPath, ContainerPath: m.ContainerPath, ReadOnly: m.ReadOnly})
	}
	for _, name := range e.CDINames {
		out.CdiDevices = append(out.CdiDevices, &pluginapi.CDIDevice{Name: name})
	}
	return out
}
