// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// testTimeout is how long anything may take. The CPU is emulated, and its host may be busy.
	testTimeout = 60 * time.Second

	// pollInterval is for changes of sysfs that no event reports.
	pollInterval = 5 * time.Millisecond
)

// program is a process that runs one of the programs under test.
type program struct {
	cmd  *exec.Cmd
	log  *logBuffer // its standard error
	done chan struct{}
	err  error // valid once done is closed
}

// startProgram starts a program, which is killed when the test ends. If the test fails, the end of
// the program's log is shown.
func startProgram(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd, log: &logBuffer{}, done: make(chan struct{})}
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop(t, unix.SIGKILL)
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", filepath.Base(cmd.Path), p.log.tail(80))
		}
	})
	return p
}

// stop sends a signal and returns how the program ended. It may be called again afterwards.
func (p *program) stop(t *testing.T, signal unix.Signal) error {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-p.done:
	case <-time.After(testTimeout):
		t.Errorf("%s still runs %v after %v", p.cmd.Path, testTimeout, signal)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.err
}

// usage is what a process holds and has used.
type usage struct {
	Descriptors, Threads int
	Switches             int // voluntary context switches of all threads: one for each wake-up
	Ticks                int // CPU time, in units of 10 ms
	Resident             int // KiB
}

func (p *program) usage(t *testing.T) (u usage) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	u.Descriptors = len(glob(t, dir+"/fd/*"))
	for _, task := range glob(t, dir+"/task/*/status") {
		u.Threads++
		u.Switches += readField(t, task, "voluntary_ctxt_switches:")
	}
	u.Resident = readField(t, dir+"/status", "VmRSS:")
	stat := read(t, dir+"/stat")
	for _, n := range strings.Fields(stat[strings.LastIndexByte(stat, ')'):])[12:14] { // utime, stime
		u.Ticks += parseInt(t, n)
	}
	return u
}

// descriptors returns what the file descriptors of the process refer to, but for heartbeat
// directories. The plugin keeps that of a PF open from one poll to the next, also after the PF was
// restarted. So whether one is open depends on when the last poll was.
func (p *program) descriptors(t *testing.T) map[string]string {
	t.Helper()
	open := map[string]string{}
	for _, link := range glob(t, filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "fd/*")) {
		target, err := os.Readlink(link)
		if err != nil {
			target = err.Error()
		}
		if !strings.Contains(target, "/heartbeat") {
			open[filepath.Base(link)] = target
		}
	}
	return open
}

// waitIdle waits until the process sleeps and returns its usage. A process that works may have
// files of sysfs open.
func (p *program) waitIdle(t *testing.T) (u usage) {
	t.Helper()
	poll(t, 200*time.Millisecond, p.cmd.Path+" to become idle", func() bool {
		last := u
		u = p.usage(t)
		return u.Switches == last.Switches && u.Ticks == last.Ticks
	})
	return u
}

// poll calls done at the interval until it returns true. It is for changes that no event reports.
func poll(t *testing.T, interval time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for deadline := time.After(testTimeout); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out after %v waiting for %s", testTimeout, what)
		}
	}
}

// readField reads a number from a file of /proc that has a name and a value on each line.
func readField(t *testing.T, file, name string) int {
	t.Helper()
	for line := range strings.Lines(read(t, file)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return parseInt(t, f[1])
		}
	}
	t.Fatalf("no %s in %s", name, file)
	return 0
}

func parseInt(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// logBuffer holds the log of a program. It can be read while the program writes.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) tail(lines int) string {
	all := strings.SplitAfter(b.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
