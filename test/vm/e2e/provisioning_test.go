// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// provisioning is a configuration directory and a kubelet's PodResources API. devmanager does not
// serve that API.
type provisioning struct {
	podresources.UnimplementedPodResourcesListerServer
	dir, sockets string // directories of the configuration and of the socket
	socket       string
	versions     int // of the configuration

	mu   sync.Mutex // guards all following fields
	held []string   // VFs that the pod workloads/holder has
}

// newProvisioning returns a configuration with the rules, which are lines of YAML.
func newProvisioning(t *testing.T, rules string) *provisioning {
	t.Helper()
	p := &provisioning{}
	for _, dir := range []*string{&p.dir, &p.sockets} {
		var err error
		if *dir, err = os.MkdirTemp("/run", ""); err != nil { // not in /tmp, which execInContainer hides
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(*dir) })
	}
	p.configure(t, rules)
	p.socket = filepath.Join(p.sockets, "kubelet.sock")
	listener, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, p)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return p
}

// configure exchanges the configuration as the kubelet exchanges that of a ConfigMap
// (k8s.io/kubernetes/pkg/volume/util/atomic_writer.go).
func (p *provisioning) configure(t *testing.T, rules string) {
	t.Helper()
	p.versions++
	version := fmt.Sprintf("..%d", p.versions)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(p.dir, version), 0o755))
	must(os.WriteFile(filepath.Join(p.dir, version, "qat.yaml"), []byte("rules:\n"+rules), 0o600))
	must(os.Symlink(version, filepath.Join(p.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(p.dir, "..data_tmp"), filepath.Join(p.dir, "..data")))
	if p.versions == 1 {
		must(os.Symlink("..data/qat.yaml", filepath.Join(p.dir, "qat.yaml")))
	}
}

// setHeld sets the VFs that the kubelet reports as those of the pod workloads/holder.
func (p *provisioning) setHeld(vfs ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = vfs
}

func (p *provisioning) List(
	context.Context, *podresources.ListPodResourcesRequest,
) (*podresources.ListPodResourcesResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	holder := &podresources.ContainerResources{
		Name:    "c",
		Devices: []*podresources.ContainerDevices{{ResourceName: "qat.intel.com/cy", DeviceIds: p.held}},
	}
	return &podresources.ListPodResourcesResponse{PodResources: []*podresources.PodResources{
		{Name: "plugin", Namespace: "qat"},
		{Name: "holder", Namespace: "workloads", Containers: []*podresources.ContainerResources{holder}},
	}}, nil
}

func (p *provisioning) flags() []string {
	return []string{"-provisioning-dir=" + p.dir, "-pod-resources-socket=" + p.socket, "-v=2"}
}

// waitForCounts waits until the kubelet has this number of healthy devices of each resource.
func (n *node) waitForCounts(t *testing.T, want map[string]int) {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		changed := n.kubelet.state().changed
		got := map[string]int{}
		for resource, devices := range n.kubelet.devices(t) {
			for _, d := range devices {
				if d.Health == "Healthy" {
					got[strings.TrimPrefix(resource, "qat.intel.com/")]++
				}
			}
		}
		if maps.Equal(got, want) {
			return
		}
		select {
		case <-changed:
		case <-n.plugin.done:
			t.Fatalf("the plugin ended: %v", n.plugin.err)
		case <-deadline:
			t.Fatalf("healthy devices after %v (-want +got):\n%s", testTimeout, cmp.Diff(want, got))
		}
	}
}

// checkNeverListed checks that the plugin has never offered the resource. A new PF has the services
// dc until it is provisioned, and no VFs.
func (n *node) checkNeverListed(t *testing.T, resource string) {
	t.Helper()
	for line := range strings.Lines(n.plugin.log.String()) {
		if strings.Contains(line, `"List changed" resource="`+resource+`"`) {
			t.Errorf("VFs were listed with the services from before: %s", line)
		}
	}
}

// runsOn reports whether this is the machine on which a test runs. Each test runs on one only,
// because the kernel sleeps a second at each removal of VFs (drivers/pci/iov.c, sriov_disable), and
// the plugin waits between two attempts. The clock of the machine steady skips the waits. Tests in
// which several PFs change at a time run on the machine parallel.
func runsOn(t *testing.T, machine string) bool {
	t.Helper()
	if os.Getenv("VM_MACHINE") == machine {
		return true
	}
	t.Logf("runs on the machine %s only", machine)
	return false
}

const (
	crypto      = "- services: [sym, asym]\n  vfs: all\n"
	compression = "- services: [dc]\n  vfs: all\n"
)

