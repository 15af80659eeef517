// SPDX-License-Identifier: Apache-2.0

package status

import (
	"sync"
	"time"
)

// An Event is one thing that happened. Which fields are set depends on its Kind.
type Event struct {
	Seq  uint64    `json:"seq"` // its number; the Journal sets it, starting at 1
	Time time.Time `json:"time"`
	Kind string    `json:"kind"` // one of the Kind constants

	Loop     string   `json:"loop,omitempty"`     // name of the event loop: "devices" or "provisioning"
	Action   string   `json:"action,omitempty"`   // of a kernel event, such as "add"
	Path     string   `json:"path,omitempty"`     // of a kernel event
	Device   string   `json:"device,omitempty"`   // what it concerns, such as the address of a VF
	Resource string   `json:"resource,omitempty"` // with the namespace
	Devices  []string `json:"devices,omitempty"`  // of an allocation
	Text     string   `json:"text,omitempty"`     // what it led to, or the reason
	Err      string   `json:"err,omitempty"`

	// Seconds is the duration of what happened. Of KindList, it is the time from the event to the
	// end of the send.
	Seconds float64 `json:"seconds,omitempty"`
}

// The kinds of an Event.
const (
	KindUevent     = "uevent"     // a uevent that concerns a QAT device: Action, Path, Device; Text is what it led to
	KindInotify    = "inotify"    // the same for an inotify event
	KindResync     = "resync"     // the whole host is read again: Text is why
	KindDrift      = "drift"      // an audit found a change that no event reported: Device, Text
	KindChange     = "change"     // a device in a list changed: Resource, Device; Text says how
	KindList       = "list"       // a list was sent to the kubelet: Resource, Seconds; Text is its size
	KindAllocation = "allocation" // Resource, Devices; Err if it failed
	KindKubelet    = "kubelet"    // a registration changed: Resource, Text, Err
	KindSlice      = "slice"      // a ResourceSlice was written, or not: Text, Err
	KindPublished  = "published"  // the API server has all devices: Seconds is the time since the event
	KindClaim      = "claim"      // a claim was prepared or unprepared, or not: Devices, Text, Err
)

// A Journal keeps the newest events. Its methods may be called from any goroutine. None of them
// waits for a reader.
type Journal struct {
	limit int

	mu      sync.Mutex    // guards all following fields
	events  []Event       // a ring; the oldest is at next once it is full
	next    int           // where the next event goes
	seq     uint64        // of the newest event
	changed chan struct{} // closed at the next change; nil if nobody waits
}

// NewJournal returns a Journal that keeps at most limit events, at least one.
func NewJournal(limit int) *Journal { return &Journal{limit: max(limit, 1)} }

// Append appends events and sets their Seq. An empty list only reports that something has changed.
func (j *Journal) Append(events ...Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range events {
		j.seq++
		e.Seq = j.seq
		if len(j.events) < j.limit {
			j.events = append(j.events, e)
			continue
		}
		j.events[j.next] = e
		j.next = (j.next + 1) % j.limit
	}
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// Since returns the events whose Seq is greater than seq, the oldest first. The Journal may have
// dropped older ones.
func (j *Journal) Since(seq uint64) []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	if seq >= j.seq {
		return nil
	}
	n := min(len(j.events), int(min(j.seq-seq, uint64(j.limit))))
	list := make([]Event, 0, n)
	for i := len(j.events) - n; i < len(j.events); i++ {
		list = append(list, j.events[(j.next+i)%len(j.events)])
	}
	return list
}

// Changed returns a channel that is closed at the next Append.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}
