// SPDX-License-Identifier: Apache-2.0

// Package logpipe keeps a program running whose log nobody reads.
//
// A program that logs to standard error stops in the middle of a log call when the pipe behind it
// is full, and Go ends a program that writes to a standard error that is closed (os/signal,
// SIGPIPE). A [Pipe] stands between: the program writes to a pipe that the Pipe always empties, and
// a goroutine of the Pipe writes the lines to standard error. While it cannot, up to a megabyte of
// lines waits; further lines are lost, and counted.
//
// The runtime writes the trace of a panic to file descriptor 2 itself, so it does not pass the Pipe
// and is not lost with it.
package logpipe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	waitingMax = 1 << 20 // bytes of lines that wait to be written
	lineMax    = 4 << 10 // a longer line counts as several, so that it needs no larger buffer
)

// Pipe passes lines on to a file without making their writer wait.
type Pipe struct {
	in    *os.File
	done  chan struct{} // closed when all lines are written
	close func() error  // of in
}

// Open returns a Pipe that passes lines on to out. When lines were lost and a line could be written
// again, lost is called with their number, in a goroutine of the Pipe; it may write to [Pipe.File].
//
// Open duplicates out's descriptor: closing out does not affect the Pipe. Writing to the duplicate
// of a closed standard error is an error, while writing to standard error itself ends the process.
func Open(out *os.File, lost func(lines int)) (*Pipe, error) {
	fd, err := unix.FcntlInt(out.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of %s: %w", out.Name(), err)
	}
	to := os.NewFile(uintptr(fd), out.Name())
	from, in, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	q := newQueue(to, waitingMax, lost)
	p := &Pipe{in: in, done: make(chan struct{}), close: sync.OnceValue(in.Close)}
	go func() {
		defer from.Close()
		defer q.end()
		readLines(from, q.put)
	}()
	go func() {
		defer close(p.done)
		defer to.Close()
		q.run()
	}()
	return p, nil
}

// File returns the file to write to instead of out.
func (p *Pipe) File() *os.File { return p.in }

// Close closes the file and waits until all lines are written, but at most for timeout; it reports
// whether they are. After a timeout, a goroutine of the Pipe still waits for the reader of out.
// Close may be called more than once.
func (p *Pipe) Close(timeout time.Duration) bool {
	_ = p.close()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// readLines calls put with each line of r until r ends. A last line without a newline counts.
func readLines(r io.Reader, put func(line []byte)) {
	lines := bufio.NewReaderSize(r, lineMax)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			put(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
