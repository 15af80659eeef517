package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// checkSoon holds how long the kubelet waited for what the kernel had told, where time can be relied on.
func checkSoon(t *testing.T, microseconds int64) {
	t.Helper()
	const soon = 50 * time.Millisecond
	if late := time.Duration(microseconds) * time.Microsecond; late > soon && steady() {
		t.Errorf("the kubelet's list was right %v after the kernel's last event, want %v at most", late, soon)
	}
}

func TestNewVFsAreAtTheKubeletAtOnce(t *testing.T) {
	n := newNode(t, "npf=1")
	p := n.pfs[0]
	n.settle(t)

	began := monotonic()
	write(t, p.path("sriov_numvfs"), "16")
	listed := n.settle(t, p)
	events := n.events.since(began)
	last := events[len(events)-1]
	var created int64 // when the kernel had made the last VF: it tells of the PF then
	for _, e := range events {
		if e.action == "change" && strings.HasSuffix(e.path, p.address) {
			created = e.at
		}
	}
	t.Logf("16 VFs: %d uevents; complete at the kubelet %s after the last uevent (%s), %s after the last VF was made",
		len(events), ms(listed-last.at), last, ms(listed-created))
	checkSoon(t, listed-last.at)
	checkAllocation(t, n, "qat.intel.com/cy", 3)

	began = monotonic()
	write(t, p.path("sriov_numvfs"), "0")
	listed = n.settle(t)
	events = n.events.since(began)
	last = events[len(events)-1]
	t.Logf("no VFs: %d uevents; empty at the kubelet %s after the last (%s)", len(events), ms(listed-last.at), last)
	checkSoon(t, listed-last.at)
	for _, e := range events {
		if e.action == "bind" {
			t.Errorf("a VF was bound again on its way out: %v", e)
		}
	}
}

func ms(us int64) string { return fmt.Sprintf("%.1f ms", float64(us)/1000) }

// checkAllocation starts a pod with devices and looks at what its container is given.
func checkAllocation(t *testing.T, n *node, resource string, devices int) {
	t.Helper()
	r := n.kubelet.ask(t, fmt.Sprintf("allocate pod %s %d", resource, devices))
	if len(r.IDs) != devices {
		t.Fatalf("the kubelet chose %v, want %d devices", r.IDs, devices)
	}
	wantNodes := []string{"/dev/vfio/vfio /dev/vfio/vfio rw"}
	for _, id := range r.IDs {
		node := "/dev/vfio/" + base(filepath.Join(pciDevices, id, "iommu_group"))
		wantNodes = append(wantNodes, node+" "+node+" rw")
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
	for i := range r.Env {
		if !strings.HasPrefix(i, "QAT") {
			t.Errorf("unexpected environment %s=%s", i, r.Env[i])
		}
	}
	for i := range devices {
		gotEnv = append(gotEnv, r.Env["QAT"+strconv.Itoa(i)])
	}
	slices.Sort(gotEnv) // the kubelet hands over the devices as a set
	if diff := cmp.Diff(r.IDs, gotEnv); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	n.kubelet.ask(t, "remove pod")
}

func TestAPFIsPulledOutAndPutBack(t *testing.T) {
	n := newNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	for range 2 {
		write(t, a.path("sriov_numvfs"), "16")
		write(t, b.path("sriov_numvfs"), "16")
		n.settle(t, a, b)
		write(t, a.control("present"), "0")
		n.settle(t, b)
		write(t, a.control("present"), "1")
		n.settle(t, b) // the PF comes back without VFs
		write(t, b.path("sriov_numvfs"), "0")
		n.settle(t)
	}
}

func TestFourPFsChangeAtOnce(t *testing.T) {
	n := newNode(t, "npf=4 numa=0,0,1,1")
	all := func(value string) {
		var writers sync.WaitGroup
		for _, p := range n.pfs {
			writers.Go(func() {
				if err := tryWrite(p.path("sriov_numvfs"), value); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
	}
	for round := range 3 {
		began := monotonic()
		all("16")
		made := monotonic()
		listed := n.settle(t, n.pfs...)
		t.Logf("round %d: 64 VFs made in %s, at the kubelet %s later", round+1, ms(made-began), ms(listed-made))
		all("0")
		n.settle(t)
	}
}

func TestAPluginThatStartsLateListsWhatIsThere(t *testing.T) {
	pfs := newHost(t, "npf=4 family=4xxx,401xx,420xx,6xxx")
	for _, p := range pfs {
		write(t, p.path("sriov_numvfs"), "16")
	}
	n := &node{pfs: pfs, events: listen(t), kubelet: startKubelet(t)}
	began := monotonic()
	n.startPlugin(t)
	listed := n.settle(t, pfs...)
	t.Logf("64 unbound VFs: bound and at the kubelet %s after the plugin's start", ms(listed-began))
	if err := n.plugin.end(t, unix.SIGTERM); err != nil {
		t.Errorf("the plugin ended with %v", err)
	}
	if left := glob(t, sockets+"qat*"); len(left) > 0 {
		t.Errorf("sockets left behind: %v", left)
	}
	began = monotonic()
	n.startPlugin(t)
	_, before, _, _ := n.kubelet.state()
	listed = n.settle(t, pfs...)
	_, after, _, _ := n.kubelet.state()
	t.Logf("64 bound VFs: at the kubelet %s after the plugin's start, in %d lists", ms(listed-began), after-before)
}

func TestTheKubeletRestarts(t *testing.T) {
	n := newNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	write(t, a.path("sriov_numvfs"), "16")
	n.settle(t, a)
	for range 3 {
		n.kubelet.ask(t, "restart")
		n.settle(t, a)
		write(t, b.path("sriov_numvfs"), "16")
		n.settle(t, a, b)
		checkAllocation(t, n, "qat.intel.com/dc", 2)
		write(t, b.path("sriov_numvfs"), "0")
		n.settle(t, a)
	}
}
