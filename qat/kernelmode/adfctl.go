package kernelmode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	defaultADFCtl = "adf_ctl"
	// defaultADFCtlTimeout is a hundred times what the program takes, so that only one that hangs is killed.
	defaultADFCtlTimeout = 10 * time.Second
	// pipeTimeout is how long a child that outlived the program may keep its output open.
	pipeTimeout = time.Second
	maxOutput   = 1 << 20 // bytes; a device's line has about 100
)

// adfCtl is the program of the out-of-tree stack that knows which devices are up.
type adfCtl struct {
	program string
	timeout time.Duration
}

// status runs `adf_ctl status` and returns what it printed. It waits for the program, and kills its process group at the deadline or when
// ctx ends.
func (a adfCtl) status(ctx context.Context) ([]byte, error) {
	deadline, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var stdout, stderr limited
	cmd := exec.CommandContext(deadline, a.program, "status")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a shell script's children get the signal, too
	cmd.WaitDelay = pipeTimeout
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.Signal(0)); errors.Is(err, os.ErrProcessDone) {
			return err // its number may be another's by now
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && deadline.Err() == nil: // all that the program itself printed is there
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case deadline.Err() != nil:
		err = fmt.Errorf("no answer within %v, killed", a.timeout)
	default:
		if said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	return nil, fmt.Errorf("run %q: %w", a.program+" status", err)
}

// limited keeps the beginning of an output.
type limited struct{ bytes.Buffer }

// Write takes everything, so that the program need not wait, and keeps what fits.
func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
