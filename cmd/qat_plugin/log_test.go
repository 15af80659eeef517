package main

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// logLines collects what klog writes.
type logLines struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{} // holds a signal when there is something new
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.written <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *logLines) with(parts ...string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.text.String()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// await waits for a line that matches, and returns it with its groups.
func (l *logLines) await(t *testing.T, pattern *regexp.Regexp) []string {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		klog.Flush()
		text := strings.Join(l.with(), "")
		if found := pattern.FindStringSubmatch(text); found != nil {
			return found
		}
		select {
		case <-l.written:
		case <-limit:
			t.Fatalf("no line of the log matches %v:\n%s", pattern, text)
		}
	}
}

// captureLog has klog write to the lines until the test ends.
func captureLog(t *testing.T) *logLines {
	t.Helper()
	log := &logLines{written: make(chan struct{}, 1)}
	klog.LogToStderr(false)
	klog.SetOutput(log)
	t.Cleanup(func() {
		klog.SetOutput(io.Discard)
		klog.LogToStderr(true)
	})
	return log
}

// runWith runs the program on a host to which a VF comes, until the kubelet has it, and returns its log.
func runWith(t *testing.T, args ...string) *logLines {
	t.Helper()
	log := captureLog(t)
	host, dir := lookalike.Start(t), t.TempDir()
	kubelet, err := kubelettest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer kubelet.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan int, 1)
	args = append([]string{"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir, "-logtostderr=false"}, args...)
	go func() { ended <- run(ctx, args, io.Discard, io.Discard) }()
	for _, err := range []error{
		host.LoadDriver("vfio-pci"),
		host.AddPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym"}),
		host.AddVF(lookalike.VF{Address: "0000:6b:00.1", PF: "0000:6b:00.0"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kubelet.WaitList(ctx, "qat.intel.com/cy", func(l kubelettest.List) bool { return len(l.Devices) == 1 }); err != nil {
		t.Fatalf("the VF did not reach the kubelet: %v\n%s", err, &log.text)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	klog.Flush()
	return log
}

func TestVerbosity4LogsEachEventWithWhatItLedTo(t *testing.T) {
	log := runWith(t, "-v=4")
	events := log.with(`"Event"`, `source="inotify"`, `action="create"`, `device="0000:6b:00.1"`)
	if len(events) == 0 {
		t.Fatalf("no event of the VF is logged:\n%s", &log.text)
	}
	if len(log.with(`"Event"`, `device="0000:6b:00.1"`, `ledTo="in cy"`)) == 0 {
		t.Errorf("no event is said to have led to the VF's listing: %q", events)
	}
}

func TestTheDefaultLogsTheLifeCycleAndChangesOfTheListAlone(t *testing.T) {
	log := runWith(t, "-v=0")
	if lines := log.with(`"List changed"`, `resource="cy"`, `added=["0000:6b:00.1"]`); len(lines) != 1 {
		t.Errorf("the VF's coming is logged %d times, want once:\n%s", len(lines), &log.text)
	}
	for _, known := range []string{"started", "Registered with the kubelet", "List changed", "ended", "Waiting for the kubelet", "Device is unhealthy"} {
		for _, line := range log.with(known) {
			log.text = *bytes.NewBufferString(strings.Replace(log.text.String(), line, "", 1))
		}
	}
	if log.text.Len() > 0 {
		t.Errorf("the default also logs:\n%s", &log.text)
	}
}
