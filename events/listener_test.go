// SPDX-License-Identifier: Apache-2.0

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

func anySender(sender) bool { return true }

// listenPair returns a listener on one end of a socket pair, and the other end.
func listenPair(t testing.TB, kind int, trusted func(sender) bool) (*UeventListener, int) {
	t.Helper()
	fd, peer := socketPair(t, kind)
	l, err := newUeventListener(fd, ueventBuffer, trusted)
	must(t, err)
	t.Cleanup(func() {
		_ = l.Close()
		_ = unix.Close(peer)
	})
	return l, peer
}

func wantStats(t tester, l *UeventListener, want UeventStats) {
	t.Helper()
	if got := l.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestListenSocketDeliversEvents(t *testing.T) {
	fd, peer := socketPair(t, unix.SOCK_DGRAM)
	defer unix.Close(peer)
	l, err := ListenSocket(fd)
	must(t, err)
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
	r.waitFor(t, observed{Remove, "/devices/x"})
	stop()
	r.wantResyncs(t, 0)
	events, _ := r.all()
	if len(events) != 2 || events[0] != (observed{Bind, "/devices/pci0000:6b/0000:6b:00.1"}) {
		t.Errorf("got %v", events)
	}
	if driver != "vfio-pci" || received.Before(before) || received.After(time.Now()) {
		t.Errorf("driver %q, received %v", driver, received)
	}
	wantStats(t, l, UeventStats{Received: 2})
}

func TestListenerPassesSenderToTrustCheck(t *testing.T) {
	senders := make(chan sender, 1)
	l, peer := listenPair(t, unix.SOCK_DGRAM, func(s sender) bool { senders <- s; return true })
	start(t, l, newRecorder())
	send(t, peer, "add@/x\x00")
	want := sender{credentials: true, pid: int32(os.Getpid()), uid: uint32(os.Getuid())}
	if got := await(t, "a message", senders); got != want {
		t.Errorf("sender %+v, want %+v", got, want)
	}
}

func TestListenerRejectsUntrustedSender(t *testing.T) {
	// The first message is untrusted and malformed. It must not cause a Resync.
	messages := 0
	l, peer := listenPair(t, unix.SOCK_DGRAM, func(sender) bool { messages++; return messages > 1 })
	r := newRecorder()
	send(t, peer, "nonsense")
	send(t, peer, "add@/x\x00")
	start(t, l, r)
	r.waitFor(t, observed{Add, "/x"})
	r.wantResyncs(t, 0)
	wantStats(t, l, UeventStats{Received: 1, Rejected: 1})
	r.wantIgnored(t, Ignored{PID: int32(os.Getpid()), UID: uint32(os.Getuid())})
}

func TestMalformedMessageCausesResync(t *testing.T) {
	for name, message := range map[string]string{
		"no NUL":         "add@/x",
		"unknown action": "explode@/x\x00",
		"empty":          "\x00",
		"too long":       "add@/xy\x00" + strings.Repeat("A=1\x00", messageSize/4), // ends with NUL when truncated
		"one byte more":  "add@/x\x00" + strings.Repeat("A", messageSize-7) + "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
			r := newRecorder()
			start(t, l, r)
			send(t, peer, message)
			send(t, peer, "add@/after\x00")
			r.waitFor(t, observed{Add, "/after"})
			r.wantResyncs(t, 1)
			wantStats(t, l, UeventStats{Received: 1, Malformed: 1})
			r.wantIgnored(t, Ignored{Malformed: true, PID: int32(os.Getpid()), UID: uint32(os.Getuid())})
		})
	}
}

func TestLongestMessageIsDelivered(t *testing.T) {
	l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
	r := newRecorder()
	start(t, l, r)
	path := "/" + strings.Repeat("a", messageSize-6)
	send(t, peer, "add@"+path+"\x00")
	r.waitFor(t, observed{Add, path})
}

