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

// forger is a netlink socket of a process that pretends to be the kernel.
type forger struct{ fd int }

func newForger(t testing.TB) forger {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	ok(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return forger{fd}
}

// multicast sends to group 1, from the port of this socket.
func (f forger) multicast(t testing.TB, message string) {
	t.Helper()
	ok(t, unix.Sendto(f.fd, []byte(message), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
}

// unicast sends to one socket.
func (f forger) unicast(t testing.TB, message string, port uint32) {
	t.Helper()
	ok(t, unix.Sendto(f.fd, []byte(message), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}))
}

// throughKernel asks the kernel to multicast a message, which then comes from port 0 (uevent_net_rcv_skb in lib/kobject_uevent.c).
func (f forger) throughKernel(t testing.TB, message string) {
	t.Helper()
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(message))
	binary.NativeEndian.PutUint32(b[0:], uint32(unix.SizeofNlMsghdr+len(message)))
	binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_MIN_TYPE) // lower ones are netlink's own
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	ok(t, unix.Sendto(f.fd, append(b, message...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

func portOf(t testing.TB, l *UeventListener) (port uint32) {
	t.Helper()
	ok(t, l.conn.Control(func(fd uintptr) {
		if name, err := unix.Getsockname(int(fd)); err == nil {
			port = name.(*unix.SockaddrNetlink).Pid
		}
	}))
	return port
}

// genuine makes the kernel send a uevent that stays in the network namespace: the loopback device gets another name.
func genuine(t testing.TB, from, to string) heard {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	ok(t, err)
	defer unix.Close(fd)
	var request struct {
		name, newName [unix.IFNAMSIZ]byte
		_             [8]byte
	}
	copy(request.name[:], from)
	copy(request.newName[:], to)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFNAME, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("rename %s to %s: %v", from, to, errno)
	}
	return heard{Move, "/devices/virtual/net/" + to}
}

// trustOurselves trusts what this process multicasts, as TrustKernel trusts what the kernel does.
func trustOurselves(s Sender) bool {
	return s.Netlink && s.Port != 0 && s.Groups == 1 && s.Credentials && s.PID == int32(os.Getpid())
}

func listenToOurselves(t testing.TB, opts ...Option) *UeventListener {
	t.Helper()
	fd, err := openUeventSocket()
	ok(t, err)
	l, err := ListenUevents(append(opts, WithSocket(fd, trustOurselves))...)
	ok(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestForgedMessagesAreRejected(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l, err := ListenUevents()
	ok(t, err)
	r := newRecorder()
	start(t, l, r)
	f := newForger(t)
	for _, message := range []string{"add@/devices/forged\x00SUBSYSTEM=pci\x00", "add@/no-NUL"} {
		f.multicast(t, message)
		f.unicast(t, message, portOf(t, l))
		f.throughKernel(t, message)
	}
	want := genuine(t, "lo", "fence")
	r.waitFor(t, want)
	if events, resyncs := r.all(); len(events) != 1 || len(resyncs) != 0 {
		t.Errorf("heard %v and Resyncs %q, want only %v", events, resyncs, want)
	}
	if got := l.Stats(); got != (UeventStats{Received: 1, Rejected: 6}) {
		t.Errorf("numbers %+v, want 6 rejected", got)
	}
}

// It is the credentials that show it: without them a message that the kernel multicasts for a process looks like the kernel's own.
func TestMessageThroughTheKernelComesFromPortZero(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	fd, err := openUeventSocket()
	ok(t, err)
	senders := make(chan Sender, 1)
	l, err := ListenUevents(WithSocket(fd, func(s Sender) bool { senders <- s; return true }))
	ok(t, err)
	start(t, l, newRecorder())
	newForger(t).throughKernel(t, "add@/forged\x00")
	want := Sender{Netlink: true, Port: 0, Groups: 1, Credentials: true, PID: int32(os.Getpid()), UID: 0}
	if got := within(t, "the message", senders); got != want {
		t.Errorf("sender %+v, want %+v", got, want)
	}
}

func TestHundredThousandUeventsWithoutLoss(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const total = 100_000
	l := listenToOurselves(t)
	var received atomic.Int64
	var outOfOrder int
	r := &countingSink{received: &received, outOfOrder: &outOfOrder, changed: make(chan struct{}, 1)}
	stop := start(t, l, r)
	f := newForger(t)
	// A busy machine may not run the reader for a while, and the smallest default buffer holds 166 messages: more are never under way.
	_, got := l.BufferSize()
	window := int64(max(got/2048, 50))
	began := time.Now()
	for i := range int64(total) {
		for i-received.Load() >= window {
			within(t, "the reader", r.changed)
		}
		f.multicast(t, fmt.Sprintf("add@/devices/pci0000:6b/0000:6b:00.1/%06d\x00ACTION=add\x00DEVPATH=/devices/pci0000:6b/0000:6b:00.1/%06d\x00SUBSYSTEM=pci\x00SEQNUM=%d\x00", i, i, i))
	}
	for received.Load() < total {
		within(t, "the last events", r.changed)
	}
	took := time.Since(began)
	stop()
	if stats := l.Stats(); stats != (UeventStats{Received: total}) || outOfOrder != 0 || r.resyncs.Load() != 0 {
		t.Errorf("numbers %+v, %d out of order, %d Resyncs", stats, outOfOrder, r.resyncs.Load())
	}
	t.Logf("%d uevents in %v, at most %d under way", total, took, window)
}

type countingSink struct {
	received   *atomic.Int64
	outOfOrder *int
	resyncs    atomic.Int64
	changed    chan struct{}
}

func (s *countingSink) Event(e *Event) {
	n := s.received.Load()
	if string(e.Get("SEQNUM")) != fmt.Sprint(n) {
		*s.outOfOrder++
	}
	s.received.Store(n + 1)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *countingSink) Resync(string) { s.resyncs.Add(1) }

func TestOverflowIsOneResyncAndItHearsAfterwards(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const flood = 1000
	l := listenToOurselves(t, WithBufferSize(4096))
	f := newForger(t)
	for i := range flood { // nobody reads yet
		f.multicast(t, fmt.Sprintf("add@/flood/%d\x00SUBSYSTEM=pci\x00", i))
	}
	r := newRecorder()
	start(t, l, r)
	for round := range 3 {
		r.waitForResyncs(t, 1)
		f.multicast(t, fmt.Sprintf("add@/after/%d\x00", round))
		r.waitFor(t, heard{Add, fmt.Sprintf("/after/%d", round)})
	}
	events, resyncs := r.all()
	if len(events) != 3 || len(resyncs) != 1 {
		t.Errorf("heard %v and Resyncs %q, want three events and one Resync", events, resyncs)
	}
	stats := l.Stats()
	if stats.Overflows != 1 || stats.Drops == 0 || stats.Discarded == 0 || stats.Discarded+stats.Drops != flood {
		t.Errorf("numbers %+v: discarded and dropped together must be %d", stats, flood)
	}
	t.Logf("numbers %+v", stats)
}

func TestGenuineEventInItsOwnNamespace(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l, err := ListenUevents()
	ok(t, err)
	want := genuine(t, "lo", "first") // before Run: subscribe, then look
	r := newRecorder()
	start(t, l, r)
	r.waitFor(t, want)
	r.waitFor(t, genuine(t, "first", "lo"))
	if stats := l.Stats(); stats.Received != 2 || stats.Rejected != 0 {
		t.Errorf("numbers %+v", stats)
	}
}

// The device of /dev/null takes a synthetic event without any harm, and every machine has it.
func TestGenuineEventOfThisHost(t *testing.T) {
	const device = "/sys/devices/virtual/mem/null/uevent"
	trigger, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		testenv.Skip(t, "only root can ask the kernel for a uevent: "+err.Error())
	}
	defer trigger.Close()
	l, err := ListenUevents()
	ok(t, err)
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
		if _, err := fmt.Fprintf(trigger, "change %s ROUND=%d", uuid, round); err != nil {
			t.Fatal(err)
		}
		if got, want := within(t, "the event; a user or network namespace that is not the first one's hears none", found), fmt.Sprint("null ", round); got != want {
			t.Errorf("device and argument %q, want %q", got, want)
		}
	}
}
