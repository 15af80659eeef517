package events

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair makes a listener on one end of a socket pair, and returns the other end.
func pair(t testing.TB, kind int, trust Trust, opts ...Option) (*UeventListener, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	ok(t, err)
	l, err := ListenUevents(append(opts, WithSocket(fds[0], trust))...)
	ok(t, err)
	t.Cleanup(func() {
		_ = l.Close()
		_ = unix.Close(fds[1])
	})
	return l, fds[1]
}

func send(t testing.TB, fd int, message string) {
	t.Helper()
	if _, err := unix.Write(fd, []byte(message)); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func TestListenerHandsOutWhatItReads(t *testing.T) {
	l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	before := time.Now()
	send(t, peer, bindMessage) // queued before Run
	r := newRecorder()
	var driver string
	var received time.Time
	r.onEvent = func(e *Event) {
		if e.Action == Bind {
			driver, received = string(e.Get("DRIVER")), e.Time
		}
	}
	stop := start(t, l, r)
	send(t, peer, "remove@/devices/x\x00SUBSYSTEM=pci\x00")
	r.waitFor(t, heard{Remove, "/devices/x"})
	stop()
	if events, resyncs := r.all(); len(events) != 2 || events[0] != (heard{Bind, "/devices/pci0000:6b/0000:6b:00.1"}) || len(resyncs) != 0 {
		t.Errorf("heard %v and Resyncs %q", events, resyncs)
	}
	if driver != "vfio-pci" || received.Before(before) || received.After(time.Now()) {
		t.Errorf("driver %q, received %v", driver, received)
	}
	if got := l.Stats(); got != (UeventStats{Received: 2}) {
		t.Errorf("numbers %+v", got)
	}
}

func TestListenerTellsTrustWhoSent(t *testing.T) {
	senders := make(chan Sender, 1)
	l, peer := pair(t, unix.SOCK_DGRAM, func(s Sender) bool { senders <- s; return true })
	start(t, l, newRecorder())
	send(t, peer, "add@/x\x00")
	want := Sender{Credentials: true, PID: int32(os.Getpid()), UID: uint32(os.Getuid())}
	if got := within(t, "a message", senders); got != want {
		t.Errorf("sender %+v, want %+v", got, want)
	}
}

func TestTrustKernelTrustsNobodyElse(t *testing.T) {
	kernel := Sender{Netlink: true, Port: 0, Groups: 1, Credentials: true}
	if !TrustKernel(kernel) {
		t.Error("the kernel is not trusted")
	}
	for name, change := range map[string]func(*Sender){
		"another family":   func(s *Sender) { s.Netlink = false },
		"another port":     func(s *Sender) { s.Port = 1 },
		"sent to us alone": func(s *Sender) { s.Groups = 0 },
		"udevd's group":    func(s *Sender) { s.Groups = 2 },
		"no credentials":   func(s *Sender) { s.Credentials = false },
		"a process":        func(s *Sender) { s.PID = 1 },
		"another user":     func(s *Sender) { s.UID = 1000 },
	} {
		s := kernel
		change(&s)
		if TrustKernel(s) {
			t.Errorf("%s is trusted", name)
		}
	}
}

func TestListenerRejectsWhomItDoesNotTrust(t *testing.T) {
	// The first message is not trusted, and makes no sense either: that is no reason for a Resync.
	var trusted bool
	trust := func(Sender) bool { defer func() { trusted = true }(); return trusted }
	l, peer := pair(t, unix.SOCK_DGRAM, trust)
	r := newRecorder()
	send(t, peer, "nonsense")
	send(t, peer, "add@/x\x00")
	start(t, l, r)
	r.waitFor(t, heard{Add, "/x"})
	if _, resyncs := r.all(); len(resyncs) != 0 {
		t.Errorf("Resyncs %q for a message that is not trusted", resyncs)
	}
	if got := l.Stats(); got != (UeventStats{Received: 1, Rejected: 1}) {
		t.Errorf("numbers %+v", got)
	}
}

func TestListenerWithoutTrustTrustsTheKernelAlone(t *testing.T) {
	l, peer := pair(t, unix.SOCK_SEQPACKET, nil)
	r := newRecorder()
	send(t, peer, "add@/x\x00")
	ok(t, unix.Close(peer))
	if err := l.Run(context.Background(), r); !errors.Is(err, io.EOF) {
		t.Errorf("Run: %v, want EOF", err)
	}
	if events, _ := r.all(); len(events) != 0 || l.Stats().Rejected != 1 {
		t.Errorf("heard %v, numbers %+v", events, l.Stats())
	}
}

func TestMessageThatMakesNoSenseIsAResync(t *testing.T) {
	for name, message := range map[string]string{
		"no NUL":         "add@/x",
		"unknown action": "explode@/x\x00",
		"empty":          "\x00",
		"too long":       "add@/xy\x00" + strings.Repeat("A=1\x00", messageSize/4), // cut, it ends in NUL
		"just too long":  "add@/x\x00" + strings.Repeat("A", messageSize-7) + "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
			r := newRecorder()
			start(t, l, r)
			send(t, peer, message)
			send(t, peer, "add@/after\x00")
			r.waitFor(t, heard{Add, "/after"})
			if events, resyncs := r.all(); len(resyncs) != 1 || len(events) != 1 {
				t.Errorf("heard %v and Resyncs %q, want one Resync and one event", events, resyncs)
			}
			if got := l.Stats(); got != (UeventStats{Received: 1, Malformed: 1}) {
				t.Errorf("numbers %+v", got)
			}
		})
	}
}