func TestResyncFollowsLastOfConsecutiveFailures(t *testing.T) {
	for name, next := range map[string]unix.Errno{"message": 0, "empty queue": unix.EAGAIN} {
		t.Run(name, func(t *testing.T) {
			l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
			r := newRecorder()
			resyncs := 0 // when the event arrives
			r.onEvent = func(*Event) { _, reasons := r.all(); resyncs = len(reasons) }
			for range 3 {
				l.size, l.errno = 0, unix.EIO
				must(t, l.handle(r))
			}
			r.wantResyncs(t, 0)
			if next == 0 {
				send(t, peer, "add@/x\x00")
			}
			must(t, l.file.SetReadDeadline(time.Now().Add(testTimeout)))
			must(t, l.conn.Read(l.read)) // with an empty queue, it must not wait
			must(t, l.handle(r))
			r.wantResyncs(t, 1)
			if next == 0 && resyncs != 1 {
				t.Error("the event arrived before the Resync")
			}
		})
	}
}

// TestHandleCountsConsecutiveFailures feeds handle with results of reads: an error, or 0
// for a message.
func TestHandleCountsConsecutiveFailures(t *testing.T) {
	failures := func(n int) []unix.Errno {
		reads := make([]unix.Errno, n)
		for i := range reads {
			reads[i] = unix.EIO
		}
		return reads
	}
	join := func(reads ...[]unix.Errno) (all []unix.Errno) {
		for _, r := range reads {
			all = append(all, r...)
		}
		return all
	}
	most := failures(maxFailures - 1)
	message, overflow, empty := []unix.Errno{0}, []unix.Errno{unix.ENOBUFS}, []unix.Errno{unix.EAGAIN}
	for name, tt := range map[string]struct {
		reads  []unix.Errno
		resync int
		err    error // of the last read; all others return nil
	}{
		"fewer than the limit":  {join(most, empty), 1, nil},
		"the limit":             {failures(maxFailures), 0, unix.EIO},
		"a message between":     {join(most, message, most, message), 2, nil},
		"an overflow between":   {join(most, overflow, most, empty), 1, nil},
		"an empty queue":        {join(overflow, most, empty, most, empty), 2, nil},
		"a message after it":    {join(overflow, most, message, most, empty), 1, nil},
		"after another message": {join(message, failures(maxFailures)), 0, unix.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
			r := newRecorder()
			for i, errno := range tt.reads {
				if errno == 0 {
					send(t, peer, "add@/x\x00")
					must(t, l.conn.Read(l.read))
				} else {
					l.size, l.errno = 0, errno
				}
				var want error
				if i == len(tt.reads)-1 {
					want = tt.err
				}
				if err := l.handle(r); !errors.Is(err, want) {
					t.Fatalf("read %d: %v, want %v", i, err, want)
				}
			}
			r.wantResyncs(t, tt.resync)
		})
	}
}

func TestEmptyNetlinkMessageIsNoFailure(t *testing.T) {
	// Linux before 5.16 lets a process multicast an empty message. It must not end Run.
	l, _ := listenPair(t, unix.SOCK_DGRAM, sender.isKernel)
	l.receiver.from.Family, l.receiver.hdr.Namelen = unix.AF_NETLINK, unix.SizeofSockaddrNetlink
	r := newRecorder()
	for range maxFailures {
		must(t, l.handle(r))
	}
	r.wantResyncs(t, 0)
	wantStats(t, l, UeventStats{Rejected: maxFailures})
}

func TestRunFailsWhenPeerIsClosed(t *testing.T) {
	l, peer := listenPair(t, unix.SOCK_SEQPACKET, anySender)
	must(t, unix.Shutdown(peer, unix.SHUT_WR)) // each read returns at once, without a message
	r := newRecorder()
	if err := l.Run(context.Background(), r); !errors.Is(err, io.EOF) {
		t.Errorf("Run: %v, want an error that wraps EOF", err)
	}
	r.wantResyncs(t, 0) // the error reports the loss
	if err := l.conn.Control(func(uintptr) {}); err == nil {
		t.Error("Run left the socket open")
	}
}

