package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	yellow   = "color.example.com/yellow"
	patience = 20 * time.Second // only a failing test waits as long
)

// A fake kubelet and a temporary directory are all that a plugin's test needs.
func TestEachFileIsADevice(t *testing.T) {
	dir, kubelet := t.TempDir(), startKubelet(t)
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	manager := kubeletapi.NewManager("color.example.com", colors(dir), kubeletapi.WithKubeletDir(filepath.Dir(kubelet.Socket())))
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()

	touch(t, filepath.Join(dir, "yellow/1"))
	waitIDs(t, kubelet, "1")
	touch(t, filepath.Join(dir, "yellow/2"))
	waitIDs(t, kubelet, "1", "2")

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
	waitIDs(t, kubelet, "2")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestADirectoryThatGoesLeavesAnEmptyResourceUntilItIsBack(t *testing.T) {
	dir, kubelet := t.TempDir(), startKubelet(t)
	touch(t, filepath.Join(dir, "yellow/1"))
	startProgram(t, dir, kubelet)
	for range 20 {
		waitIDs(t, kubelet, "1")
		if err := os.RemoveAll(filepath.Join(dir, "yellow")); err != nil {
			t.Fatal(err)
		}
		waitIDs(t, kubelet)
		touch(t, filepath.Join(dir, "yellow/1"))
	}
}

func TestTheProgramServesUntilItIsToldToEnd(t *testing.T) {
	dir, kubelet := t.TempDir(), startKubelet(t)
	stop := startProgram(t, dir, kubelet)
	touch(t, filepath.Join(dir, "yellow/1"))
	waitIDs(t, kubelet, "1")
	if err := kubelet.Restart(); err != nil {
		t.Fatal(err)
	}
	touch(t, filepath.Join(dir, "yellow/2"))
	waitIDs(t, kubelet, "1", "2")
	if log := stop(); !strings.Contains(log, `"Registered with the kubelet"`) {
		t.Errorf("the log does not tell of the registration:\n%s", log)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(kubelet.Socket()), "color*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q (%v)", left, err)
	}
}

func TestADirectoryThatIsNotThereIsSaid(t *testing.T) {
	err := colors(filepath.Join(t.TempDir(), "none")).Watch(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Watch = %v", err)
	}
}

// startProgram runs the program as a person would. The returned stop ends it, once, and returns its log.
func startProgram(t *testing.T, dir string, kubelet *kubelettest.Kubelet) (stop func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "colors")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var log bytes.Buffer
	cmd := exec.Command(path, "-dir", dir, "-kubelet-dir", filepath.Dir(kubelet.Socket()), "-v=1")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() string {
		if stopped {
			return log.String()
		}
		stopped = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		limit := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer limit.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended with %v on SIGTERM:\n%s", err, &log)
		}
		return log.String()
	}
	t.Cleanup(func() { stop() })
	return stop
}

func startKubelet(t *testing.T) *kubelettest.Kubelet {
	t.Helper()
	dir, err := os.MkdirTemp("", "k") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	kubelet, err := kubelettest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kubelet.Stop)
	return kubelet
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

// waitIDs waits until the kubelet's list of yellow is these devices.
func waitIDs(t *testing.T, kubelet *kubelettest.Kubelet, ids ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := kubelet.WaitList(ctx, yellow, func(l kubelettest.List) bool {
		var got []string
		for _, d := range l.Devices {
			got = append(got, d.ID)
		}
		return l.Live && slices.Equal(got, ids)
	}); err != nil {
		t.Fatalf("waited for %q: %v", ids, err)
	}
}
