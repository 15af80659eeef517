// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// uevent is a uevent of the kernel. The tests parse it with their own code, because the parser of
// package events is under test.
type uevent struct {
	action, path string
	env          map[string]string
	received     time.Duration // on the clock of monotonic
}

func (e uevent) String() string {
	s := e.action + "@" + e.path
	if d := e.env["DRIVER"]; d != "" {
		s += "(" + d + ")"
	}
	return s
}

// ueventRecorder records the uevents of the kernel.
type ueventRecorder struct {
	socket *os.File
	done   chan struct{}

	mu    sync.Mutex // guards all following fields
	all   []uevent
	taken int           // number of uevents that take has returned
	next  chan struct{} // closed by the next uevent
}

// recordUevents records uevents until the test ends.
func recordUevents(t *testing.T) *ueventRecorder {
	t.Helper()
	kind := unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
	}
	if err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	r := &ueventRecorder{
		socket: os.NewFile(uintptr(fd), "uevents"),
		done:   make(chan struct{}),
		next:   make(chan struct{}),
	}
	go r.run(t)
	t.Cleanup(func() {
		r.socket.Close()
		<-r.done
	})
	return r
}

func (r *ueventRecorder) run(t *testing.T) {
	defer close(r.done)
	buffer := make([]byte, 16<<10)
	for {
		n, err := r.socket.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("read the test's uevent socket: %v", err)
			}
			return
		}
		e := parseUevent(buffer[:n])
		r.mu.Lock()
		r.all = append(r.all, e)
		close(r.next)
		r.next = make(chan struct{})
		r.mu.Unlock()
	}
}

func parseUevent(message []byte) uevent {
	e := uevent{env: map[string]string{}, received: monotonic()}
	for i, field := range bytes.Split(bytes.TrimSuffix(message, []byte{0}), []byte{0}) {
		if i == 0 {
			e.action, e.path, _ = strings.Cut(string(field), "@")
			continue
		}
		key, value, _ := strings.Cut(string(field), "=")
		e.env[key] = value
	}
	return e
}

// changed returns a channel that the next uevent closes.
func (r *ueventRecorder) changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// take waits for n uevents since the last take, and then until no more arrive. It returns all of
// them.
func (r *ueventRecorder) take(t *testing.T, n int) []uevent {
	t.Helper()
	const quiet = 150 * time.Millisecond // longer than the PCI core sleeps
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		fresh, next := r.all[r.taken:], r.next
		r.mu.Unlock()
		var silence <-chan time.Time
		if len(fresh) >= n {
			silence = time.After(quiet)
		}
		select {
		case <-next:
			continue
		case <-silence:
		case <-deadline:
			t.Errorf("received %d uevents, want at least %d", len(fresh), n)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.taken += len(fresh)
		return fresh
	}
}

// since returns the uevents received since a time.
func (r *ueventRecorder) since(start time.Duration) []uevent {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.all {
		if r.all[i].received >= start {
			return r.all[i:]
		}
	}
	return nil
}

// actionsAndNames formats uevents as the action and the last element of the path.
func actionsAndNames(events []uevent) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.action+" "+path.Base(e.path))
	}
	return out
}

// actionsAndSubsystems formats uevents as the action, the subsystem and, for bind and unbind, the
// driver.
func actionsAndSubsystems(events []uevent) []string {
	var out []string
	for _, e := range events {
		s := e.action + " " + e.env["SUBSYSTEM"]
		if strings.HasSuffix(e.action, "bind") {
			s += " " + e.env["DRIVER"]
		}
		out = append(out, s)
	}
	return out
}
