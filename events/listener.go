// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ueventBuffer is the receive buffer that a listener asks for. It holds about
	// 13,000 messages; creating the VFs of a large host takes some hundreds. Without
	// CAP_NET_ADMIN the kernel grants at most net.core.rmem_max.
	ueventBuffer = 8 << 20
	// maxFailures is the number of consecutive failed reads that ends Run.
	maxFailures = 8
)

// UeventListener receives the kernel's uevents. It is a Source.
type UeventListener struct {
	file    *os.File // owns the socket
	conn    syscall.RawConn
	trusted func(sender) bool // called for each message
	started atomic.Bool
	closed  atomic.Bool
	closing sync.Once
	stats   struct {
		received, rejected, malformed, overflows atomic.Uint64
		drops                                    atomic.Uint32 // the last value read
	}

	// The fields below belong to Run.
	receiver *receiver
	event    Event
	lost     string     // the reason for a Resync that is due, or ""
	draining bool       // after an overflow: the Resync waits until the queue is empty
	failures int        // consecutive failed reads
	size     int        // size of the message that was read
	errno    unix.Errno // error of the last read
}

// UeventStats counts messages since the listener was created.
type UeventStats struct {
	Received  uint64 // passed to the sink
	Rejected  uint64 // ignored: not sent by the kernel
	Malformed uint64 // not a uevent; each caused a Resync
	Overflows uint64 // times (not messages) the socket's buffer was full; each caused a Resync
	Drops     uint64 // dropped by the kernel, because the buffer was full (SO_MEMINFO)
}

// ListenUevents starts to receive the uevents of the kernel. The kernel queues them from now on;
// Run delivers them. They arrive only in network namespaces of the initial user namespace; in
// others, the listener is silent. The receive buffer is large only with CAP_NET_ADMIN.
func ListenUevents() (*UeventListener, error) {
	fd, err := openUeventSocket()
	if err != nil {
		return nil, err
	}
	return newUeventListener(fd, ueventBuffer, sender.isKernel)
}

// ListenSocket receives uevents from the socket fd and accepts them from any sender. It
// is meant for tests and demonstrations with a socket pair (SOCK_DGRAM or
// SOCK_SEQPACKET). The listener owns fd, even if ListenSocket fails.
func ListenSocket(fd int) (*UeventListener, error) {
	return newUeventListener(fd, ueventBuffer, func(sender) bool { return true })
}

func newUeventListener(fd, bufferSize int, trusted func(sender) bool) (*UeventListener, error) {
	if err := prepareSocket(fd, bufferSize); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("prepare uevent socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "uevent socket")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("prepare uevent socket: %w", err)
	}
	return &UeventListener{file: file, conn: conn, trusted: trusted, receiver: newReceiver()}, nil
}

// Run passes events to sink until ctx ends. See [Source] for its error.
func (l *UeventListener) Run(ctx context.Context, sink Sink) error {
	if !l.started.CompareAndSwap(false, true) {
		return errors.New("run uevent listener: called twice")
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // ends a pending read
	defer stop()
	read := l.read // once, because a method value is an allocation
	for ctx.Err() == nil {
		err := l.conn.Read(read)
		switch {
		case ctx.Err() != nil:
			return nil
		case l.closed.Load():
			err = os.ErrClosed
		case err == nil:
			err = l.handle(sink)
		}
		if err != nil {
			return fmt.Errorf("read uevents: %w", err)
		}
	}
	return nil
}

// read reads one message. Go's poller waits for more data and calls read again if it
// returns false.
func (l *UeventListener) read(fd uintptr) bool {
	l.size, l.errno = l.receiver.receive(fd)
	return l.errno != unix.EAGAIN || l.lost != ""
}

// handle evaluates the last read. It is separate from read so that a slow sink does not
// delay Close. Run ends with the returned error.
func (l *UeventListener) handle(sink Sink) error {
	empty := l.errno == unix.EAGAIN // read returns it only if a Resync is due
	switch {
	case l.errno == unix.ENOBUFS:
		// The kernel reports an overflow before the messages that are still queued, and
		// silently drops every new message until the queue is empty. Only a Resync
		// after that point covers them all. The queued messages still go to the sink: some
		// report what reading the device does not show, such as a PCI error.
		l.stats.overflows.Add(1)
		l.failures, l.draining, l.lost = 0, true, "uevent socket overflow"
		return nil
	case l.errno != 0 && !empty:
		return l.fail(l.errno)
	case l.errno == 0 && l.size == 0 && !l.receiver.sender().netlink:
		return l.fail(io.EOF) // the peer of a socket pair was closed; netlink has no peer
	}
	l.failures = 0
	if l.lost != "" && (empty || !l.draining) {
		sink.Resync(l.lost)
		l.draining, l.lost = false, ""
	}
	if !empty {
		l.handleMessage(sink)
	}
	return nil
}

func (l *UeventListener) handleMessage(sink Sink) {
	now, from := time.Now(), l.receiver.sender()
	switch {
	case !l.trusted(from):
		l.stats.rejected.Add(1)
		from.ignored(sink, false)
	case l.receiver.truncated() || ParseUevent(&l.event, l.receiver.message[:l.size]) != nil:
		l.stats.malformed.Add(1)
		from.ignored(sink, true)
		sink.Resync("malformed uevent")
	default:
		l.event.Time = now
		l.stats.received.Add(1)
		sink.Event(&l.event)
	}
}

// ignored reports a message of this sender to sink if that is an IgnoredSink.
func (s sender) ignored(sink Sink, malformed bool) {
	if sink, ok := sink.(IgnoredSink); ok {
		sink.Ignored(Ignored{Malformed: malformed, Port: s.port, PID: s.pid, UID: s.uid})
	}
}

// fail counts a failed read. The next read that succeeds causes a Resync, because events
// may be lost. fail returns err once too many reads have failed in a row.
func (l *UeventListener) fail(err error) error {
	if l.failures++; l.failures >= maxFailures {
		return err
	}
	if !l.draining {
		l.lost = "uevent socket: " + err.Error()
	}
	return nil
}

// Close closes the socket and ends Run. It may be called more than once.
func (l *UeventListener) Close() error {
	var err error
	l.closing.Do(func() {
		l.updateDrops()
		l.closed.Store(true)
		err = l.file.Close()
	})
	return err
}

// Stats returns the current counters; after Close, those at that time.
func (l *UeventListener) Stats() UeventStats {
	l.updateDrops()
	s := &l.stats
	return UeventStats{
		Received:  s.received.Load(),
		Rejected:  s.rejected.Load(),
		Malformed: s.malformed.Load(),
		Overflows: s.overflows.Load(),
		Drops:     uint64(s.drops.Load()),
	}
}

// updateDrops reads the kernel's counter. It keeps the last value once the socket is closed.
func (l *UeventListener) updateDrops() {
	_ = l.conn.Control(func(fd uintptr) {
		if drops, errno := socketDrops(fd); errno == 0 {
			l.stats.drops.Store(drops)
		}
	})
}
