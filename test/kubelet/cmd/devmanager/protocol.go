package main

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/test/kubelet/devicemanager"
)

// event is the line of something that a plugin did.
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

// lines writes JSON values, each as one line. It may be used from any goroutine.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) write(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		klog.ErrorS(err, "Cannot write a line")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(data, '\n')); err != nil {
		klog.V(2).InfoS("Nobody reads a line", "err", err)
	}
}

// microseconds is the time on CLOCK_MONOTONIC. Go keeps that reading in a time.Time but does not show it.
func microseconds(t time.Time) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return (now.Nano() - time.Since(t).Nanoseconds()) / 1000
}
