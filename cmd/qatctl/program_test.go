// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi/kubelettest"
)

// A program is a running qat_plugin.
type program struct {
	*fakePlugin // for its methods that run qatctl
	t           *testing.T
	host        *lookalike.Host
	kubelet     *kubelettest.Kubelet
	kubeletDir  string
	cmd         *exec.Cmd
}

// startProgram runs qat_plugin on a host with two VFs of each of two PFs, and waits until the
// kubelet has its lists.
func startProgram(t *testing.T) *program {
	t.Helper()
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym"}))
	must(t, host.AddPF(lookalike.PF{Address: dcPF, DeviceID: "4944", Services: "dc", NUMANode: 1}))
	must(t, host.SetVFs(cyPF, 2))
	must(t, host.SetVFs(dcPF, 2))
	p := startProgramOn(t, host)
	p.awaitDevices("cy", host.VFs(cyPF)...)
	p.awaitDevices("dc", host.VFs(dcPF)...)
	return p
}

// awaitDevices waits until the kubelet has a list with these devices.
func (p *program) awaitDevices(resource string, ids ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), timeout)
	defer cancel()
	_, err := p.kubelet.WaitDevices(ctx, "qat.intel.com/"+resource, ids...)
	must(p.t, err)
}

// pluginDir is the directory of the plugin that buildPlugin has built. TestMain removes it.
var pluginDir string

// buildPlugin builds qat_plugin once for all tests, and returns its path.
var buildPlugin = sync.OnceValues(func() (string, error) {
	var err error
	if pluginDir, err = os.MkdirTemp("", "qatctl-test-"); err != nil {
		return "", err
	}
	binary := filepath.Join(pluginDir, "qat_plugin")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "grpcnotrace", "-o", binary, "./cmd/qat_plugin")
	build.Dir = top
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

var top = filepath.Join("..", "..")

// startProgramOn runs qat_plugin on a host.
func startProgramOn(t *testing.T, host *lookalike.Host, flags ...string) *program {
	t.Helper()
	testenv.Inputs(t, top)
	binary, err := buildPlugin()
	must(t, err)
	p := &program{
		fakePlugin: &fakePlugin{socket: filepath.Join(t.TempDir(), "status.sock"), now: time.Now},
		t:          t,
		host:       host,
		kubeletDir: t.TempDir(),
	}
	p.kubelet, err = kubelettest.Start(p.kubeletDir)
	must(t, err)
	t.Cleanup(p.kubelet.Stop)
	p.cmd = exec.Command(binary, append([]string{
		"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", p.kubeletDir, "-status-socket", p.socket,
		"-pod-resources-socket=",
	}, flags...)...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	p.cmd.Stderr = log
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("log of qat_plugin:\n%s", text)
		}
	})
	p.awaitSocket()
	return p
}

// awaitSocket waits until the plugin listens.
func (p *program) awaitSocket() {
	p.t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", p.socket)
		if err == nil {
			_ = c.Close()
			return
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) {
			p.t.Fatal(err)
		}
	}
}

// TestAgainstRealProgram runs the commands at a plugin that runs as a process.
func TestAgainstRealProgram(t *testing.T) {
	p := startProgram(t)
	vfs := append(p.host.VFs(cyPF), p.host.VFs(dcPF)...)
	if got, want := p.qatctl(t, "list", "-o", "name").ok(t).stdout, strings.Join(vfs, "\n")+"\n"; got != want {
		t.Errorf("list -o name prints\n%s, want\n%s", got, want)
	}
	if r := p.qatctl(t, "list", "--resource", "dc", "--state", "listed").ok(t); len(r.lines()) != 4 {
		t.Errorf("not a header, a PF and 2 VFs:\n%s", r.stdout)
	}
	p.qatctl(t, append([]string{"describe", "--check", cyPF}, vfs...)...).ok(t)
	if line := p.qatctl(t, "list", "resources").ok(t).line(t, "/cy"); !strings.Contains(line, "watching") {
		t.Errorf("a resource that the kubelet follows has the row %q", line)
	}
	p.qatctl(t, "status", "--check").ok(t)
	p.qatctl(t, "top").ok(t)
	if r := p.qatctl(t, "version").ok(t); !strings.Contains(r.stdout, "qat_plugin devel") {
		t.Errorf("version prints %q", r.stdout)
	}
	if r := p.qatctl(t, "doctor", "--dry-run"); !strings.Contains(r.line(t, "sysfs"), p.host.Sysfs()) {
		t.Errorf("doctor does not check the host of the plugin:\n%s", r.stdout)
	}

	for what, line := range map[string]string{"events": "in cy", "events --kind change": vfs[0]} {
		if r := p.qatctl(t, strings.Fields(what)...).ok(t); !strings.Contains(r.stdout, line) {
			t.Errorf("%s lacks %q:\n%s", what, line, r.stdout)
		}
	}
}

// TestRecordAndReplayRealProgram replays what the plugin has recorded.
func TestRecordAndReplayRealProgram(t *testing.T) {
	p := startProgram(t)
	vf := p.host.VFs(cyPF)[0]
	must(t, p.host.RemoveVF(vf))
	p.awaitDevices("cy", p.host.VFs(cyPF)...)
	file := filepath.Join(t.TempDir(), "qat.ndjson")
	p.qatctl(t, "record", "-o", file).wantExit(t, 0, "Wrote "+file)
	r := qatctl(t, "replay", file).ok(t)
	r.line(t, "→ "+vf+"  cy: removed")
	for resource, vfs := range map[string][]string{"cy": p.host.VFs(cyPF), "dc": p.host.VFs(dcPF)} {
		r.line(t, fmt.Sprintf("  %-*s%s", nameWidth, resource, strings.Join(vfs, " ")))
	}
	r.line(t, "The replay came to the recorded decisions and lists in all ")
}

// TestWatchRealProgram changes the host while watch and events --follow run.
func TestWatchRealProgram(t *testing.T) {
	p := startProgram(t)
	watch, events := p.start(t, "watch"), p.start(t, "events", "--follow", "--kind", "change")
	watch.awaitMessage("Watching 2 PFs, 4 VFs and 2 resources")
	vf := p.host.VFs(cyPF)[0]
	must(t, p.host.RemoveVF(vf))
	watch.await("VF " + vf + "  is gone")
	events.await("cy " + vf + ": removed")
	must(t, p.host.SetState(dcPF, "down"))
	watch.await("PF " + dcPF + "  healthy → unhealthy, state up → down")
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	for _, r := range []*running{watch, events} {
		r.end().wantExit(t, 1, "")
	}
	p.qatctl(t, "watch").wantExit(t, exitNobody, "no plugin listens at "+p.socket)
}
