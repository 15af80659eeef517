// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/test/kubelet/devicemanager"
)

// event is the line that reports what a plugin did.
type event struct {
	Event      devicemanager.Kind `json:"event"`
	Resource   string             `json:"resource"`
	Capacity   *int               `json:"capacity,omitempty"`
	Healthy    *int               `json:"healthy,omitempty"`
	Added      []string           `json:"added,omitempty"`
	Removed    []string           `json:"removed,omitempty"`
	Changed    []string           `json:"changed,omitempty"`
	Start      int                `json:"start"` // which start of the device manager, from 1
	ReceivedUS int64              `json:"received_us"`
	AppliedUS  int64              `json:"applied_us"`
	UnixUS     int64              `json:"unix_us"`
}

// newEvent returns the event of an update. A list is reported by its differences from the one
// before.
func newEvent(u devicemanager.Update, before []devicemanager.Device) *event {
	e := &event{
		Event:      u.Kind,
		Resource:   u.Resource,
		Start:      u.Start,
		ReceivedUS: microseconds(u.Received),
		AppliedUS:  microseconds(u.Applied),
		UnixUS:     u.Received.UnixMicro(),
	}
	if u.Kind != devicemanager.Listed {
		return e
	}
	healthy := 0
	for _, d := range u.Devices {
		if d.Healthy() {
			healthy++
		}
	}
	e.Capacity, e.Healthy = new(len(u.Devices)), &healthy
	e.Added, e.Removed, e.Changed = diff(before, u.Devices)
	return e
}

// diff compares two lists, both sorted by ID. It returns IDs.
func diff(before, after []devicemanager.Device) (added, removed, changed []string) {
	for len(before) > 0 || len(after) > 0 {
		order := 0
		switch {
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		default:
			order = cmp.Compare(before[0].ID, after[0].ID)
		}
		switch {
		case order < 0:
			removed, before = append(removed, before[0].ID), before[1:]
		case order > 0:
			added, after = append(added, after[0].ID), after[1:]
		default:
			if before[0].Health != after[0].Health {
				changed = append(changed, after[0].ID)
			}
			before, after = before[1:], after[1:]
		}
	}
	return added, removed, changed
}

// reply is the line that answers a command.
type reply struct {
	Reply       string                         `json:"reply"`
	Error       string                         `json:"error,omitempty"`
	Resources   map[string]devicemanager.Count `json:"resources,omitempty"`
	Removed     []string                       `json:"removed,omitempty"`
	Devices     []device                       `json:"devices,omitempty"`
	IDs         []string                       `json:"ids,omitempty"`
	Env         map[string]string              `json:"env,omitempty"`
	Nodes       []node                         `json:"nodes,omitempty"`
	Mounts      []mount                        `json:"mounts,omitempty"`
	Annotations map[string]string              `json:"annotations,omitempty"`
	CDI         []string                       `json:"cdi,omitempty"`
	ReceivedUS  int64                          `json:"received_us,omitempty"`
}

type device struct {
	ID     string  `json:"id"`
	Health string  `json:"health"`
	NUMA   []int64 `json:"numa,omitempty"`
}

type node struct {
	Host        string `json:"host"`
	Container   string `json:"container"`
	Permissions string `json:"permissions"`
}

type mount struct {
	Host      string `json:"host"`
	Container string `json:"container"`
	ReadOnly  bool   `json:"read_only,omitempty"`
}

// lineWriter writes JSON values, one per line. It may be used from any goroutine.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) write(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		klog.ErrorS(err, "Cannot encode a line of output")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(data, '\n')); err != nil {
		klog.V(2).InfoS("Cannot write a line of output", "err", err)
	}
}

// microseconds converts a time to CLOCK_MONOTONIC. A time.Time holds that reading but does not
// return it.
func microseconds(t time.Time) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return (now.Nano() - time.Since(t).Nanoseconds()) / 1000
}
