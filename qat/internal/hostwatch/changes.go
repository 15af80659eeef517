// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// logDelay is how long after the publication of a Tree its changes are logged. By then, the lists
// are at the kubelet, even those of a thousand VFs. To format a log line takes as long as to send a
// short list, and both may need the same CPU.
const logDelay = 2 * time.Millisecond

// changeLog logs how the published Trees differ. It logs the changes of logDelay together.
type changeLog struct {
	timer     *time.Timer   // log must be called; not set if there is nothing to log
	old, tree *devtree.Tree // the difference to log; tree is nil if there is none
	took      time.Duration // the longest time from a change to its publication
}

func newChangeLog() *changeLog {
	l := &changeLog{timer: time.NewTimer(logDelay)}
	l.timer.Stop()
	return l
}

// add adds the difference between two Trees, of which the second has just been published. took is
// the time since the cause was noticed; see Batch.Since.
func (l *changeLog) add(old, tree *devtree.Tree, took time.Duration) {
	if l.tree == nil {
		l.old = old
		l.timer.Reset(logDelay)
	}
	l.tree, l.took = tree, max(l.took, took)
}

// log logs what has been added since the last call.
func (l *changeLog) log() {
	if l.tree != nil {
		logChanges(l.old, l.tree, l.took)
	}
	l.old, l.tree, l.took = nil, nil, 0
}

// close logs the rest.
func (l *changeLog) close() {
	l.timer.Stop()
	l.log()
}

// logChanges logs one line for each list that changed, and one for each device that became
// unhealthy.
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
