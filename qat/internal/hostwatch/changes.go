// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// resourceChange holds the IDs of the devices of one resource that changed between two Trees.
type resourceChange struct {
	added, removed, unhealthy, healthy, changed []string
}

// logChanges logs one line for each list that changed. took is the time since
// the first event that led to the change.
func logChanges(old, tree *devtree.Tree, took time.Duration) {
	changes := map[string]*resourceChange{}
	for _, c := range devtree.Diff(old, tree) {
		r := changes[c.Resource]
		if r == nil {
			r = &resourceChange{}
			changes[c.Resource] = r
		}
		r.add(c)
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		resource := tree.Resource(name)
		healthy := 0
		for d := range resource.Devices() {
			if d.Health == devtree.Healthy {
				healthy++
			}
		}
		fields := []any{"resource", name, "devices", resource.Len(), "healthy", healthy, "after", took}
		klog.InfoS("List changed", append(fields, changes[name].fields()...)...)
		for _, id := range changes[name].unhealthy {
			klog.InfoS("Device is unhealthy", "resource", name, "device", id, "reason", resource.Device(id).Reason)
		}
	}
}

func (r *resourceChange) add(c devtree.Change) {
	switch {
	case c.New == nil:
		r.removed = append(r.removed, c.Old.ID)
		return
	case c.Old == nil:
		r.added = append(r.added, c.New.ID)
	case c.Old.Health == c.New.Health:
		r.changed = append(r.changed, c.New.ID)
		return
	case c.New.Health == devtree.Healthy:
		r.healthy = append(r.healthy, c.New.ID)
	}
	if c.New.Health == devtree.Unhealthy {
		r.unhealthy = append(r.unhealthy, c.New.ID)
	}
}

func (r *resourceChange) fields() []any {
	var fields []any
	for _, f := range []struct {
		name string
		ids  []string
	}{
		{"added", r.added},
		{"removed", r.removed},
		{"unhealthyNow", r.unhealthy},
		{"healthyAgain", r.healthy},
		{"changed", r.changed},
	} {
		if len(f.ids) > 0 {
			fields = append(fields, f.name, f.ids)
		}
	}
	return fields
}
