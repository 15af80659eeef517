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

const patience = 60 * time.Second // the CPU is emulated, and may be shared with others

// A program is a process of one of our binaries, with what it wrote to its standard error.
type program struct {
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{} // closed once it has ended; err is valid then
	err  error
}

// start runs a binary. When the test fails, the end of its log is shown.
func start(t *testing.T, cmd *exec.Cmd) *program {
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
		p.end(t, unix.SIGKILL)
		if t.Failed() {
			t.Logf("the end of what %s wrote:\n%s", filepath.Base(cmd.Path), p.log.tail(80))
		}
	})
	return p
}

// end sends a signal and returns how the program ended; one that has ended keeps its result.
func (p *program) end(t *testing.T, signal unix.Signal) error {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Errorf("%s goes on %v after %v", p.cmd.Path, patience, signal)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.err
}

// usage is what a process holds and has used.
type usage struct {
	Descriptors, Threads int
	Switches             int // voluntary context switches of all threads: each wake-up ends in one
	Ticks                int // of CPU, 10 ms each
	Resident             int // KiB
}

func (p *program) usage(t *testing.T) (u usage) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	u.Descriptors = len(glob(t, dir+"/fd/*"))
	for _, task := range glob(t, dir+"/task/*/status") {
		u.Threads++
		u.Switches += field(t, task, "voluntary_ctxt_switches:")
	}
	u.Resident = field(t, dir+"/status", "VmRSS:")
	stat := read(t, dir+"/stat")
	for _, n := range strings.Fields(stat[strings.LastIndexByte(stat, ')'):])[12:14] { // utime, stime
		u.Ticks += number(t, n)
	}
	return u
}

// rest waits until the process sleeps, and returns its usage then: while it works it may have a file of sysfs open.
func (p *program) rest(t *testing.T) usage {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for last := p.usage(t); ; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not come to rest: %+v", p.cmd.Path, last)
		}
		now := p.usage(t)
		if now.Switches == last.Switches && now.Ticks == last.Ticks {
			return now
		}
		last = now
	}
}

// eventually waits for a condition that nothing tells of.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for this: %s", patience, what)
		}
	}
}

// field reads a number from a file of /proc that has a name and a value on each line.
func field(t *testing.T, file, name string) int {
	t.Helper()
	for line := range strings.Lines(read(t, file)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return number(t, f[1])
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// logBuffer keeps what a program writes.
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