func TestLongestMessageIsTakenWhole(t *testing.T) {
	l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	r := newRecorder()
	start(t, l, r)
	send(t, peer, "add@/"+strings.Repeat("a", messageSize-6)+"\x00")
	r.wait(t, "the event", func(events []heard, _ []string) bool { return len(events) == 1 && len(events[0].Path) == messageSize-5 })
}

func TestRunEndsWhenReadsKeepFailing(t *testing.T) {
	l, peer := pair(t, unix.SOCK_SEQPACKET, TrustAnyone)
	ok(t, unix.Close(peer)) // each read now returns at once, with nothing
	r := newRecorder()
	if err := l.Run(context.Background(), r); !errors.Is(err, io.EOF) {
		t.Errorf("Run: %v, want an error that wraps EOF", err)
	}
	if _, resyncs := r.all(); len(resyncs) != 1 {
		t.Errorf("Resyncs %q, want one for the first failure", resyncs)
	}
}

func TestRunIsCalledOnce(t *testing.T) {
	l, _ := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ok(t, l.Run(ctx, newRecorder()))
	if err := l.Run(context.Background(), newRecorder()); err == nil {
		t.Error("a second Run was accepted")
	}
}

func TestRunSaysThatTheListenerWasClosed(t *testing.T) {
	l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	r := newRecorder()
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background(), r) }()
	send(t, peer, "add@/x\x00")
	r.waitFor(t, heard{Add, "/x"})
	ok(t, l.Close())
	if err := within(t, "the end of Run", done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
	ok(t, l.Close())
	if got := l.Stats().Received; got != 1 {
		t.Errorf("after Close %d events were received, want 1", got)
	}
}

func TestRunAfterClose(t *testing.T) {
	l, _ := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	ok(t, l.Close())
	if err := l.Run(context.Background(), newRecorder()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
}

func TestCloseFromTheSink(t *testing.T) {
	l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	r := newRecorder()
	r.onEvent = func(*Event) { _ = l.Close() }
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background(), r) }()
	send(t, peer, "add@/x\x00")
	if err := within(t, "the end of Run", done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
}

func TestCloseDoesNotWaitForTheSink(t *testing.T) {
	l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	inSink, leave := make(chan struct{}), make(chan struct{})
	r := newRecorder()
	r.onEvent = func(*Event) { close(inSink); <-leave }
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background(), r) }()
	send(t, peer, "add@/x\x00")
	within(t, "the event", inSink)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	ok(t, within(t, "Close while the sink is busy", closed))
	close(leave)
	within(t, "the end of Run", done)
}

