// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi/kubelettest"
)

// TestStatusCommands runs the commands in docs/status.md that ask a plugin through its socket, and
// compares what they print with what the page shows, apart from times and counts.
func TestStatusCommands(t *testing.T) {
	testenv.Inputs(t, root)
	if _, err := exec.LookPath("curl"); err != nil {
		testenv.Skip(t, "curl is not installed")
	}
	dir, err := os.MkdirTemp("", "s") // a short path, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	startPlugin(t, dir)
	text, err := os.ReadFile(filepath.Join(root, "docs", "status.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, b := range blocks(string(text)) {
		if b.language != "console" {
			continue
		}
		command, want, _ := strings.Cut(strings.TrimPrefix(b.text, "$ "), "\n")
		if !strings.Contains(command, "/run/qat_plugin/") {
			continue
		}
		ran++
		out, err := exec.Command("bash", "-ec", strings.ReplaceAll(command, "/run/qat_plugin", dir)).CombinedOutput()
		got := strings.ReplaceAll(string(out), dir, "/run/qat_plugin")
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, got)
		}
		if diff := cmp.Diff(withoutNumbers(want), withoutNumbers(got)); diff != "" {
			t.Errorf("docs/status.md:%d: %s (-page +run):\n%s\nit prints:\n%s", b.number, command, diff, got)
		}
	}
	if ran < 4 {
		t.Errorf("docs/status.md has only %d commands that can run", ran)
	}
}

// withoutNumbers replaces times, durations and counts, and the white space that depends on them.
func withoutNumbers(text string) string {
	text = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`).ReplaceAllString(text, "TIME")
	text = regexp.MustCompile(`\b(\d+[smhd]?)+\b`).ReplaceAllString(text, "N")
	return regexp.MustCompile(` +`).ReplaceAllString(text, " ")
}

// startPlugin runs the plugin on a look-alike host with a PF and three VFs, of which another driver
// holds the last one, until the kubelet has the list.
func startPlugin(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	host := lookalike.Start(t)
	kubelet, err := kubelettest.Start(dir)
	must(err)
	t.Cleanup(kubelet.Stop)
	const pf = "0000:6b:00.0"
	must(host.LoadDriver("vfio-pci"))
	must(host.LoadDriver("uio_pci_generic"))
	must(host.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
	for _, vf := range []string{"0000:6b:00.1", "0000:6b:00.2", "0000:6b:00.3"} {
		must(host.AddVF(lookalike.VF{Address: vf, PF: pf}))
	}
	must(host.Bind("0000:6b:00.3", "uio_pci_generic"))
	program := filepath.Join(t.TempDir(), "qat_plugin")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./cmd/qat_plugin")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	plugin := exec.Command(program, "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir,
		"-health-interval=0", "-pod-resources-socket=", "-status-socket", filepath.Join(dir, "status.sock"))
	plugin.Env = append(os.Environ(), "NODE_NAME=worker-1")
	must(plugin.Start())
	t.Cleanup(func() {
		_ = plugin.Process.Signal(syscall.SIGTERM)
		_ = plugin.Wait()
	})
	list := func(l kubelettest.List) bool { return len(l.Devices) == 2 }
	_, err = kubelet.WaitList(t.Context(), "qat.intel.com/cy", list)
	must(err)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", filepath.Join(dir, "status.sock")); err == nil {
			c.Close()
			return
		}
	}
	t.Fatal("the plugin does not serve its status")
}
