// SPDX-License-Identifier: Apache-2.0

package events

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

// forger is a netlink socket through which a process sends forged uevents.
type forger struct{ fd int }

func newForger(t testing.TB) forger {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return forger{fd}
}

func (f forger) send(t testing.TB, message []byte, to unix.SockaddrNetlink) {
	t.Helper()
	to.Family = unix.AF_NETLINK
	must(t, unix.Sendto(f.fd, message, 0, &to))
}

// multicast sends to group 1, from the port of this socket.
func (f forger) multicast(t testing.TB, message string) {
	t.Helper()
	f.send(t, []byte(message), unix.SockaddrNetlink{Groups: 1})
}

// unicast sends to one socket.
func (f forger) unicast(t testing.TB, message string, port uint32) {
	t.Helper()
	f.send(t, []byte(message), unix.SockaddrNetlink{Pid: port})
}

// throughKernel has the kernel multicast a message, which then comes from port 0
// (uevent_net_rcv_skb in lib/kobject_uevent.c).
func (f forger) throughKernel(t testing.TB, message string) {
	t.Helper()
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(message))
	binary.NativeEndian.PutUint32(b[0:], uint32(unix.SizeofNlMsghdr+len(message)))
	binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_MIN_TYPE) // lower types belong to netlink itself
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	f.send(t, append(b, message...), unix.SockaddrNetlink{})
}

// control calls f with the socket of l.
func control(t testing.TB, l *UeventListener, f func(fd int)) {
	t.Helper()
	must(t, l.conn.Control(func(fd uintptr) { f(int(fd)) }))
}

func portOf(t testing.TB, l *UeventListener) (port uint32) {
	t.Helper()
	control(t, l, func(fd int) {
		if name, err := unix.Getsockname(fd); err == nil {
			port = name.(*unix.SockaddrNetlink).Pid
		}
	})
	return port
}

// renameInterface makes the kernel send a uevent within the network namespace, and returns it.
func renameInterface(t testing.TB, from, to string) observed {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	var request struct {
		name, newName [unix.IFNAMSIZ]byte
		_             [8]byte
	}
	copy(request.name[:], from)
	copy(request.newName[:], to)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFNAME, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		t.Fatalf("rename %s to %s: %v", from, to, errno)
	}
	return observed{Move, "/devices/virtual/net/" + to}
}

// isSelf is isKernel for messages that this process multicasts.
func isSelf(s sender) bool {
	return s.netlink && s.port != 0 && s.groups == 1 && s.credentials && s.pid == int32(os.Getpid())
}

