// SPDX-License-Identifier: Apache-2.0

package status

import "time"

// The types of the messages of /events.
const (
	MessageSnapshot  = "snapshot"  // a Snapshot: the first message, and after the client fell behind
	MessageUpdate    = "update"    // an Update of the state that the previous messages gave
	MessageEvent     = "event"     // an Event; its ID has the event's Seq and the process
	MessageTelemetry = "telemetry" // a list of Telemetry
)

// An Update is the difference between two snapshots. PFs and VFs have only those that are new or
// have changed; the other lists are complete, because they are short.
type Update struct {
	Time      time.Time  `json:"time"`
	PFs       []PF       `json:"pfs,omitempty"`
	VFs       []VF       `json:"vfs,omitempty"`
	Removed   []string   `json:"removed,omitempty"` // addresses of PFs and VFs that are gone
	Resources []Resource `json:"resources"`
	Loops     []Loop     `json:"loops"`
	Checks    []Check    `json:"checks"`
	Processes []Process  `json:"processes,omitempty"` // of mode kernel; all of them

	Provisioning *Provisioning `json:"provisioning,omitempty"`
	DRA          *DRA          `json:"dra,omitempty"`

	Counters Counters `json:"counters"`
}