func TestListenerRunsOnce(t *testing.T) {
	l, _ := listenPair(t, unix.SOCK_DGRAM, anySender)
	start(t, l, newRecorder())()
	wantSecondRunRefused(t, l)
}

func TestRunOfListenerReturnsErrClosedAfterClose(t *testing.T) {
	l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
	r := newRecorder()
	done := goRun(context.Background(), l, r)
	send(t, peer, "add@/x\x00")
	r.waitFor(t, observed{Add, "/x"})
	must(t, l.Close())
	if err := await(t, "the end of Run", done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
	must(t, l.Close())
	wantStats(t, l, UeventStats{Received: 1})
}

func TestRunOfClosedListener(t *testing.T) {
	l, _ := listenPair(t, unix.SOCK_DGRAM, anySender)
	must(t, l.Close())
	if err := l.Run(context.Background(), newRecorder()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
}

func TestSinkMayCloseListener(t *testing.T) {
	l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
	r := newRecorder()
	r.onEvent = func(*Event) { _ = l.Close() }
	done := goRun(context.Background(), l, r)
	send(t, peer, "add@/x\x00")
	if err := await(t, "the end of Run", done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
}

func TestCloseDoesNotWaitForSink(t *testing.T) {
	l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
	entered, leave := make(chan struct{}), make(chan struct{})
	r := newRecorder()
	r.onEvent = func(*Event) { close(entered); <-leave }
	done := goRun(context.Background(), l, r)
	send(t, peer, "add@/x\x00")
	await(t, "the event", entered)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	must(t, await(t, "Close while the sink is busy", closed))
	close(leave)
	await(t, "the end of Run", done)
}

// TestListenerReleasesItsResources closes listeners before, during and after Run, by
// context and by Close, from several goroutines, while messages arrive.
func TestListenerReleasesItsResources(t *testing.T) {
	wantNoDescriptorLeft(t, func() {
		for i := range 1000 {
			fd, peer := socketPair(t, unix.SOCK_DGRAM)
			l, err := ListenSocket(fd)
			must(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			if i%4 != 0 {
				r := newRecorder()
				wg.Go(func() {
					if err := l.Run(ctx, r); err != nil && !errors.Is(err, os.ErrClosed) {
						t.Errorf("Run: %v", err)
					}
				})
				send(t, peer, "add@/x\x00")
				if i%4 == 1 {
					r.waitFor(t, observed{Add, "/x"})
				}
			}
			if i%3 == 0 {
				wg.Go(cancel)
			}
			wg.Go(func() { _ = l.Stats() })
			wg.Go(func() { _ = l.Close() })
			must(t, l.Close())
			wg.Wait()
			cancel()
			must(t, unix.Close(peer))
		}
	})
}

func TestListenSocketClosesDescriptorOnError(t *testing.T) {
	wantNoDescriptorLeft(t, func() {
		for flags, want := range map[int]error{
			unix.O_RDONLY: unix.ENOTSOCK,
			unix.O_PATH:   unix.EBADF, // fcntl rejects it
		} {
			fd, err := unix.Open("/dev/null", flags|unix.O_CLOEXEC, 0)
			must(t, err)
			if _, err := ListenSocket(fd); !errors.Is(err, want) {
				t.Errorf("no socket, but opened with %#x: %v, want %v", flags, err, want)
			}
		}
	})
	if _, err := ListenSocket(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("descriptor -1: %v, want EBADF", err)
	}
}

func TestUeventToMailboxDoesNotAllocate(t *testing.T) {
	l, peer := listenPair(t, unix.SOCK_DGRAM, anySender)
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
			t.Fatal("the event marked no key")
		}
	}
	turn()
	if allocs := testing.AllocsPerRun(1000, turn); allocs != 0 {
		t.Errorf("%v allocations from the socket to the mailbox, want 0", allocs)
	}
}

// markingSink does what a real sink does: it derives a key from the event and marks it.
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

// BenchmarkListener measures from writing a message to taking its key from the mailbox,
// through Go's poller.
func BenchmarkListener(b *testing.B) {
	l, peer := listenPair(b, unix.SOCK_DGRAM, anySender)
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
