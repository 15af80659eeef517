// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"strings"
	"time"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/status"
)

// journalLimit is the number of events of one turn that the journal can take. If there are more,
// it takes the newest.
const journalLimit = 1 << 10

// A journalWriter passes on what the turns of a loop did to a [status.Journal]. It gathers the
// entries while a turn runs, and appends them together with the changes of the lists, because each
// append wakes the readers of the Journal.
type journalWriter struct {
	journal *status.Journal // nil: nothing is recorded
	loop    string          // name of the loop
	entries []status.Event
}

// add gathers an entry.
func (w *journalWriter) add(e status.Event) {
	if w.journal != nil {
		e.Loop = w.loop
		w.entries = append(w.entries, e)
	}
}

// addResync gathers that the whole host is read again.
func (w *journalWriter) addResync(now time.Time, reasons []string) {
	w.add(status.Event{Time: now, Kind: status.KindResync, Text: strings.Join(reasons, "; ")})
}

// addDrift gathers what an audit found.
func (w *journalWriter) addDrift(now time.Time, findings []Finding) {
	for _, f := range findings {
		w.add(status.Event{Time: now, Kind: status.KindDrift, Device: f.Device, Text: f.Text})
	}
}

// addEvent gathers an event, what it concerned and what it led to.
func addEvent[K comparable](w *journalWriter, r *events.Record[mark[K]], subject, outcome string) {
	kind := status.KindInotify
	if r.Origin == events.Uevent {
		kind = status.KindUevent
	}
	w.add(status.Event{
		Time: r.Time, Kind: kind, Action: r.Action.String(), Path: r.Path, Device: subject, Text: outcome,
	})
}

// addChange gathers that a device of a list changed. took is the time since the cause was noticed.
func (w *journalWriter) addChange(now time.Time, c devtree.Change, took time.Duration) {
	e := status.Event{Time: now, Kind: status.KindChange, Resource: c.Resource, Seconds: took.Seconds()}
	switch {
	case c.New == nil:
		e.Device, e.Text = c.Old.ID, "removed"
	case c.Old == nil:
		e.Device, e.Text = c.New.ID, "added"
	case c.Old.Health == c.New.Health:
		e.Device, e.Text = c.New.ID, "changed"
	case c.New.Health == devtree.Unhealthy:
		e.Device, e.Text = c.New.ID, "unhealthy"
	default:
		e.Device, e.Text = c.New.ID, "healthy again"
	}
	if c.New != nil && c.New.Health == devtree.Unhealthy {
		e.Text += ": " + c.New.Reason
	}
	w.add(e)
}

// flush appends the gathered entries to the Journal.
func (w *journalWriter) flush() {
	if len(w.entries) > 0 {
		w.journal.Append(w.entries...)
		w.entries = nil // it may have been large
	}
}
