// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"qatplugin/qat/internal/hostwatch"
)

const (
	// DefaultADFCtl is the name of the program of the out-of-tree stack.
	DefaultADFCtl = "adf_ctl"

	// DefaultADFCtlTimeout is a hundred times what the program takes, so that
	// only a program that hangs is killed.
	DefaultADFCtlTimeout = 10 * time.Second

	// pipeTimeout is how long a child that outlived the program may keep its output open.
	pipeTimeout = time.Second

	// maxOutput is in bytes. The line of a device is about 100 bytes long.
	maxOutput = 1 << 20
)

// adfctl is the program of the out-of-tree stack that knows which devices are up.
type adfctl struct {
	program string // a path, or a name in $PATH
	timeout time.Duration
}

// A statusFunc returns the output of `adf_ctl status`.
type statusFunc func(context.Context) ([]byte, error)

// status runs `adf_ctl status` and returns its output. At the timeout, or when
// ctx ends, it kills the program's process group.
func (a adfctl) status(ctx context.Context) ([]byte, error) {
	timeout, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var stdout, stderr prefix
	cmd := exec.CommandContext(timeout, a.program, "status")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // also kill the children of a shell script
	cmd.WaitDelay = pipeTimeout
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.Signal(0)); errors.Is(err, os.ErrProcessDone) {
			return err // its number may belong to another process by now
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && timeout.Err() == nil {
		err = nil // adf_ctl has ended and its output is complete; a child of it holds the pipe open
	}
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case timeout.Err() != nil:
		err = fmt.Errorf("no answer within %v, killed", a.timeout)
	default:
		if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
			err = fmt.Errorf("%w: %s", err, line)
		}
	}
	return nil, fmt.Errorf("run %q: %w", a.program+" status", err)
}

// A prefix keeps the first maxOutput bytes of what is written to it.
type prefix struct{ bytes.Buffer }

// Write accepts everything, so that the program never waits for a reader.
func (p *prefix) Write(text []byte) (int, error) {
	if room := maxOutput - p.Len(); room > 0 {
		p.Buffer.Write(text[:min(len(text), room)])
	}
	return len(text), nil
}

// A cause is the reason for a run of adf_ctl.
type cause uint8

const (
	causeEvent   cause = iota // an event, or a failed or contradictory answer before
	causeAudit                // an audit: a change that it finds is not accepted yet
	causeRecheck              // an audit found a change and no event reported it since: now it is accepted
)

// An answer is the result of one run of adf_ctl.
type answer struct {
	cause cause
	text  []byte
	err   error
}

// A runner runs adf_ctl in a goroutine, one run at a time. Its methods belong
// to the goroutine of the loop.
type runner struct {
	ctx    context.Context
	status statusFunc
	done   func(since time.Time) // called from the run's goroutine, after its answer was stored

	answers chan answer // holds one
	running bool
	again   time.Time // when the first event arrived that needs one more run; zero: none did
	ended   sync.WaitGroup
}

// request starts a run because of an event that arrived at since. If one is
// under way, that asks for one more run.
func (r *runner) request(since time.Time) {
	if r.running {
		r.again = hostwatch.Earlier(r.again, since)
		return
	}
	r.start(causeEvent, since)
}

// start starts a run. None may be under way. since is when the first cause of it was noticed.
func (r *runner) start(c cause, since time.Time) {
	since = hostwatch.Earlier(r.again, since)
	r.running, r.again = true, time.Time{}
	r.ended.Go(func() {
		text, err := r.status(r.ctx)
		if r.ctx.Err() != nil {
			return // the plugin is stopping
		}
		r.answers <- answer{cause: c, text: text, err: err}
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
