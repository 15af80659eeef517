package devicemanager

import "slices"

// Count is what a resource shows in the status of its Node.
type Count struct {
	Capacity    int64 `json:"capacity"`    // devices, whatever their health
	Allocatable int64 `json:"allocatable"` // Healthy devices, whether in use or not
}

// Capacity is what the kubelet would write into its Node's status now. The removed resources are those it would take out of it; the
// device manager names each of them once. A stopped Manager has none.
func (m *Manager) Capacity() (counts map[string]Count, removed []string) {
	r := m.current()
	if r == nil {
		return nil, nil
	}
	capacity, allocatable, removed := r.impl.GetCapacity()
	counts = make(map[string]Count, len(capacity))
	for name, quantity := range capacity {
		a := allocatable[name]
		counts[string(name)] = Count{Capacity: quantity.Value(), Allocatable: a.Value()}
	}
	return counts, removed
}

// Count is the resource's share of Capacity, and whether the device manager knows the resource at all.
func (m *Manager) Count(resource string) (Count, bool) {
	counts, _ := m.Capacity()
	c, ok := counts[resource]
	return c, ok
}

// Devices is the newest list of the resource, ascending by ID, with all devices Unhealthy once its plugin's stream has ended. It
// is false until the first list since Start. The list is not to be changed.
func (m *Manager) Devices(resource string) ([]Device, bool) {
	r := m.current()
	if r == nil {
		return nil, false
	}
	return r.observer.list(resource)
}

// AllocatableIDs are the IDs of the resource's Healthy devices as the device manager itself tells them (GetAllocatableDevices, which
// the kubelet's pod resources API serves), ascending.
func (m *Manager) AllocatableIDs(resource string) []string {
	r := m.current()
	if r == nil {
		return nil
	}
	var ids []string
	for id := range r.impl.GetAllocatableDevices()[resource] {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