// The driver's defaults are sym;asym for the first PF and dc for the second one.
func TestBarePFsAreProvisioned(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	reloadVFIO(t, "disable_denylist=1")
	n := newNode(t, "npf=3 family=4xxx,6xxx,c6xx numa=0,1,1")
	p := newProvisioning(t, "- match: {families: [6xxx]}\n  services: [sym, asym, dc]\n  vfs: all\n"+crypto)
	start := monotonic()
	n.startPlugin(t, p.flags()...)
	n.waitForCounts(t, map[string]int{"cy": 16, "asym-sym-dc": 16, "generic": 16})
	listed := n.waitForVFs(t, n.pfs...)
	t.Logf("48 VFs of 3 PFs were created and at the kubelet %s after the plugin's start", ms(listed-start))

	// Without autoprobe, the driver c6xxvf never had one of the VFs.
	binds := map[string]int{}
	for _, e := range n.uevents.since(start) {
		if e.action == "bind" {
			binds[e.env["DRIVER"]]++
		}
	}
	if diff := cmp.Diff(map[string]int{"vfio-pci": 48}, binds); diff != "" {
		t.Errorf("VFs bound to each driver (-want +got):\n%s", diff)
	}
	for _, pf := range n.pfs {
		if autoprobe := read(t, pf.path("sriov_drivers_autoprobe")); autoprobe != "0" {
			t.Errorf("sriov_drivers_autoprobe of %s = %s, want 0", pf.address, autoprobe)
		}
	}
	p.configure(t, "- vfs: 0\n") // also because the cleanup reloads vfio-pci
	n.waitForCounts(t, map[string]int{})
	poll(t, pollInterval, "the kernel to remove all VFs", func() bool {
		return len(glob(t, pciDrivers+"/vfio-pci/0*")) == 0
	})
}

func TestReturnedPFIsProvisionedAgain(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	n := newNode(t, "npf=2")
	p := newProvisioning(t, crypto)
	n.startPlugin(t, p.flags()...)
	n.waitForCounts(t, map[string]int{"cy": 32})
	for _, pf := range n.pfs { // the second one also gets its services again
		write(t, pf.control("present"), "0")
		n.waitForCounts(t, map[string]int{"cy": 16})
		start := monotonic()
		write(t, pf.control("present"), "1")
		n.waitForCounts(t, map[string]int{"cy": 32})
		listed := n.waitForVFs(t, n.pfs...)
		var bound time.Duration
		for _, e := range n.uevents.since(start) {
			if e.action == "bind" && strings.HasSuffix(e.path, pf.address) {
				bound = e.received
			}
		}
		t.Logf("%s: its 16 VFs were at the kubelet %s after its bind event", pf.address, ms(listed-bound))
		n.checkNeverListed(t, "dc")
		if listed-bound > time.Second {
			t.Errorf("%s: provisioned %v after its bind event, want at most 1s", pf.address, listed-bound)
		}
	}
}

// The driver refuses VFs to one PF for good, as it has no IOMMU, and the kernel uses another PF for
// a while.
func TestFailingPFsDelayNoOther(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	n := newNode(t, "npf=3 domains=0,1,0")
	good, busy := n.pfs[0], n.pfs[2]
	write(t, busy.control("in_use"), "1")
	p := newProvisioning(t, "- vfs: all\n")
	n.startPlugin(t, p.flags()...)
	n.waitForVFs(t, good)
	poll(t, pollInterval, "the log to have both failures", func() bool {
		log := n.plugin.log.String()
		return strings.Contains(log, "device or resource busy") && strings.Contains(log, "the kernel refuses")
	})
	write(t, busy.control("in_use"), "0")
	n.waitForCounts(t, map[string]int{"cy": 32})
	n.waitForVFs(t, good, busy)
}

// A pod has half of the VFs of one PF. It holds them open, as any workload does.
func TestServiceChangeWaitsForPodsThatHoldVFs(t *testing.T) {
	if !runsOn(t, "parallel") {
		return
	}
	n := newNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	p := newProvisioning(t, crypto)
	n.startPlugin(t, p.flags()...)
	n.waitForCounts(t, map[string]int{"cy": 32})
	n.checkNeverListed(t, "dc")
	held := a.vfs(t)[8:]
	var closeVFs []func()
	for _, vf := range held {
		closeVFs = append(closeVFs, openVF(t, vf))
	}
	p.setHeld(held...)
	was := vfLists(t, "Unhealthy", a)["qat.intel.com/cy"]
	start := monotonic()
	p.configure(t, compression)

	// The other PF changes at once. The VFs of this one go to no other pod.
	want := deviceLists{"qat.intel.com/cy": was}
	poll(t, pollInterval, "the other PF to change", func() bool { return read(t, b.path("qat/cfg_services")) == "dc" })
	n.waitForCounts(t, map[string]int{"dc": 16})
	maps.Copy(want, vfLists(t, "Healthy", b))
	n.waitForLists(t, want)
	poll(t, pollInterval, "the log to name the pod that holds VFs", func() bool {
		return strings.Contains(n.plugin.log.String(), "workloads/holder")
	})
	for _, e := range n.uevents.since(start) {
		if strings.Contains(e.path, "/pci"+a.address[:len("0000:6b")]+"/") {
			t.Errorf("uevent while the pod holds VFs: %v", e)
		}
	}
	if services, driver := read(t, a.path("qat/cfg_services")), driverOf(held[0]); services != "asym;sym" ||
		driver != "vfio-pci" {
		t.Errorf("while the pod holds VFs: services %s, driver of the VFs %s", services, driver)
	}

	for _, closeVF := range closeVFs {
		closeVF()
	}
	released := monotonic()
	p.setHeld()
	n.waitForCounts(t, map[string]int{"dc": 32})
	listed := n.waitForVFs(t, a, b)
	t.Logf("the change was complete %s after the VFs were released", ms(listed-released))
}

