// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// endTimeout is how long a process may take to end on SIGTERM: the 5 s that the plugin gives
// functions that do not return, and as much for a busy machine. A pod has 10 s.
const endTimeout = 10 * time.Second

// process is a running plugin. Its standard error is a FIFO.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; set before done is closed

	fifo string
	mu   sync.Mutex // guards the following fields
	log  bytes.Buffer
	from *os.File // read end of the FIFO; nil: closed
	read sync.WaitGroup
}

// startProcess runs the plugin. The caller must end it.
func startProcess(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{t: t, fifo: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	must(t, unix.Mkfifo(p.fifo, 0o600))
	stderr, err := os.OpenFile(p.fifo, os.O_RDWR, 0) // as a second writer, or the log would end at once
	must(t, err)
	defer stderr.Close()
	p.openLog()
	p.cmd = exec.Command(program, args...)
	p.cmd.Stderr = stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	must(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

// openLog reads the log, also after closeLog.
func (p *process) openLog() {
	p.t.Helper()
	// Without O_NONBLOCK, this would wait for a writer.
	from, err := os.OpenFile(p.fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(p.t, err)
	p.mu.Lock()
	p.from = from
	p.mu.Unlock()
	p.read.Go(func() { _, _ = io.Copy(logWriter{p}, from) })
}

// closeLog closes the read end of the log: the plugin's writes fail.
func (p *process) closeLog() {
	p.mu.Lock()
	from := p.from
	p.from = nil
	p.mu.Unlock()
	if from != nil {
		_ = from.Close()
	}
	p.read.Wait()
}

// logWriter appends to the log of a process.
type logWriter struct{ *process }

func (w logWriter) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(text)
}

// text returns the log so far.
func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// tail returns the last lines of the log.
func (p *process) tail() string {
	lines := slices.Collect(strings.Lines(p.text()))
	return strings.Join(lines[max(0, len(lines)-60):], "")
}

// terminate ends the process as the end of its pod does. It must end in time, with status 0.
func (p *process) terminate() {
	p.t.Helper()
	start := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Errorf("the plugin ended before SIGTERM: %v\n%s", p.err, p.tail())
	}
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Errorf("the plugin ended %s after SIGTERM with %v\n%s", time.Since(start), p.err, p.tail())
		}
	case <-time.After(endTimeout):
		log := p.tail()
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // the runtime writes the traces of the goroutines
		select {
		case <-p.done:
		case <-time.After(time.Second):
		}
		traces := strings.TrimPrefix(p.text(), log)
		p.t.Errorf("the plugin runs %s after SIGTERM\n%s\n%s", endTimeout, log, traces)
	}
	p.kill()
}

// kill ends the process if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.closeLog()
}

// goroutines ends the process with SIGQUIT, on which the runtime writes their traces, and returns
// these without their numbers and arguments.
func (p *process) goroutines() []string {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGQUIT))
	<-p.done
	p.read.Wait() // until the last line
	var traces []string
	for _, trace := range strings.Split(p.text(), "\n\n") {
		if strings.HasPrefix(trace, "goroutine ") {
			traces = append(traces, trace)
		}
	}
	p.closeLog()
	return traces
}

// usage is what a process uses of the machine.
type usage struct {
	descriptors, threads int
	resident             int // KiB
}

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d MiB", u.descriptors, u.threads, u.resident>>10)
}

func (p *process) usage() (u usage) {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	descriptors, err := os.ReadDir(dir + "/fd")
	must(p.t, err)
	status, err := os.ReadFile(dir + "/status")
	must(p.t, err)
	field := func(name string) int {
		_, rest, _ := strings.Cut(string(status), "\n"+name+":")
		n, err := strconv.Atoi(strings.Fields(rest + " none")[0])
		must(p.t, err)
		return n
	}
	return usage{len(descriptors), field("Threads"), field("VmRSS")}
}

// exited returns an error if the process has ended.
func (p *process) exited() error {
	select {
	case <-p.done:
		return errors.New("the plugin has ended: " + fmt.Sprint(p.err))
	default:
		return nil
	}
}
