package e2e

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A uevent is one message of the kernel, as this test's own few lines read it: the plugin's reader is what is tested.
type uevent struct {
	action, path string
	env          map[string]string
	at           int64 // monotonic() when it was received
}

func (e uevent) String() string {
	s := e.action + "@" + e.path
	if d := e.env["DRIVER"]; d != "" {
		s += "(" + d + ")"
	}
	return s
}

// uevents collects the kernel's messages from its making on.
type uevents struct {
	socket *os.File
	done   chan struct{}

	mu    sync.Mutex
	all   []uevent
	taken int
	news  chan struct{} // closed and made anew with each message
}

func listen(t *testing.T) *uevents {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
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
	l := &uevents{socket: os.NewFile(uintptr(fd), "uevents"), done: make(chan struct{}), news: make(chan struct{})}
	go l.run(t)
	t.Cleanup(func() {
		l.socket.Close()
		<-l.done
	})
	return l
}

func (l *uevents) run(t *testing.T) {
	defer close(l.done)
	buffer := make([]byte, 16<<10)
	for {
		n, err := l.socket.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("the test's own uevent socket: %v", err)
			}
			return
		}
		e := uevent{env: map[string]string{}, at: monotonic()}
		for i, field := range bytes.Split(bytes.TrimSuffix(buffer[:n], []byte{0}), []byte{0}) {
			if i == 0 {
				e.action, e.path, _ = strings.Cut(string(field), "@")
				continue
			}
			key, value, _ := strings.Cut(string(field), "=")
			e.env[key] = value
		}
		l.mu.Lock()
		l.all = append(l.all, e)
		close(l.news)
		l.news = make(chan struct{})
		l.mu.Unlock()
	}
}

// changed is closed with the next message.
func (l *uevents) changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// take returns what has come since the last take, once n messages have, and then no other within the time that quiet says.
func (l *uevents) take(t *testing.T, n int) []uevent {
	t.Helper()
	const quiet = 150 * time.Millisecond // longer than the PCI core sleeps
	patience := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		fresh, news := l.all[l.taken:], l.news
		l.mu.Unlock()
		var silence <-chan time.Time
		if len(fresh) >= n {
			silence = time.After(quiet)
		}
		select {
		case <-news:
			continue
		case <-silence:
		case <-patience:
			t.Errorf("%d uevents came where %d were awaited", len(fresh), n)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.taken += len(fresh)
		return fresh
	}
}

// since returns the messages received from the moment on.
func (l *uevents) since(at int64) []uevent {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.all {
		if l.all[i].at >= at {
			return l.all[i:]
		}
	}
	return nil
}

// words writes each message as its action and the last element of its path, to be compared with a list.
func words(events []uevent) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.action+" "+e.path[strings.LastIndexByte(e.path, '/')+1:])
	}
	return out
}
