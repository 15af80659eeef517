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

// build builds a main package for the test and returns the program's path. dir is where the package's module is. Under the race detector
// the program has it too: what it finds is an exit status, and the packages that this test is built of need not be compiled again.
func build(t *testing.T, dir, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(pkg))
	args := []string{"build", "-buildvcs=false", "-o", path} // git may refuse to speak of a checkout of another user
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

// startProgram runs qat_plugin, with the kubelet's directory where it is on every node. The returned stop ends it as a node does when it
// ends a pod, and checks that it went in peace.
func startProgram(t *testing.T, path string, args ...string) (stop func()) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("qat_plugin ended before it was told to: %v", err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("qat_plugin ended with %v on SIGTERM", err)
			}
		case <-time.After(deadline):
			_ = cmd.Process.Kill()
			<-ended
			t.Error("qat_plugin did not end on SIGTERM")
		}
		if t.Failed() {
			t.Logf("log of qat_plugin:\n%s", &log)
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
	t.Run("follows the host", func(t *testing.T) { testFollow(t, path) })
	t.Run("gives a container its VFs", func(t *testing.T) { testContainer(t, path) })
}

// qatNode is a host of two PFs without VFs, one of service cy on NUMA node 1 and one of dc on node 0, with a kubelet and qat_plugin.
func qatNode(t *testing.T, path string) (n *node, host *lookalike.Host, stop func()) {
	t.Helper()
	n = startNode(t)
	host = lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym", NUMANode: 1}))
	must(t, host.AddPF(lookalike.PF{Address: dcPF, Services: "dc"}))
	return n, host, startProgram(t, path, "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-v=2")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testFollow(t *testing.T, path string) {
	n, host, stop := qatNode(t, path)

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

	must(t, host.SetState(cyPF, "down")) // takes the VFs away
	n.wantVFs(cy, nil, 1)
	must(t, host.SetService(cyPF, "dc"))
	must(t, host.SetState(cyPF, "up"))
	must(t, host.SetVFs(cyPF, 16))
	n.wantVFs(dc, vfs, 1)
	n.wantVFs(cy, nil, 1)

	stop()
	for _, name := range list(t, devicemanager.SocketDir) {
		if strings.HasSuffix(name, ".sock") && name != "kubelet.sock" {
			t.Errorf("qat_plugin left its socket %q", name)
		}
	}
	n.wantCount(dc, 16, 0)
}

// wantVFs waits until the list of the resource is these VFs, all Healthy, in any order.
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
	n, host, _ := qatNode(t, path)
	must(t, host.SetVFs(cyPF, 16))
	vfs := host.VFs(cyPF)
	n.wantVFs(cy, vfs, 1)

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
	if diff := cmp.Diff(want, got.DeviceNodes, sorted()); diff != "" {
		t.Errorf("nodes of the container (-want +got):\n%s", diff)
	}
	var told []string // QAT0, QAT1, ... are the devices in the order of the request, which is the kubelet's and not known here
	for _, name := range []string{"QAT0", "QAT1", "QAT2"} {
		told = append(told, got.Env[name])
	}
	if diff := cmp.Diff(assigned, told, sorted()); diff != "" {
		t.Errorf("values of QAT0, QAT1 and QAT2 (-want +got):\n%s", diff)
	}
	if len(got.Env) != 3 {
		t.Errorf("environment is %v, want three variables", got.Env)
	}
}
