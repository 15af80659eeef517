// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
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

// node is a host with PFs, a kubelet and the plugin.
type node struct {
	pfs     []*pf
	uevents *ueventRecorder
	kubelet *kubelet
	plugin  *program
}

// newNode returns a node without a plugin. The parameters are those of loadPFs.
func newNode(t *testing.T, parameters string) *node {
	t.Helper()
	return &node{pfs: loadPFs(t, parameters), uevents: recordUevents(t), kubelet: startKubelet(t)}
}

// startNode returns a node whose plugin runs with the flags.
func startNode(t *testing.T, parameters string, flags ...string) *node {
	t.Helper()
	n := newNode(t, parameters)
	n.startPlugin(t, flags...)
	return n
}

func (n *node) startPlugin(t *testing.T, flags ...string) {
	t.Helper()
	n.runPlugin(t, exec.Command("/bin/qat_plugin", flags...))
}

// runPlugin runs the command as the node's plugin. When the test ends, the plugin must still run,
// unless the test stopped it, and end without an error and without leaving a socket.
func (n *node) runPlugin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	plugin := startProgram(t, cmd)
	n.plugin = plugin
	t.Cleanup(func() {
		select {
		case <-plugin.done:
			return // the test stopped it
		default:
		}
		n.stopPlugin(t, plugin)
	})
}

// stopPlugin stops a plugin as the end of its pod does.
func (n *node) stopPlugin(t *testing.T, plugin *program) {
	t.Helper()
	if err := plugin.stop(t, unix.SIGTERM); err != nil {
		t.Errorf("the plugin ended with an error after SIGTERM: %v", err)
	}
	if left := glob(t, socketDir+"qat*.sock"); len(left) > 0 {
		t.Errorf("sockets left behind: %v", left)
	}
}

// deviceLists are the lists of a kubelet: resource → devices, each as formatted by formatDevice.
type deviceLists map[string][]string

// formatDevice returns the address, followed by the NUMA node unless it is unknown, and by the
// health unless it is Healthy.
func formatDevice(address, numaNode, health string) string {
	if numaNode != "-1" {
		address += " on " + numaNode
	}
	if health != "Healthy" {
		address += " " + health
	}
	return address
}

func (l deviceLists) sort() deviceLists {
	for _, devices := range l {
		slices.Sort(devices)
	}
	return l
}

// vfLists returns the lists of all VFs of the PFs, with the given health.
func vfLists(t *testing.T, health string, pfs ...*pf) deviceLists {
	t.Helper()
	l := deviceLists{}
	for _, p := range pfs {
		resource, numaNode := p.resource(t), read(t, p.path("numa_node"))
		for _, vf := range p.vfs(t) {
			l[resource] = append(l[resource], formatDevice(vf, numaNode, health))
		}
	}
	return l.sort()
}

// hostLists returns the lists that the kubelet should have according to sysfs and /dev: each QAT VF
// that is bound to vfio-pci and has a device node. It shares no code with the plugin.
func hostLists(t *testing.T) deviceLists {
	t.Helper()
	l := deviceLists{}
	for _, dir := range glob(t, pciDrivers+"/vfio-pci/0*") {
		address := filepath.Base(dir)
		if !slices.Contains(vfioGroups(t), groupOf(address)) {
			continue
		}
		p := &pf{address: linkBase(filepath.Join(dir, "physfn"))}
		resource := p.resource(t)
		l[resource] = append(l[resource], formatDevice(address, read(t, filepath.Join(dir, "numa_node")), "Healthy"))
	}
	return l.sort()
}

// lists returns the lists that the kubelet has.
func (n *node) lists(t *testing.T) deviceLists {
	t.Helper()
	l := deviceLists{}
	for resource, devices := range n.kubelet.devices(t) {
		for _, d := range devices {
			numaNode := "-1"
			if len(d.NUMA) > 0 {
				numaNode = strings.Trim(fmt.Sprint(d.NUMA), "[]")
			}
			l[resource] = append(l[resource], formatDevice(d.ID, numaNode, d.Health))
		}
	}
	return l.sort()
}

// waitForVFs waits until the kubelet has exactly the VFs of the PFs, all Healthy, and compares its
// lists with sysfs. It returns when the kubelet received the last list.
func (n *node) waitForVFs(t *testing.T, pfs ...*pf) time.Duration {
	t.Helper()
	received := n.waitForLists(t, vfLists(t, "Healthy", pfs...))
	if diff := cmp.Diff(hostLists(t), n.lists(t)); diff != "" {
		t.Fatalf("the kubelet's lists differ from sysfs (-sysfs +kubelet):\n%s", diff)
	}
	return received
}

// waitForLists waits until the kubelet has exactly these lists and returns when it received the
// last one.
func (n *node) waitForLists(t *testing.T, want deviceLists) time.Duration {
	t.Helper()
	size := 0
	for _, devices := range want {
		size += len(devices)
	}
	deadline := time.After(testTimeout)
	for {
		state, uevent := n.kubelet.state(), n.uevents.changed()
		if state.devices == size && cmp.Equal(want, n.lists(t)) {
			return state.received
		}
		select {
		case <-state.changed:
		case <-uevent:
		case <-n.plugin.done:
			t.Fatalf("the plugin ended: %v", n.plugin.err)
		case <-deadline:
			t.Fatalf("the kubelet's lists after %v (-want +got):\n%s", testTimeout, cmp.Diff(want, n.lists(t)))
		}
	}
}

// checkAllocation starts a pod with devices and checks what its container gets.
func (n *node) checkAllocation(t *testing.T, resource string, devices int) {
	t.Helper()
	r := n.kubelet.do(t, fmt.Sprintf("allocate pod %s %d", resource, devices))
	if len(r.IDs) != devices {
		t.Fatalf("the kubelet allocated %v, want %d devices", r.IDs, devices)
	}
	wantNodes := []string{"/dev/vfio/vfio /dev/vfio/vfio rw"}
	for _, id := range r.IDs {
		group := "/dev/vfio/" + groupOf(id)
		wantNodes = append(wantNodes, group+" "+group+" rw")
	}
	var gotNodes, gotEnv []string
	for _, d := range r.Nodes {
		gotNodes = append(gotNodes, d.Host+" "+d.Container+" "+d.Permissions)
	}
	slices.Sort(wantNodes)
	slices.Sort(gotNodes)
	if diff := cmp.Diff(wantNodes, gotNodes); diff != "" {
		t.Errorf("device nodes of %v (-want +got):\n%s", r.IDs, diff)
	}
	for name, value := range r.Env {
		if !strings.HasPrefix(name, "QAT") {
			t.Errorf("unexpected environment variable %s=%s", name, value)
		}
	}
	for i := range devices {
		gotEnv = append(gotEnv, r.Env["QAT"+strconv.Itoa(i)])
	}
	slices.Sort(gotEnv) // the kubelet requests the devices in no particular order
	if diff := cmp.Diff(r.IDs, gotEnv); diff != "" {
		t.Errorf("values of QAT0, QAT1, ... (-want +got):\n%s", diff)
	}
	n.kubelet.do(t, "remove pod")
}

// ms formats a duration with a fixed unit.
func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
