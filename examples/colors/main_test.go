// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	yellow  = "color.example.com/yellow"
	timeout = 20 * time.Second // only a failing test waits as long
)

// A temporary directory and a Kubelet are all that a plugin's test needs.
func TestEachFileIsADevice(t *testing.T) {
	dir, kubelet := t.TempDir(), kubelettest.New(t)
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	manager := kubeletapi.NewManager("color.example.com", &colors{dir}, kubeletapi.WithKubeletDir(kubelet.Dir()))
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()

	touch(t, filepath.Join(dir, "yellow/1"))
	waitDevices(t, kubelet, "1")
	touch(t, filepath.Join(dir, "yellow/2"))
	waitDevices(t, kubelet, "1", "2")

	answer, err := kubelet.Allocate(ctx, yellow, []string{"2"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := answer.ContainerResponses[0].Mounts[0].HostPath, filepath.Join(dir, "yellow/2"); got != want {
		t.Errorf("the container gets %s, want %s", got, want)
	}

	if err := os.Remove(filepath.Join(dir, "yellow/1")); err != nil {
		t.Fatal(err)
	}
	waitDevices(t, kubelet, "2")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestRemovedDirectoryLeavesAnEmptyResourceUntilItReturns(t *testing.T) {
	dir, kubelet := t.TempDir(), kubelettest.New(t)
	touch(t, filepath.Join(dir, "yellow/1"))
	startProgram(t, dir, kubelet)
	for range 20 {
		waitDevices(t, kubelet, "1")
		if err := os.RemoveAll(filepath.Join(dir, "yellow")); err != nil {
			t.Fatal(err)
		}
		waitDevices(t, kubelet)
		touch(t, filepath.Join(dir, "yellow/1"))
	}
}

func TestProgramRegistersAgainAndStopsOnSIGTERM(t *testing.T) {
	dir, kubelet := t.TempDir(), kubelettest.New(t)
	stop := startProgram(t, dir, kubelet)
	touch(t, filepath.Join(dir, "yellow/1"))
	waitDevices(t, kubelet, "1")
	if err := kubelet.Restart(); err != nil {
		t.Fatal(err)
	}
	touch(t, filepath.Join(dir, "yellow/2"))
	waitDevices(t, kubelet, "1", "2")
	// "Registered with the kubelet" may be missing: the list can arrive, and the program stop,
	// before that line is written.
	if log := stop(); !strings.Contains(log, `"The kubelet restarted, registering again"`) {
		t.Errorf("the log does not mention the restart:\n%s", log)
	}
	left, err := filepath.Glob(filepath.Join(kubelet.Dir(), "color*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q (%v)", left, err)
	}
}

// TestProgramDoesNotNeedAReaderOfItsLog closes the pipe behind standard error. Without a guard, the
// first line of the log would end the program.
func TestProgramDoesNotNeedAReaderOfItsLog(t *testing.T) {
	dir, kubelet := t.TempDir(), kubelettest.New(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(build(t), "-v=4", "-dir", dir, "-kubelet-dir", kubelet.Dir())
	cmd.Stderr = writer
	if err := errors.Join(reader.Close(), cmd.Start(), writer.Close()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	touch(t, filepath.Join(dir, "yellow/1"))
	waitDevices(t, kubelet, "1")
	touch(t, filepath.Join(dir, "yellow/2"))
	waitDevices(t, kubelet, "1", "2")
	if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
		t.Errorf("the program ended with: %v", err)
	}
}

// TestExitStatus checks the exit statuses that kubeletapi.Main documents, and that -h shows the
// flags of the program, of klog and of the framework.
func TestExitStatus(t *testing.T) {
	path := build(t)
	for _, tt := range []struct {
		args   string
		status int
		output string
	}{
		{"-h", 0, "-dir directory"},
		{"-h", 0, "-vmodule"},
		{"-h", 0, "-health-address"},
		{"-no-such-flag", 2, "-no-such-flag"},
		{"-dir /no/such/directory -kubelet-dir " + t.TempDir(), 1, "watch /no/such/directory: no such file"},
	} {
		cmd := exec.Command(path, strings.Fields(tt.args)...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != tt.status || !strings.Contains(string(out), tt.output) {
			t.Errorf("%s: exit status %d, want %d and %q:\n%s", tt.args, got, tt.status, tt.output, out)
		}
	}
}

func TestReadyWhileTheDirectoryCanBeRead(t *testing.T) {
	dir := t.TempDir()
	plugin := &colors{dir}
	if err := plugin.CheckReady(t.Context()); err != nil {
		t.Errorf("CheckReady = %v, want nil", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := plugin.CheckReady(t.Context()); err == nil {
		t.Error("CheckReady without the directory = nil, want an error")
	}
}

func TestMissingDirectoryIsAnErrorOfWatch(t *testing.T) {
	err := (&colors{filepath.Join(t.TempDir(), "none")}).Watch(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Watch = %v", err)
	}
}

// TestUnreadableColorIsAnErrorOfWatch checks that a directory that cannot be watched does
// not silently become a resource without devices. Its path is too long.
func TestUnreadableColorIsAnErrorOfWatch(t *testing.T) {
	dir := t.TempDir()
	for len(dir) < 4095-len("/yellow")-200 {
		dir += "/" + strings.Repeat("d", 199)
	}
	dir += "/" + strings.Repeat("d", 4095-len("yellow")-len(dir)-1) // PATH_MAX includes the final NUL
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir("yellow", 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = (&colors{dir}).Watch(ctx, func(*devtree.Tree) { cancel() })
	if !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("Watch = %v, want ENAMETOOLONG", err)
	}
}

// build builds the program and returns its path.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "colors")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// startProgram runs the program as a user does. stop terminates it and returns its log;
// it may be called more than once.
func startProgram(t *testing.T, dir string, kubelet *kubelettest.Kubelet) (stop func() string) {
	t.Helper()
	path := build(t)
	var log bytes.Buffer
	cmd := exec.Command(path, "-dir", dir, "-kubelet-dir", kubelet.Dir(), "-v=1")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceValue(func() string {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		limit := time.AfterFunc(timeout, func() { _ = cmd.Process.Kill() })
		defer limit.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended with %v on SIGTERM:\n%s", err, &log)
		}
		return log.String()
	})
	t.Cleanup(func() { stop() })
	return stop
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// waitDevices waits until the kubelet's list of yellow has exactly these devices.
func waitDevices(t *testing.T, kubelet *kubelettest.Kubelet, ids ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if _, err := kubelet.WaitDevices(ctx, yellow, ids...); err != nil {
		t.Fatal(err)
	}
}
