package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newPod is a node whose plugin runs in a container.
func newPod(t *testing.T, parameters string, c *container, flags ...string) *node {
	t.Helper()
	n := &node{pfs: newHost(t, parameters)}
	n.events = listen(t)
	n.kubelet = startKubelet(t)
	n.run(t, c.in(t, flags...))
	eventually(t, "that the plugin serves its health", func() bool { return strings.Contains(n.plugin.log.String(), "Serving /livez and /readyz") })
	return n
}

// get asks the plugin for a page of its health address, in its network namespace, as the kubelet's probe does through the pod's address.
func (n *node) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.plugin.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	type dialled struct {
		conn net.Conn
		err  error
	}
	result := make(chan dialled)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and its namespace with it
		var d dialled
		if d.err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); d.err == nil {
			d.conn, d.err = net.DialTimeout("tcp", "127.0.0.1:8081", patience)
		}
		result <- d
	}()
	d := <-result
	if d.err != nil {
		t.Fatalf("reach the plugin's health address: %v", d.err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return d.conn, nil }}}
	response, err := client.Get("http://plugin" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// What the manifest grants is enough: no capability, no writable file system but the two parts of sysfs and the sockets' directory, a
// network namespace of its own. A container runtime would add seccomp and the device cgroup, which test/cluster sees to.
func TestTheShippedPodIsEnough(t *testing.T) {
	n := newPod(t, "npf=2", shipped(t))
	a, b := n.pfs[0], n.pfs[1]
	n.settle(t)

	pid := strconv.Itoa(n.plugin.cmd.Process.Pid)
	for _, line := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(read(t, "/proc/"+pid+"/status"), line) {
			t.Errorf("the plugin has privileges: /proc/%s/status does not say %q", pid, line)
		}
	}
	if mine, its := base("/proc/self/ns/net"), base("/proc/"+pid+"/ns/net"); mine == its {
		t.Errorf("the plugin is in this network namespace, %s", its)
	}

	began := monotonic()
	write(t, a.path("sriov_numvfs"), "16")
	listed := n.settle(t, a)
	events := n.events.since(began)
	t.Logf("16 VFs, bound by the plugin without a capability: at the kubelet %s after the kernel's last event", ms(listed-events[len(events)-1].at))
	checkAllocation(t, n, "qat.intel.com/cy", 2)
	if status, body := n.get(t, "/readyz?verbose"); status != 200 || strings.Count(body, "[+]") != 4 {
		t.Errorf("/readyz?verbose: %d\n%s", status, body)
	}

	// A write that somebody makes on the host is heard through the pod's mount.
	write(t, a.path("sriov_numvfs"), "0")
	write(t, a.path("qat/state"), "down")
	write(t, a.path("qat/cfg_services"), "dc")
	write(t, a.path("qat/state"), "up")
	write(t, a.path("sriov_numvfs"), "16")
	write(t, b.path("sriov_numvfs"), "16")
	n.settle(t, a, b)
	write(t, a.path("sriov_numvfs"), "0")
	n.settle(t, b)

	for _, file := range []string{"/host/sys/kernel/debug", "/host/sys/fs/cgroup", "/host/dev/vfio", "/usr/local/bin"} {
		inside := filepath.Join("/proc", pid, "root", file)
		if err := unix.Access(inside, unix.W_OK); err != unix.EROFS && err != unix.ENOENT {
			t.Errorf("%s: writing in the container gives %v, want that its file system is read-only", file, err)
		}
	}
}

func TestAPodThatCannotHearSaysSoAndLooks(t *testing.T) {
	for name, change := range map[string]func(c *container) (says string){
		"in a user namespace": func(c *container) string {
			c.UserNamespace = true
			return "this process is in a user namespace, which the kernel's events do not reach"
		},
		"with the pod's own sysfs": func(c *container) string {
			i := slices.IndexFunc(c.Mounts, func(m mount) bool { return m.Source == "/sys" })
			at := c.Mounts[i].Target
			c.Mounts = slices.DeleteFunc(c.Mounts, func(m mount) bool { return m.Target == at || strings.HasPrefix(m.Target, at+"/") })
			c.Mounts = append(c.Mounts, mount{Source: "sysfs", Target: at})
			return "the sysfs is not the host's but that of this network namespace"
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := shipped(t)
			says := change(c)
			n := newPod(t, "npf=1", c, "-audit-interval=5s")
			n.settle(t)
			eventually(t, "that it is not ready, as "+says, func() bool {
				status, body := n.get(t, "/readyz?verbose")
				return status == 500 && strings.Contains(body, "[-]kernel-heard failed: "+says) && strings.Contains(body, "[+]registered ok")
			})
			if status, body := n.get(t, "/livez"); status != 200 {
				t.Errorf("/livez: %d %s; a deaf plugin is alive", status, body)
			}
			write(t, n.pfs[0].path("sriov_numvfs"), "16")
			n.settle(t, n.pfs[0])
			if log := n.plugin.log.String(); strings.Count(log, "Deaf to what happens on the host") != 1 || !strings.Contains(log, says) {
				t.Errorf("the log does not say once that, and why, it is deaf:\n%s", log)
			}
		})
	}
}
