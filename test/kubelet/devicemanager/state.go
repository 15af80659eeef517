// SPDX-License-Identifier: Apache-2.0

package devicemanager

import (
	"maps"
	"slices"
)

// Count is how a resource appears in the status of the Node.
type Count struct {
	Capacity    int64 `json:"capacity"`    // all devices
	Allocatable int64 `json:"allocatable"` // healthy devices, in use or not
}

// Capacity returns what the kubelet would write into the status of its Node, and the resources that
// it would remove from it. The device manager names each removed resource once. Capacity returns
// nothing while the Manager is stopped.
func (m *Manager) Capacity() (counts map[string]Count, removed []string) {
	running := m.running()
	if running == nil {
		return nil, nil
	}
	capacity, allocatable, removed := running.impl.GetCapacity()
	counts = make(map[string]Count, len(capacity))
	for name, quantity := range capacity {
		a := allocatable[name]
		counts[string(name)] = Count{Capacity: quantity.Value(), Allocatable: a.Value()}
	}
	return counts, removed
}

// Count returns the Count of a resource, and false if the device manager does not know it.
func (m *Manager) Count(resource string) (Count, bool) {
	counts, _ := m.Capacity()
	c, ok := counts[resource]
	return c, ok
}

// Devices returns the newest list of a resource, sorted by ID. All devices are Unhealthy once the
// plugin's stream has ended. It returns false if there was no list since Start. The list must not
// be changed.
func (m *Manager) Devices(resource string) ([]Device, bool) {
	running := m.running()
	if running == nil {
		return nil, false
	}
	return running.observer.list(resource)
}

// AllocatableIDs returns the IDs of the resource's healthy devices, sorted, as the device manager
// itself reports them in GetAllocatableDevices, which the kubelet's pod resources API uses.
func (m *Manager) AllocatableIDs(resource string) []string {
	running := m.running()
	if running == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(running.impl.GetAllocatableDevices()[resource]))
}
