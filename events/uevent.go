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

// DefaultBufferSize is what a UeventListener asks of the kernel: room for about 13,000 messages. Making the VFs of a big host is some
// hundreds; without CAP_NET_ADMIN the limit is net.core.rmem_max, see [UeventListener.BufferSize].
const DefaultBufferSize = 8 << 20

// maxFailures is how many reads in a row may fail before Run gives up.
const maxFailures = 8

// UeventListener hears the uevents of the kernel. It is a Source.
type UeventListener struct {
	file    *os.File // owns the socket
	conn    syscall.RawConn
	trust   Trust
	wanted  int
	got     int
	started atomic.Bool
	closed  atomic.Bool
	closing sync.Once
	stats   struct {
		received, rejected, malformed, overflows, discarded atomic.Uint64
		drops                                               atomic.Uint32 // as it was last read
	}

	// Of Run alone:
	receiver *receiver
	event    Event
	draining bool // after an overflow, until the queue is empty
	failures int  // reads that failed in a row
	size     int  // of the message that was read
	errno    unix.Errno
}

// UeventStats counts messages since the listener was made.
type UeventStats struct {
	Received  uint64 // handed to the sink
	Rejected  uint64 // not sent by who is trusted
	Malformed uint64 // sent by who is trusted, but making no sense: each is a Resync
	Overflows uint64 // times that the socket's buffer was full: each is a Resync
	Discarded uint64 // read but thrown away on the way to the end of an overflow
	Drops     uint64 // never read, as the buffer was full (SO_MEMINFO)
}

// ListenUevents opens the listener's socket. From here on the kernel queues events for it; Run hands them out.
func ListenUevents(opts ...Option) (*UeventListener, error) {
	o := ueventOptions{size: DefaultBufferSize, fd: -1, trust: TrustKernel}
	for _, opt := range opts {
		opt(&o)
	}
	if !o.foreign {
		fd, err := openUeventSocket()
		if err != nil {
			return nil, err
		}
		o.fd = fd
	}
	unix.CloseOnExec(o.fd)
	if err := unix.SetNonblock(o.fd, true); err != nil { // before NewFile, so that reads wait in Go's poller
		_ = unix.Close(o.fd)
		return nil, fmt.Errorf("make uevent socket non-blocking: %w", err)
	}
	l := &UeventListener{file: os.NewFile(uintptr(o.fd), "uevent socket"), trust: o.trust, wanted: o.size, receiver: newReceiver()}
	if err := l.prepare(o.fd); err != nil {
		_ = l.file.Close() // what matters is why it could not be used
		return nil, err
	}
	return l, nil
}

func (l *UeventListener) prepare(fd int) (err error) {
	if l.conn, err = l.file.SyscallConn(); err != nil {
		return fmt.Errorf("use uevent socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return fmt.Errorf("ask for credentials on uevent socket: %w", err)
	}
	if l.got, err = setReceiveBuffer(fd, l.wanted); err != nil {
		return fmt.Errorf("set receive buffer of uevent socket: %w", err)
	}
	return nil
}

// setReceiveBuffer asks for size bytes, past net.core.rmem_max if this process may, and returns what there is now.
func setReceiveBuffer(fd, size int) (got int, err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size); err != nil {
			return 0, err
		}
	}
	got, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return got / 2, err // the kernel doubles what it is asked for, for its own use (socket(7))
}

// Run hands every event to sink until ctx ends, and then closes the listener and returns nil. It is called once. An error is
// [os.ErrClosed] when Close ended it, or what went wrong with the socket several times in a row.
func (l *UeventListener) Run(ctx context.Context, sink Sink) error {
	if !l.started.CompareAndSwap(false, true) {
		return errors.New("run uevent listener: it was run before")
	}
	defer l.Close()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = l.Close() // ends the read that waits
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	read := l.read // once: a method value is an allocation
	for ctx.Err() == nil {
		err := l.conn.Read(read)
		switch {
		case ctx.Err() != nil:
			return nil
		case l.closed.Load():
			return fmt.Errorf("read uevents: %w", os.ErrClosed)
		case err == nil:
			err = l.handle(sink)
		}
		if err != nil {
			return fmt.Errorf("read uevents: %w", err)
		}
	}
	return nil
}

// read is called by Go's poller, which calls it again when there is something to read if it returns false.
func (l *UeventListener) read(fd uintptr) bool {
	l.size, l.errno = l.receiver.receive(fd)
	return l.errno != unix.EAGAIN || l.draining
}

// handle does what the last read asks for. The sink is called here, and not in read, so that it does not hold up Close. An error is
// one that Run ends with.
func (l *UeventListener) handle(sink Sink) error {
	switch {
	case l.errno == unix.ENOBUFS:
		// It comes before the messages that are still queued. Until the queue is empty the kernel drops every new message
		// without a word, so nothing that is looked at before then is sure: go there at once.
		l.stats.overflows.Add(1)
		l.draining = true
	case l.errno == unix.EAGAIN: // only at the end of an overflow
		l.draining = false
		sink.Resync("uevent socket overflow")
	case l.errno != 0:
		return l.fail(sink, l.errno)
	case l.draining:
		l.stats.discarded.Add(1)
	default:
		return l.message(sink)
	}
	l.failures = 0
	return nil
}

func (l *UeventListener) message(sink Sink) error {
	now := time.Now()
	sender := l.receiver.sender()
	if l.size == 0 && !sender.Netlink {
		return l.fail(sink, io.EOF) // the other end of a socket pair closed; netlink has no end
	}
	l.failures = 0
	if !l.trust(sender) {
		l.stats.rejected.Add(1)
		return nil
	}
	if l.receiver.truncated() || ParseUevent(&l.event, l.receiver.message[:l.size]) != nil {
		l.stats.malformed.Add(1)
		sink.Resync("malformed uevent")
		return nil
	}
	l.event.Time = now
	l.stats.received.Add(1)
	sink.Event(&l.event)
	return nil
}

// fail takes note of a read that failed in a way that nobody knows: something may be lost. It returns err when it has gone on too long.
func (l *UeventListener) fail(sink Sink, err error) error {
	l.failures++
	if l.failures >= maxFailures {
		return err
	}
	if l.failures == 1 {
		sink.Resync("uevent socket: " + err.Error())
	}
	return nil
}

// Close closes the socket and ends Run. It may be called more than once.
func (l *UeventListener) Close() error {
	var err error
	l.closing.Do(func() {
		l.readDrops()
		l.closed.Store(true)
		err = l.file.Close()
	})
	return err
}

// Stats are the numbers until now, or until the listener was closed.
func (l *UeventListener) Stats() UeventStats {
	l.readDrops()
	s := &l.stats
	return UeventStats{
		Received: s.received.Load(), Rejected: s.rejected.Load(), Malformed: s.malformed.Load(),
		Overflows: s.overflows.Load(), Discarded: s.discarded.Load(), Drops: uint64(s.drops.Load()),
	}
}

func (l *UeventListener) readDrops() {
	_ = l.conn.Control(func(fd uintptr) { // fails when closed: what was read last stays
		if drops, err := socketDrops(fd); err == nil {
			l.stats.drops.Store(drops)
		}
	})
}

// BufferSize is the size of the receive buffer that was asked for, and the one that the kernel gave: less when this process lacks
// CAP_NET_ADMIN and net.core.rmem_max is lower.
func (l *UeventListener) BufferSize() (wanted, got int) { return l.wanted, l.got }
