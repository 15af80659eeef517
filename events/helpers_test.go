package events

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

// patience is how long a test waits for what must happen. It is reached only when it does not.
const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tester is what testing.TB and rapid.T have in common.
type tester interface {
	Helper()
	Cleanup(func())
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// heard is an event as a test compares it.
type heard struct {
	Action Action
	Path   string
}

// recorder is a sink that keeps everything.
type recorder struct {
	mu      sync.Mutex
	events  []heard
	resyncs []string
	changed chan struct{} // holds a signal after each change
	onEvent func(*Event)
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (r *recorder) Event(e *Event) {
	if r.onEvent != nil {
		r.onEvent(e)
	}
	r.mu.Lock()
	r.events = append(r.events, heard{e.Action, string(e.Path)})
	r.mu.Unlock()
	r.signal()
}

func (r *recorder) Resync(reason string) {
	r.mu.Lock()
	r.resyncs = append(r.resyncs, reason)
	r.mu.Unlock()
	r.signal()
}

func (r *recorder) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// all is what was heard until now.
func (r *recorder) all() (events []heard, resyncs []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events), slices.Clone(r.resyncs)
}

// wait returns when cond is true of what was heard.
func (r *recorder) wait(t tester, what string, cond func(events []heard, resyncs []string) bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		done := cond(r.events, r.resyncs)
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			events, resyncs := r.all()
			t.Fatalf("waited for %s; heard %d events, the last %v, and Resyncs %q", what, len(events), events[max(0, len(events)-20):], resyncs)
		}
	}
}

func (r *recorder) waitFor(t tester, want heard) {
	t.Helper()
	r.wait(t, want.Action.String()+" "+want.Path, func(events []heard, _ []string) bool { return slices.Contains(events, want) })
}

func (r *recorder) waitForResyncs(t tester, n int) {
	t.Helper()
	r.wait(t, "Resync", func(_ []heard, resyncs []string) bool { return len(resyncs) >= n })
}

// start runs a source until the test ends, and then checks that it ended well.
func start(t tester, s Source, sink Sink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, sink) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := within(t, "the end of Run", done); err != nil {
			t.Errorf("Run: %v, want nil when its context ends", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func within[T any](t tester, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

func ok(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	return len(entries)
}

// inNamespace runs the test that calls it in a user and network namespace of its own, as another process, and returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "EVENTS_TEST_IN_NAMESPACE"
	if os.Getenv(mark) != "" {
		return true
	}
	self, err := os.Executable()
	ok(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Fatalf("in a namespace of its own: %v\n%s", err, out)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EACCES):
		testenv.Skip(t, "this machine does not allow user namespaces: "+err.Error())
	case err != nil:
		t.Fatal(err)
	}
	if reason, skipped := skipReason(string(out)); skipped {
		testenv.Skip(t, reason)
	}
	t.Logf("in a namespace of its own:\n%s", out)
	return false
}

func skipReason(out string) (string, bool) {
	if !strings.Contains(out, "--- SKIP") {
		return "", false
	}
	return strings.TrimSpace(out), true
}
