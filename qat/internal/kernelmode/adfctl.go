// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"qatplugin/qat/internal/hostwatch"
)

const (
	// DefaultADFCtl is the name of the program of the out-of-tree stack.
	DefaultADFCtl = "adf_ctl"

	// DefaultADFCtlTimeout is a hundred times as long as the program usually runs, so that
	// only a program that hangs is killed.
	DefaultADFCtlTimeout = 10 * time.Second

	// pipeTimeout is how long a child process may keep the output open after the program ended.
	pipeTimeout = time.Second

	// maxOutput limits the output of the program, in bytes. A device has a line of about 100 bytes.
	maxOutput = 1 << 20

	// maxErrorLine limits how much of the program's error output becomes part of an error, in
	// bytes.
	maxErrorLine = 200
)

// adfctl runs adf_ctl, the program of the out-of-tree stack that reports which devices are up.
type adfctl struct {
	program string // a path, or a name in $PATH
	timeout time.Duration
}

// A statusFunc returns the output of `adf_ctl status`.
type statusFunc func(context.Context) ([]byte, error)

// status runs `adf_ctl status` and returns its output. At the timeout, when ctx ends, or when the
// program writes more than maxOutput, it kills the program's process group.
func (a adfctl) status(ctx context.Context) ([]byte, error) {
	timeout := fmt.Errorf("no answer within %v, killed", a.timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, timeout)
	defer cancel()
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	stdout, stderr := limitedBuffer{full: kill}, limitedBuffer{full: kill}
	cmd := exec.CommandContext(ctx, a.program, "status")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // also kill the children of a shell script
	cmd.WaitDelay = pipeTimeout
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.Signal(0)); errors.Is(err, os.ErrProcessDone) {
			return err // another process may have the number now
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // adf_ctl has ended and its output is complete; a child of it holds the pipe open
	}
	switch {
	case err == nil:
		return stdout.text, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		if line, _, _ := bytes.Cut(bytes.TrimSpace(stderr.text), []byte("\n")); len(line) > 0 {
			err = fmt.Errorf("%w: %s", err, line[:min(len(line), maxErrorLine)])
		}
	}
	return nil, fmt.Errorf("run %q: %w", a.program+" status", err)
}

// errOutput is the error for a program that is killed because it writes too much.
var errOutput = fmt.Errorf("more than %d bytes of output, killed", maxOutput)

// A limitedBuffer stores up to maxOutput bytes. It must not have a method ReadFrom, as bytes.Buffer
// has: io.Copy, which package exec uses, would call ReadFrom instead of Write.
type limitedBuffer struct {
	text []byte
	full func(error) // called with errOutput when the limit is exceeded
}

func (b *limitedBuffer) Write(text []byte) (int, error) {
	if len(b.text)+len(text) > maxOutput {
		b.full(errOutput)
		return 0, errOutput // ends the copying
	}
	b.text = append(b.text, text...)
	return len(text), nil
}

// A cause is the reason for a run of adf_ctl.
type cause uint8

const (
	causeEvent   cause = iota // an event, or a retry after a failed or contradictory answer
	causeAudit                // an audit; a change that it finds is not accepted yet
	causeRecheck              // AuditGrace after an audit that found a change; the change is accepted now
)

// An answer is the result of one run of adf_ctl.
type answer struct {
	cause    cause
	entries  []entry
	badLines skips
	err      error // if not nil, entries and badLines are empty
}

// A runner runs adf_ctl in a goroutine, one run at a time. Its methods belong
// to the goroutine of the loop.
type runner struct {
	ctx    context.Context
	status statusFunc
	done   func(since time.Time) // called from the run's goroutine after the answer was stored

	answers chan answer // capacity 1
	running bool
	again   time.Time // when the first event arrived that needs one more run; zero: none needed
	ended   sync.WaitGroup
}

// request starts a run because of an event that arrived at since. During a run,
// it requests one more run after that.
func (r *runner) request(since time.Time) {
	if r.running {
		r.again = hostwatch.Earlier(r.again, since)
		return
	}
	r.start(causeEvent, since)
}

// start starts a run. No other run may be in progress. since is when the first cause of the run was
// noticed.
func (r *runner) start(c cause, since time.Time) {
	since = hostwatch.Earlier(r.again, since)
	r.running, r.again = true, time.Time{}
	r.ended.Go(func() {
		text, err := r.status(r.ctx)
		if r.ctx.Err() != nil {
			return // the plugin is stopping
		}
		a := answer{cause: c, err: err}
		if err == nil {
			a.entries, a.badLines, a.err = parseStatus(text)
		}
		r.answers <- a
		r.done(since)
	})
}

// take returns the answer of a run that has ended. It does not wait.
func (r *runner) take() (a answer, ok bool) {
	select {
	case a = <-r.answers:
		r.running = false
		return a, true
	default:
		return answer{}, false
	}
}
