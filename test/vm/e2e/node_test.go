package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const sockets = "/var/lib/kubelet/device-plugins/"

// A node is the whole of it: a host with PFs, the kubelet's device manager and the plugin.
type node struct {
	pfs     []*pf
	events  *uevents
	kubelet *kubelet
	plugin  *program
}

// newNode starts everything. When the test ends, the plugin must end well and leave no socket.
func newNode(t *testing.T, parameters string, flags ...string) *node {
	t.Helper()
	n := &node{pfs: newHost(t, parameters)}
	n.events = listen(t)
	n.kubelet = startKubelet(t)
	n.startPlugin(t, flags...)
	return n
}

func (n *node) startPlugin(t *testing.T, flags ...string) {
	t.Helper()
	n.run(t, exec.Command("/bin/qat_plugin", flags...))
}

// run starts the plugin by this command.
func (n *node) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	plugin := start(t, cmd)
	n.plugin = plugin
	t.Cleanup(func() {
		select {
		case <-plugin.done:
			return // the test ended it
		default:
		}
		if err := plugin.end(t, unix.SIGTERM); err != nil {
			t.Errorf("the plugin ended with %v after SIGTERM", err)
		}
		if left := glob(t, sockets+"qat*"); len(left) > 0 {
			t.Errorf("sockets left behind: %v", left)
		}
	})
}

// A list is resource → what the kubelet has of it, each device as its address and, if so, its NUMA node and that it is unhealthy.
type list map[string][]string

// settle waits until the kubelet has exactly the VFs of these PFs, all Healthy, and checks that sysfs says the same. It returns when
// the last list was received.
func (n *node) settle(t *testing.T, pfs ...*pf) int64 {
	t.Helper()
	at := n.await(t, vfList(t, "", pfs...))
	if diff := cmp.Diff(hostList(t), n.listed(t)); diff != "" {
		t.Fatalf("the kubelet's list is not what sysfs says (-sysfs +kubelet):\n%s", diff)
	}
	return at
}

// vfList is the list of all VFs of these PFs, each with its health unless that is "".
func vfList(t *testing.T, health string, pfs ...*pf) list {
	t.Helper()
	l := list{}
	for _, p := range pfs {
		resource, more := "qat.intel.com/"+p.resource(t), ""
		if node := read(t, p.path("numa_node")); node != "-1" {
			more = " on " + node
		}
		if health != "" {
			more += " " + health
		}
		for _, vf := range p.vfs(t) {
			l[resource] = append(l[resource], vf+more)
		}
	}
	for _, devices := range l {
		slices.Sort(devices)
	}
	return l
}

// await waits until the kubelet has exactly this list, and returns when that was received.
func (n *node) await(t *testing.T, want list) int64 {
	t.Helper()
	size := 0
	for _, devices := range want {
		size += len(devices)
	}
	deadline := time.After(patience)
	for {
		devices, _, at, news := n.kubelet.state()
		heard := n.events.changed()
		if devices == size && cmp.Equal(want, n.listed(t)) {
			return at
		}
		select {
		case <-news:
		case <-heard:
		case <-n.plugin.done:
			t.Fatalf("the plugin ended: %v", n.plugin.err)
		case <-deadline:
			t.Fatalf("the kubelet's list is not right after %v (-want +got):\n%s", patience, cmp.Diff(want, n.listed(t)))
		}
	}
}

// listed is what the kubelet has.
func (n *node) listed(t *testing.T) list {
	t.Helper()
	got := list{}
	for resource, devices := range n.kubelet.all(t) {
		for _, d := range devices {
			words := d.ID
			for _, node := range d.NUMA {
				words += " on " + strconv.Itoa(node)
			}
			if d.Health != "Healthy" {
				words += " " + d.Health
			}
			got[resource] = append(got[resource], words)
		}
		slices.Sort(got[resource])
	}
	return got
}

// hostList is what sysfs and /dev say that the kubelet should have: each QAT VF that vfio-pci holds and that has its node. It is
// written without a look at how the plugin finds out.
func hostList(t *testing.T) list {
	t.Helper()
	want := list{}
	for _, dir := range glob(t, pciDrivers+"/vfio-pci/0*") {
		address := filepath.Base(dir)
		group := base(filepath.Join(dir, "iommu_group"))
		if !slices.Contains(groups(t), group) {
			continue
		}
		p := &pf{address: base(filepath.Join(dir, "physfn"))}
		if node := read(t, filepath.Join(dir, "numa_node")); node != "-1" {
			address += " on " + node
		}
		resource := "qat.intel.com/" + p.resource(t)
		want[resource] = append(want[resource], address)
	}
	for _, l := range want {
		slices.Sort(l)
	}
	return want
}

// resource is the name of the resource that the PF's VFs belong to.
func (p *pf) resource(t *testing.T) string {
	t.Helper()
	if len(glob(t, p.path("qat/cfg_services"))) == 0 {
		return "generic"
	}
	if services := read(t, p.path("qat/cfg_services")); services != "asym;sym" {
		return strings.ReplaceAll(services, ";", "-")
	}
	return "cy"
}
