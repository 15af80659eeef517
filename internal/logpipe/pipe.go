// SPDX-License-Identifier: Apache-2.0

// Package logpipe keeps a program running when nobody reads its log.
//
// If standard error is a full pipe, a log call blocks. If standard error is a pipe without a
// reader, a write ends a Go program with SIGPIPE (os/signal). A [Pipe] prevents both. The program
// writes to the Pipe, which is always emptied, and a goroutine writes the lines to standard error.
// While standard error accepts no data, the Pipe buffers up to 1 MiB of lines. It drops and counts
// further lines.
//
// The trace of a panic is not affected: the runtime writes it directly to file descriptor 2.
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
	waitingMax = 1 << 20   // bytes of lines that wait to be written
	lineMax    = 4 << 10   // bytes of most lines; a longer one is copied
	passMax    = 256 << 10 // bytes; a longer line is passed on in parts, of which some can be lost
)

// Pipe passes lines on to a file. A write to the Pipe does not wait for the file.
type Pipe struct {
	in    *os.File
	done  chan struct{} // closed when all lines are written
	close func() error  // of in
}

// Open returns a Pipe that passes lines on to out. After lines were lost, the Pipe calls lost with
// their number as soon as a write succeeds again. It calls lost from one of its own goroutines, and
// lost may write to [Pipe.File].
//
// Open duplicates the descriptor of out, so closing out does not affect the Pipe. If the reader of
// standard error has gone, a write to the duplicate returns an error; a write to descriptor 2 would
// end the process.
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

// Close closes the file that File returns, and waits until all lines are written, but at most for
// timeout. It reports whether all lines are written. After a timeout, a goroutine of the Pipe still
// waits to write to out. Close may be called more than once.
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

// readLines calls put with each line of r until r ends, including a last line without a newline.
func readLines(r io.Reader, put func(line []byte)) {
	lines := bufio.NewReaderSize(r, lineMax)
	var long []byte // the beginning of a long line
	for {
		line, err := lines.ReadSlice('\n')
		isPart := errors.Is(err, bufio.ErrBufferFull)
		if isPart || len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		if isPart && len(line) < passMax {
			continue
		}
		if len(line) > 0 {
			put(line)
		}
		long = nil
		if err != nil && !isPart {
			return
		}
	}
}
