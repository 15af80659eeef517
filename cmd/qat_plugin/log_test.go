// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/kubeletapi/kubelettest"
)

// timeout only keeps a broken test from hanging.
const timeout = 20 * time.Second

// running is a running qat_plugin.
type running struct {
	t      *testing.T
	log    *testlog.Buffer
	cancel context.CancelFunc
	status chan int
}

// start runs qat_plugin. The test must call stop.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &running{t: t, log: testlog.CaptureBuffer(t), cancel: cancel, status: make(chan int, 1)}
	go func() { p.status <- run(ctx, append(args, "-logtostderr=false"), io.Discard, io.Discard) }()
	return p
}

// stop ends the program, as SIGTERM does.
func (p *running) stop() {
	p.t.Helper()
	p.cancel()
	if status := <-p.status; status != 0 {
		p.t.Errorf("exit status %d, want 0", status)
	}
}

// must fails the test for an error of the test's own surroundings.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	pf       = "0000:6b:00.0"
	vf       = "0000:6b:00.1"
	resource = "qat.intel.com/cy" // that the VF is listed in
)

// addVF adds a PF and a VF to a host.
func addVF(t *testing.T, host *lookalike.Host) {
	t.Helper()
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
	must(t, host.AddVF(lookalike.VF{Address: vf, PF: pf}))
}

// awaitVF waits until the kubelet's list holds the VF.
func awaitVF(t *testing.T, kubelet *kubelettest.Kubelet) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err := kubelet.WaitList(ctx, resource, func(l kubelettest.List) bool { return len(l.Devices) == 1 })
	must(t, err)
}

// logOfAddedVF runs the program while a VF is added to its host, until the kubelet lists the VF,
// and returns the log.
func logOfAddedVF(t *testing.T, args ...string) *testlog.Buffer {
	t.Helper()
	host, dir := lookalike.Start(t), t.TempDir()
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	p := start(t, append(args, "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir)...)
	defer p.stop()
	addVF(t, host)
	awaitVF(t, kubelet)
	return p.log
}

func TestVerbosity4LogsEachEventAndItsOutcome(t *testing.T) {
	log := logOfAddedVF(t, "-v=4")
	created := log.Lines(`"Event"`, `source="inotify"`, `action="create"`, `device="`+vf+`"`)
	if len(created) == 0 {
		t.Fatalf("the log has no event of the VF:\n%s", log)
	}
	if len(log.Lines(`"Event"`, `device="`+vf+`"`, `ledTo="in cy"`)) == 0 {
		t.Errorf("the log has no event that led to the VF's listing: %q", created)
	}
}

func TestDefaultVerbosityLogsOnlyLifeCycleAndListChanges(t *testing.T) {
	log := logOfAddedVF(t, "-v=0")
	if lines := log.Lines(`"List changed"`, `resource="cy"`, `added=["`+vf+`"]`); len(lines) != 1 {
		t.Errorf("the addition of the VF is logged %d times, want once:\n%s", len(lines), log)
	}
	expected := []string{
		"started", "ended", "Registered with the kubelet", "Waiting for the kubelet", "List changed",
		"Device is unhealthy",
	}
	for _, line := range log.Lines() {
		if !slices.ContainsFunc(expected, func(part string) bool { return strings.Contains(line, part) }) {
			t.Errorf("unexpected line: %s", line)
		}
	}
}

func TestCDISpecsAreWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cdi")
	host, kubeletDir := lookalike.Start(t), t.TempDir()
	kubelet, err := kubelettest.Start(kubeletDir)
	must(t, err)
	defer kubelet.Stop()
	p := start(t, "-use-cdi", "-cdi-dir", dir, "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(),
		"-kubelet-dir", kubeletDir)
	defer p.stop()
	addVF(t, host)
	awaitVF(t, kubelet)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	if len(files) == 0 {
		t.Error("no CDI spec is written before the kubelet has the list")
	}
}
