// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
	"qatplugin/test/kubelet/devicemanager"
)

// build builds a main package of the module in dir, and returns the path of the program. The race
// detector is enabled if the test has it, so that the packages that both use are compiled once.
func build(t *testing.T, dir, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(pkg))
	// In a checkout that belongs to another user, git refuses to run and -buildvcs would fail.
	args := []string{"build", "-buildvcs=false", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, pkg)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// startProgram runs a program. stop ends it with SIGTERM, as the end of its pod does, and checks
// that it exits with status 0. The end of the test stops it too.
func startProgram(t *testing.T, path string, args ...string) (stop func()) {
	t.Helper()
	name := filepath.Base(path)
	var log bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s ended before SIGTERM: %v", name, err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s ended with %v after SIGTERM", name, err)
			}
		case <-time.After(testTimeout):
			_ = cmd.Process.Kill()
			<-done
			t.Errorf("%s did not end after SIGTERM", name)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, &log)
		}
	})
	t.Cleanup(stop)
	return stop
}

const (
	cyPF = "0000:6b:00.0"
	dcPF = "0000:70:00.0"
	cy   = namespace + "/cy"
	dc   = namespace + "/dc"
)

func TestProgram(t *testing.T) {
	path := build(t, "../..", "./cmd/qat_plugin")
	t.Run("follows changes of the host", func(t *testing.T) { testHostChanges(t, path) })
	t.Run("gives a container its VFs", func(t *testing.T) { testContainer(t, path) })
	t.Run("keeps the places of VFs that pods hold", func(t *testing.T) { testHeldVFs(t, path) })
}

// startQATNode starts a kubelet, and qat_plugin on a look-alike host. The host has two PFs without
// VFs: one with the services cy on NUMA node 1, and one with dc on node 0.
func startQATNode(t *testing.T, path string) (n *node, host *lookalike.Host, stop func()) {
	t.Helper()
	n = startNode(t)
	host = lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym", NUMANode: 1}))
	must(t, host.AddPF(lookalike.PF{Address: dcPF, Services: "dc"}))
	return n, host, n.startQAT(path, host)
}

// startQAT runs qat_plugin on a look-alike host, like startProgram.
func (n *node) startQAT(path string, host *lookalike.Host, flags ...string) (stop func()) {
	n.t.Helper()
	args := []string{"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-v=2"}
	return startProgram(n.t, path, append(args, flags...)...)
}

func testHostChanges(t *testing.T, path string) {
	n, host, stop := startQATNode(t, path)

	must(t, host.SetVFs(cyPF, 16))
	n.wantVFs(cy, host.VFs(cyPF), 1)
	must(t, host.SetVFs(dcPF, 16))
	n.wantVFs(dc, host.VFs(dcPF), 0)

	vfs := host.VFs(cyPF)
	must(t, host.RemoveVF(vfs[3]))
	n.wantVFs(cy, slices.Delete(slices.Clone(vfs), 3, 4), 1)
	must(t, host.AddVF(lookalike.VF{Address: vfs[3], PF: cyPF, NUMANode: 1}))
	n.wantVFs(cy, vfs, 1)

	must(t, host.SetVFs(cyPF, 0))
	n.wantVFs(cy, nil, 1)
	must(t, host.SetVFs(cyPF, 16))
	n.wantVFs(cy, vfs, 1)

	n.restart()
	n.wantVFs(cy, vfs, 1)
	n.wantVFs(dc, host.VFs(dcPF), 0)

	must(t, host.RemovePF(dcPF))
	n.wantVFs(dc, nil, 0)
	n.wantVFs(cy, vfs, 1)

	must(t, host.SetState(cyPF, "down")) // removes the VFs
	n.wantVFs(cy, nil, 1)
	must(t, host.SetService(cyPF, "dc"))
	must(t, host.SetState(cyPF, "up"))
	must(t, host.SetVFs(cyPF, 16))
	n.wantVFs(dc, vfs, 1)
	n.wantVFs(cy, nil, 1)

	stop()
	for _, name := range list(t, devicemanager.SocketDir) {
		if strings.HasSuffix(name, ".sock") && name != "kubelet.sock" {
			t.Errorf("qat_plugin left the socket %q behind", name)
		}
	}
	n.wantCount(dc, 16, 0)
}

// wantVFs waits until the list of a resource consists of these VFs, all Healthy.
func (n *node) wantVFs(resource string, vfs []string, numa int) {
	n.t.Helper()
	name := strings.TrimPrefix(resource, namespace+"/")
	b := (&devtree.Tree{}).Edit()
	must(n.t, b.Keep(name))
	for _, vf := range vfs {
		must(n.t, b.Put(name, &devtree.Device{ID: vf, Health: devtree.Healthy, NUMANodes: []int{numa}}))
	}
	n.wantTree(b.Build())
}

func testContainer(t *testing.T, path string) {
	n, host, _ := startQATNode(t, path)
	must(t, host.SetVFs(cyPF, 16))
	n.wantVFs(cy, host.VFs(cyPF), 1)

	pod := devicemanager.Pod("pod", devicemanager.Container("c", cy, 3))
	got := n.mustRun(pod, "c")
	assigned := n.Assigned(pod, "c", cy)
	want := []devtree.DeviceNode{{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"}}
	for _, vf := range assigned {
		group, err := os.Readlink(filepath.Join(host.Path(vf), "iommu_group"))
		must(t, err)
		node := "/dev/vfio/" + filepath.Base(group)
		want = append(want, devtree.DeviceNode{HostPath: node, ContainerPath: node, Permissions: "rw"})
	}
	if diff := cmp.Diff(want, got.DeviceNodes, anyOrder()); diff != "" {
		t.Errorf("device nodes of the container (-want +got):\n%s", diff)
	}
	var values []string // in the order of the kubelet's request, which is unknown
	for _, name := range []string{"QAT0", "QAT1", "QAT2"} {
		values = append(values, got.Env[name])
	}
	if diff := cmp.Diff(assigned, values, anyOrder()); diff != "" {
		t.Errorf("values of QAT0, QAT1 and QAT2 (-want +got):\n%s", diff)
	}
	if len(got.Env) != 3 {
		t.Errorf("environment is %v, want three variables", got.Env)
	}
}
