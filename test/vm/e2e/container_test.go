// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
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
	"time"

	"golang.org/x/sys/unix"
)

// startPod returns a node whose plugin runs in the container, with additional flags.
func startPod(t *testing.T, parameters string, c *container, flags ...string) *node {
	t.Helper()
	n := newNode(t, parameters)
	n.runPlugin(t, c.command(t, flags...))
	poll(t, pollInterval, "the plugin to serve its health", func() bool {
		return strings.Contains(n.plugin.log.String(), "Serving /livez and /readyz")
	})
	return n
}

// getHealth sends a request to the plugin's health address, in the plugin's network namespace.
func (n *node) getHealth(t *testing.T, path string) (status int, body string) {
	t.Helper()
	conn, err := dialInNamespace(fmt.Sprintf("/proc/%d/ns/net", n.plugin.cmd.Process.Pid), "127.0.0.1:8081")
	if err != nil {
		t.Fatalf("connect to the plugin's health address: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
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

// dialInNamespace connects to a TCP address in a network namespace.
func dialInNamespace(namespace, address string) (conn net.Conn, err error) {
	ns, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = net.DialTimeout("tcp", address, testTimeout)
		}
	}()
	<-done
	return conn, err
}

// The pod has no capabilities, and a network namespace of its own. It can write only to two
// directories of sysfs and to that of the kubelet's sockets. A container runtime adds seccomp and
// the device cgroup, which test/cluster tests.
func TestShippedPodHasSufficientPrivileges(t *testing.T) {
	n := startPod(t, "npf=2", baseContainer(t))
	a, b := n.pfs[0], n.pfs[1]
	n.waitForVFs(t)

	proc := "/proc/" + strconv.Itoa(n.plugin.cmd.Process.Pid)
	status := read(t, proc+"/status")
	for _, line := range []string{
		"CapPrm:\t0000000000000000",
		"CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000",
		"NoNewPrivs:\t1",
	} {
		if !strings.Contains(status, line) {
			t.Errorf("no line %q in %s/status", line, proc)
		}
	}
	if namespace := linkBase(proc + "/ns/net"); namespace == linkBase("/proc/self/ns/net") {
		t.Errorf("the plugin runs in the host's network namespace, %s", namespace)
	}

	start := monotonic()
	a.enableVFs(t)
	listed := n.waitForVFs(t, a)
	events := n.uevents.since(start)
	t.Logf("16 VFs, bound without capabilities: at the kubelet %s after the last uevent",
		ms(listed-events[len(events)-1].received))
	n.checkAllocation(t, "qat.intel.com/cy", 2)
	if status, body := n.getHealth(t, "/readyz?verbose"); status != 200 || strings.Count(body, "[+]") != 4 {
		t.Errorf("/readyz?verbose: %d\n%s", status, body)
	}

	// Writes on the host are seen through the pod's mount of sysfs.
	a.disableVFs(t)
	write(t, a.path("qat/state"), "down")
	write(t, a.path("qat/cfg_services"), "dc")
	write(t, a.path("qat/state"), "up")
	a.enableVFs(t)
	b.enableVFs(t)
	n.waitForVFs(t, a, b)
	a.disableVFs(t)
	n.waitForVFs(t, b)

	for _, dir := range []string{"/host/sys/kernel/debug", "/host/sys/fs/cgroup", "/host/dev/vfio", "/usr/local/bin"} {
		if err := unix.Access(filepath.Join(proc, "root", dir), unix.W_OK); err != unix.EROFS && err != unix.ENOENT {
			t.Errorf("access %s for writing in the container: %v, want a read-only file system", dir, err)
		}
	}
}

func TestPodWithoutUeventsIsNotReadyAndAudits(t *testing.T) {
	for _, test := range []struct {
		name, reason string // the beginning of the reason
		change       func(c *container)
	}{
		{
			"in a user namespace",
			"this process runs in a user namespace, which kernel uevents do not reach",
			func(c *container) { c.UserNamespace = true },
		},
		{
			"with the pod's own sysfs",
			"the mounted sysfs belongs to this pod's network namespace, so writes made on the host are not reported",
			func(c *container) {
				i := slices.IndexFunc(c.Mounts, func(m mount) bool { return m.Source == "/sys" })
				sysfs := c.Mounts[i].Target
				c.Mounts = slices.DeleteFunc(c.Mounts, func(m mount) bool {
					return m.Target == sysfs || strings.HasPrefix(m.Target, sysfs+"/")
				})
				c.Mounts = append(c.Mounts, mount{Source: "sysfs", Target: sysfs})
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := baseContainer(t)
			test.change(c)
			n := startPod(t, "npf=1", c, "-audit-interval=5s")
			n.waitForVFs(t)
			poll(t, 50*time.Millisecond, "/readyz to fail because "+test.reason, func() bool {
				status, body := n.getHealth(t, "/readyz?verbose")
				return status == 500 && strings.Contains(body, "[-]kernel-heard failed: "+test.reason) &&
					strings.Contains(body, "[+]registered ok")
			})
			if status, body := n.getHealth(t, "/livez"); status != 200 {
				t.Errorf("/livez: %d %s, want 200 without uevents too", status, body)
			}
			n.pfs[0].enableVFs(t)
			n.waitForVFs(t, n.pfs[0])
			log := n.plugin.log.String()
			if strings.Count(log, "Not receiving kernel uevents") != 1 || !strings.Contains(log, test.reason) {
				t.Errorf("the log does not say once that no uevents are received because %s:\n%s", test.reason, log)
			}
		})
	}
}