// Descriptors and goroutines: opened and closed before, during and after Run, by the context and by Close, from two sides at once, with messages
// coming all the time.
func TestThousandOpensAndClosesLeaveNothing(t *testing.T) {
	before := openDescriptors(t)
	var worst time.Duration
	for i := range 1000 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		ok(t, err)
		l, err := ListenUevents(WithSocket(fds[0], TrustAnyone))
		ok(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		if i%4 != 0 {
			r := newRecorder()
			wg.Go(func() {
				if err := l.Run(ctx, r); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Errorf("Run: %v", err)
				}
			})
			send(t, fds[1], "add@/x\x00")
			if i%4 == 1 {
				r.waitFor(t, heard{Add, "/x"})
			}
		}
		began := time.Now()
		if i%3 == 0 {
			wg.Go(cancel)
		}
		wg.Go(func() { _ = l.Stats() })
		wg.Go(func() { _ = l.Close() })
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		worst = max(worst, time.Since(began))
		cancel()
		ok(t, unix.Close(fds[1]))
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
	t.Logf("worst Close with its Run: %v", worst)
}

func TestListenUeventsThatFailsLeavesNothing(t *testing.T) {
	before := openDescriptors(t)
	for range 10 {
		var p [2]int
		ok(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
		if _, err := ListenUevents(WithSocket(p[0], TrustAnyone)); !errors.Is(err, unix.ENOTSOCK) {
			t.Errorf("listening on a pipe: %v, want ENOTSOCK", err)
		}
		ok(t, unix.Close(p[1]))
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
	if _, err := ListenUevents(WithSocket(-1, TrustAnyone)); err == nil {
		t.Error("no socket at all was accepted")
	}
}

func TestSocketIsClosedInChildrenAndDoesNotBlock(t *testing.T) {
	l, err := ListenUevents()
	ok(t, err)
	defer l.Close()
	ok(t, l.conn.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor flags %x, %v: no CLOEXEC", flags, err)
		}
		if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("file flags %x, %v: no NONBLOCK", flags, err)
		}
		if v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED); err != nil || v != 1 {
			t.Errorf("SO_PASSCRED is %d, %v", v, err)
		}
	}))
}

func TestBufferSizeIsWhatTheKernelSays(t *testing.T) {
	for _, size := range []int{DefaultBufferSize, 1 << 16} {
		l, err := ListenUevents(WithBufferSize(size))
		ok(t, err)
		wanted, got := l.BufferSize()
		var kernel int
		ok(t, l.conn.Control(func(fd uintptr) { kernel, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) }))
		ok(t, err)
		ok(t, l.Close())
		if wanted != size || got != kernel/2 || got > wanted {
			t.Errorf("wanted %d, got %d, the kernel says %d", wanted, got, kernel)
		}
		t.Logf("wanted %d, got %d", wanted, got)
	}
}

func TestReadingAnEventAllocatesNothing(t *testing.T) {
	l, peer := pair(t, unix.SOCK_DGRAM, TrustAnyone)
	message := []byte(bindMessage)
	m := NewMailbox[[16]byte](100)
	sink := &markingSink{m}
	var b Batch[[16]byte]
	read := l.read
	turn := func() {
		if _, err := unix.Write(peer, message); err != nil {
			t.Fatal(err)
		}
		if err := l.conn.Read(read); err != nil {
			t.Fatal(err)
		}
		if err := l.handle(sink); err != nil {
			t.Fatal(err)
		}
		m.Take(&b)
		if len(b.Dirty) != 1 {
			t.Fatal("not heard")
		}
	}
	turn()
	if allocs := testing.AllocsPerRun(1000, turn); allocs != 0 {
		t.Errorf("%v allocations from the socket into the mailbox, want 0", allocs)
	}
}

// markingSink does what a real one does: it finds a key and marks it.
type markingSink struct{ m *Mailbox[[16]byte] }

func (s *markingSink) Event(e *Event) {
	if string(e.Get("SUBSYSTEM")) != "pci" {
		return
	}
	var key [16]byte
	copy(key[:], e.Path[bytes.LastIndexByte(e.Path, '/')+1:])
	s.m.Mark(key, e.Time)
}

func (s *markingSink) Resync(reason string) { s.m.Resync(reason, time.Now()) }

// BenchmarkListener is the time from the write of a message to the key in the mailbox, through Go's poller.
func BenchmarkListener(b *testing.B) {
	l, peer := pair(b, unix.SOCK_DGRAM, TrustAnyone)
	m := NewMailbox[[16]byte](100)
	start(b, l, &markingSink{m})
	message := []byte(bindMessage)
	var batch Batch[[16]byte]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := unix.Write(peer, message); err != nil {
			b.Fatal(err)
		}
		<-m.Wake()
		m.Take(&batch)
	}
}