// listenNetlink returns a listener on a uevent socket.
func listenNetlink(t testing.TB, bufferSize int, trusted func(sender) bool) *UeventListener {
	t.Helper()
	fd, err := openUeventSocket()
	must(t, err)
	l, err := newUeventListener(fd, bufferSize, trusted)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestForgedMessagesAreRejected(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	l, err := ListenUevents()
	must(t, err)
	r := newRecorder()
	start(t, l, r)
	f := newForger(t)
	for _, message := range []string{"add@/devices/forged\x00SUBSYSTEM=pci\x00", "add@/no-NUL"} {
		f.multicast(t, message)
		f.unicast(t, message, portOf(t, l))
		f.throughKernel(t, message)
	}
	want := renameInterface(t, "lo", "barrier")
	r.waitFor(t, want)
	r.wantResyncs(t, 0)
	if events, _ := r.all(); len(events) != 1 {
		t.Errorf("got %v, want only %v", events, want)
	}
	wantStats(t, l, UeventStats{Received: 1, Rejected: 6})
}

// Without its credentials, a message that the kernel multicasts for a process would look
// like the kernel's own.
func TestForgedMessageThroughKernelHasPortZero(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	senders := make(chan sender, 1)
	l := listenNetlink(t, ueventBuffer, func(s sender) bool { senders <- s; return true })
	start(t, l, newRecorder())
	newForger(t).throughKernel(t, "add@/forged\x00")
	want := sender{netlink: true, port: 0, groups: 1, credentials: true, pid: int32(os.Getpid()), uid: 0}
	if got := await(t, "the message", senders); got != want {
		t.Errorf("sender %+v, want %+v", got, want)
	}
}

func TestHundredThousandUeventsArriveInOrder(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	const total = 100_000
	l := listenNetlink(t, ueventBuffer, isSelf)
	r := &countingSink{changed: make(chan struct{}, 1)}
	stop := start(t, l, r)
	f := newForger(t)
	// A busy machine may not schedule the reader for a while. Never queue more than fits:
	// the smallest default buffer holds 166 messages.
	var window int64
	control(t, l, func(fd int) { window = int64(max(receiveBuffer(t, fd)/2048, 50)) })
	began := time.Now()
	for i := range int64(total) {
		for i-r.received.Load() >= window {
			await(t, "the reader", r.changed)
		}
		path := fmt.Sprintf("/devices/pci0000:6b/0000:6b:00.1/%06d", i)
		f.multicast(t, fmt.Sprintf("add@%s\x00ACTION=add\x00DEVPATH=%[1]s\x00SEQNUM=%d\x00", path, i))
	}
	for r.received.Load() < total {
		await(t, "the last events", r.changed)
	}
	took := time.Since(began)
	stop()
	wantStats(t, l, UeventStats{Received: total})
	if r.outOfOrder != 0 || r.resyncs.Load() != 0 {
		t.Errorf("%d out of order, %d Resyncs", r.outOfOrder, r.resyncs.Load())
	}
	t.Logf("%d uevents in %v, at most %d queued", total, took, window)
}

// countingSink counts events and checks their SEQNUM, which starts at 0.
type countingSink struct {
	received   atomic.Int64
	resyncs    atomic.Int64
	outOfOrder int
	changed    chan struct{} // holds a token after each event
}

func (s *countingSink) Event(e *Event) {
	if string(e.Get("SEQNUM")) != fmt.Sprint(s.received.Load()) {
		s.outOfOrder++
	}
	s.received.Add(1)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *countingSink) Resync(string) { s.resyncs.Add(1) }

func TestOverflowCausesOneResync(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	const flood = 1000
	l := listenNetlink(t, 4096, isSelf)
	f := newForger(t)
	for i := range flood { // before Run reads
		f.multicast(t, fmt.Sprintf("add@/flood/%d\x00SUBSYSTEM=pci\x00", i))
	}
	r := newRecorder()
	stop := start(t, l, r)
	var queued int // before the Resync
	r.wait(t, "Resync", func(events []observed, resyncs []string) bool {
		queued = len(events)
		return len(resyncs) > 0
	})
	for round := range 3 {
		f.multicast(t, fmt.Sprintf("add@/after/%d\x00", round))
		r.waitFor(t, observed{Add, fmt.Sprintf("/after/%d", round)})
	}
	stop()
	r.wantResyncs(t, 1)
	stats := l.Stats() // includes the drops before Close
	if stats.Overflows != 1 || stats.Drops == 0 || queued == 0 || uint64(queued)+stats.Drops != flood {
		t.Errorf("%d events before the Resync, stats %+v; want %d delivered and dropped", queued, stats, flood)
	}
	if events, _ := r.all(); len(events) != queued+3 {
		t.Errorf("%d events after the Resync, want 3", len(events)-queued)
	}
	if l.draining {
		t.Error("the listener still waits for an empty queue")
	}
}

func TestKernelUeventsInNamespace(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	l, err := ListenUevents()
	must(t, err)
	want := renameInterface(t, "lo", "first") // before Run
	r := newRecorder()
	start(t, l, r)
	r.waitFor(t, want)
	r.waitFor(t, renameInterface(t, "first", "lo"))
	wantStats(t, l, UeventStats{Received: 2})
}

// The device of /dev/null exists everywhere, and a synthetic event does no harm to it.
func TestKernelUeventsOfThisHost(t *testing.T) {
	trigger, err := os.OpenFile("/sys/devices/virtual/mem/null/uevent", os.O_WRONLY, 0)
	if err != nil {
		testenv.Skip(t, "only root can make the kernel send a uevent: "+err.Error())
	}
	defer trigger.Close()
	l, err := ListenUevents()
	must(t, err)
	r := newRecorder()
	const uuid = "4d2cf6e2-63e6-4d2a-8b4f-1f0f6a2f5b11"
	found := make(chan string, 100)
	r.onEvent = func(e *Event) {
		if string(e.Get("SYNTH_UUID")) == uuid {
			found <- string(e.Get("DEVNAME")) + " " + string(e.Get("SYNTH_ARG_ROUND"))
		}
	}
	start(t, l, r)
	for round := range 3 {
		_, err := fmt.Fprintf(trigger, "change %s ROUND=%d", uuid, round)
		must(t, err)
		got := await(t, "the event; uevents reach only the first user namespace and its network namespaces", found)
		if want := fmt.Sprint("null ", round); got != want {
			t.Errorf("device and argument %q, want %q", got, want)
		}
	}
}
