// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is a child process whose output goes to a file.
type process struct {
	cmd     *exec.Cmd
	log     string    // path of the file
	started time.Time // just before exec
	ended   chan struct{}
	err     error // of Wait; set before ended is closed
}

func startProcess(log, program string, args ...string) (*process, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = file, file
	// Ctrl-C goes to the demo only, which then terminates the process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{cmd: cmd, log: log, started: time.Now(), ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// lastLines returns up to n lines from the end of the output.
func (p *process) lastLines(n int) []string {
	text, _ := os.ReadFile(p.log)
	lines := slices.Collect(strings.Lines(string(text)))
	return lines[max(0, len(lines)-n):]
}

// terminate sends SIGTERM and waits. It returns nil if the process exits with status 0.
func (p *process) terminate(timeout time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(timeout):
		return fmt.Errorf("still running after %s", timeout)
	}
}

// kill ends the process if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails if the process has ended
	<-p.ended
}