// A process that is no pod holds a VF, so that the kernel blocks its removal. If the plugin wrote
// to sriov_numvfs of the PF meanwhile, kernels since 6.1.158 would block those of all PFs; see
// unbindVFs in qat/internal/provision.
func TestBlockedWriteDelaysNoOtherPF(t *testing.T) {
	if !runsOn(t, "parallel") {
		return
	}
	n := newNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	p := newProvisioning(t, crypto)
	n.startPlugin(t, p.flags()...)
	n.waitForCounts(t, map[string]int{"cy": 32})
	closeVF := openVF(t, a.vfs(t)[0])
	p.configure(t, compression)
	poll(t, pollInterval, "the log to name the write that blocks", func() bool {
		return strings.Contains(n.plugin.log.String(), "has not returned")
	})
	n.waitForCounts(t, map[string]int{"dc": 16})

	start := monotonic()
	b.disableVFs(t)
	poll(t, pollInterval, "the plugin to create and bind the VFs of the other PF again", func() bool {
		binds := 0
		for _, e := range n.uevents.since(start) {
			if e.action == "bind" && e.env["DRIVER"] == "vfio-pci" {
				binds++
			}
		}
		return binds == 16
	})
	n.waitForCounts(t, map[string]int{"dc": 16})

	closeVF()
	n.waitForCounts(t, map[string]int{"dc": 32})
	n.waitForVFs(t, a, b)
}

// The plugin is killed while the kernel blocks its write. The next one continues. The change keeps
// the resource: the kubelet would show that of a killed plugin for five minutes.
func TestRestartDuringReconfiguration(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	n := newNode(t, "npf=1")
	p := newProvisioning(t, crypto)
	n.startPlugin(t, p.flags()...)
	n.waitForCounts(t, map[string]int{"cy": 16})
	pf := n.pfs[0]
	vf := pf.vfs(t)[0]
	closeVF := openVF(t, vf)
	p.configure(t, crypto+"  pmIdle: false\n")
	poll(t, pollInterval, "the plugin to unbind the VF", func() bool { return driverOf(vf) == "" })
	_ = n.plugin.cmd.Process.Signal(unix.SIGKILL)
	closeVF()
	<-n.plugin.done
	n.startPlugin(t, p.flags()...)
	poll(t, pollInterval, "the change", func() bool { return read(t, pf.path("qat/pm_idle_enabled")) == "0" })
	n.waitForCounts(t, map[string]int{"cy": 16})
	n.waitForVFs(t, pf)
}

// The pod has no capabilities. It mounts the directory of the PodResources socket read-only, as the
// overlay provisioning does; a VF is removed only if the kubelet answers.
func TestProvisioningPodHasSufficientPrivileges(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	p := newProvisioning(t, crypto+"  autoReset: true\n")
	c := baseContainer(t)
	c.Mounts = append(c.Mounts,
		mount{Source: p.dir, Target: "/etc/qat-provisioning", ReadOnly: true},
		mount{Source: p.sockets, Target: "/var/lib/kubelet/pod-resources", ReadOnly: true})
	n := startPod(t, "npf=2", c, "-provisioning-dir=/etc/qat-provisioning")
	n.waitForCounts(t, map[string]int{"cy": 32})
	p.configure(t, compression+"  pmIdle: false\n")
	n.waitForCounts(t, map[string]int{"dc": 32})
	n.waitForVFs(t, n.pfs...)
	for _, pf := range n.pfs {
		for file, want := range map[string]string{
			"qat/auto_reset": "on", "qat/pm_idle_enabled": "0", "sriov_drivers_autoprobe": "0",
		} {
			if got := read(t, pf.path(file)); got != want {
				t.Errorf("%s of %s = %s, want %s", file, pf.address, got, want)
			}
		}
	}
}
