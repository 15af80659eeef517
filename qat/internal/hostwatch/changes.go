// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// logChanges logs one line for each list that changed, and one for each device that became
// unhealthy. took is the time since the cause was noticed; see Batch.Since.
func logChanges(old, tree *devtree.Tree, took time.Duration) {
	changes := map[string]map[string][]string{} // resource → kind → IDs
	note := func(resource, kind, id string) {
		if changes[resource] == nil {
			changes[resource] = map[string][]string{}
		}
		changes[resource][kind] = append(changes[resource][kind], id)
	}
	for _, c := range devtree.Diff(old, tree) {
		if c.New == nil {
			note(c.Resource, "removed", c.Old.ID)
			continue
		}
		if c.Old == nil {
			note(c.Resource, "added", c.New.ID)
		}
		switch {
		case c.Old != nil && c.Old.Health == c.New.Health:
			note(c.Resource, "changed", c.New.ID)
		case c.New.Health == devtree.Unhealthy:
			note(c.Resource, "unhealthyNow", c.New.ID)
		case c.Old != nil:
			note(c.Resource, "healthyAgain", c.New.ID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		resource, healthy := tree.Resource(name), 0
		for d := range resource.Devices() {
			if d.Health == devtree.Healthy {
				healthy++
			}
		}
		fields := []any{"resource", name, "devices", resource.Len(), "healthy", healthy, "after", took}
		for _, kind := range []string{"added", "removed", "unhealthyNow", "healthyAgain", "changed"} {
			if ids := changes[name][kind]; len(ids) > 0 {
				fields = append(fields, kind, ids)
			}
		}
		klog.InfoS("List changed", fields...)
		for _, id := range changes[name]["unhealthyNow"] {
			klog.InfoS("Device is unhealthy", "resource", name, "device", id, "reason", resource.Device(id).Reason)
		}
	}
}
