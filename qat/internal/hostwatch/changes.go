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

// changeLog logs how the published Trees differ, and passes that on to the journal. It logs the
// changes of logDelay together.
type changeLog struct {
	journal   journalWriter
	timer     *time.Timer   // log must be called; not set if there is nothing to log
	armed     bool          // timer is set
	old, tree *devtree.Tree // the difference to log; tree is nil if there is none
	at        time.Time     // when tree was published
	took      time.Duration // the longest time from a change to its publication
}

func newChangeLog(journal journalWriter) *changeLog {
	l := &changeLog{journal: journal, timer: time.NewTimer(logDelay)}
	l.timer.Stop()
	return l
}

// add adds the difference between two Trees, of which the second has just been published. since is
// when the cause was noticed; see Batch.Since.
func (l *changeLog) add(old, tree *devtree.Tree, since time.Time) {
	if l.tree == nil {
		l.old = old
	}
	l.at = time.Now()
	l.tree, l.took = tree, max(l.took, l.at.Sub(since))
	l.arm()
}

// endTurn has log called if the turn has left something for the journal.
func (l *changeLog) endTurn() {
	if len(l.journal.entries) > 0 {
		l.arm()
	}
}

func (l *changeLog) arm() {
	if !l.armed {
		l.armed = true
		l.timer.Reset(logDelay)
	}
}

// log logs what has been added since the last call.
func (l *changeLog) log() {
	if l.tree != nil {
		changes := devtree.Diff(l.old, l.tree)
		logChanges(changes, l.tree, l.took)
		for _, c := range changes {
			l.journal.addChange(l.at, c, l.took)
		}
	}
	l.journal.flush()
	l.old, l.tree, l.took, l.armed = nil, nil, 0, false
}

// close logs the rest.
func (l *changeLog) close() {
	l.timer.Stop()
	l.log()
}

// logChanges logs one line for each list that changed, and one for each device that became
// unhealthy.
func logChanges(all []devtree.Change, tree *devtree.Tree, took time.Duration) {
	changes := map[string]map[string][]string{} // resource → kind → IDs
	note := func(resource, kind, id string) {
		if changes[resource] == nil {
			changes[resource] = map[string][]string{}
		}
		changes[resource][kind] = append(changes[resource][kind], id)
	}
	for _, c := range all {
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
