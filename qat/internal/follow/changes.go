package follow

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// resourceChange is what one new Tree means for one resource, for the log.
type resourceChange struct {
	added, removed, unhealthy, healthy, changed []string // device IDs
}

// LogChanges says what became of each list: one line a resource. took is from the first event that led to it.
func LogChanges(old, tree *devtree.Tree, took time.Duration) {
	changes := map[string]*resourceChange{}
	for _, c := range devtree.Diff(old, tree) {
		r := changes[c.Resource]
		if r == nil {
			r = &resourceChange{}
			changes[c.Resource] = r
		}
		r.note(c)
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
		for d := range resource.Devices() {
			if d.Health == devtree.Unhealthy && slices.Contains(changes[name].unhealthy, d.ID) {
				klog.InfoS("Device is unhealthy", "resource", name, "device", d.ID, "reason", d.Reason)
			}
		}
	}
}

func (r *resourceChange) note(c devtree.Change) {
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
	}{{"added", r.added}, {"removed", r.removed}, {"unhealthyNow", r.unhealthy}, {"healthyAgain", r.healthy}, {"changed", r.changed}} {
		if len(f.ids) > 0 {
			fields = append(fields, f.name, f.ids)
		}
	}
	return fields
}
