package kernelmode

import (
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// logChanges says what became of each list: one line a resource. took is from the first event that led to it.
func logChanges(old, tree *devtree.Tree, took time.Duration) {
	type counts struct{ added, removed, changed int }
	changes := map[string]*counts{}
	for _, c := range devtree.Diff(old, tree) {
		n := changes[c.Resource]
		if n == nil {
			n = &counts{}
			changes[c.Resource] = n
		}
		switch {
		case c.Old == nil:
			n.added++
		case c.New == nil:
			n.removed++
		default:
			n.changed++
		}
		klog.V(2).InfoS("Unit changed", "resource", c.Resource, "old", describe(c.Old), "new", describe(c.New))
	}
	for r := range tree.Resources() {
		n := changes[r.Name()]
		if n == nil {
			continue
		}
		healthy, reason := 0, ""
		for d := range r.Devices() {
			if d.Health == devtree.Healthy {
				healthy++
			} else {
				reason = d.Reason
			}
		}
		fields := []any{"resource", r.Name(), "units", r.Len(), "healthy", healthy, "added", n.added, "removed", n.removed, "changed", n.changed, "after", took}
		if reason != "" {
			fields = append(fields, "reason", reason)
		}
		klog.InfoS("List changed", fields...)
	}
}

func describe(d *devtree.Device) string {
	if d == nil {
		return "none"
	}
	return d.ID + " " + string(d.Health)
}
