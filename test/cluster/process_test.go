// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

const kubeletPID = "/run/kubelet.pid"

// stopKubelet stops the kubelet as a service manager does, and waits until it has exited.
func (n *node) stopKubelet() {
	n.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(n.t, kubeletPID)))
	must(n.t, err)
	must(n.t, syscall.Kill(pid, syscall.SIGTERM))
	poll(n.t, func() error {
		if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return fmt.Errorf("the kubelet, process %d, has not exited", pid)
		}
		return nil
	})
}

// startKubelet starts the kubelet as a child of the node's first process, so that it
// outlives the test.
func (n *node) startKubelet() {
	n.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `"$0" >>"$1" 2>&1 </dev/null & echo $! >"$2"`,
		projectFile("test/cluster/kubelet.sh"),
		filepath.Join(os.Getenv("CLUSTER_LOGS"), "kubelet.log"),
		kubeletPID)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("start the kubelet: %v\n%s", err, out)
	}
}

// process returns the process ID of a pod's only container, in the node's namespace.
func (n *node) process(pod *corev1.Pod) int {
	n.t.Helper()
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(n.t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), id) { // the process has exited, or is another one
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
			return pid
		}
	}
	n.t.Fatalf("no process in the control group of container %q of pod %s", id, pod.Name)
	panic("unreachable")
}

// suspend stops the process of a pod's only container until resume is called.
func (n *node) suspend(pod *corev1.Pod) (resume func()) {
	n.t.Helper()
	pid := n.process(pod)
	must(n.t, syscall.Kill(pid, syscall.SIGSTOP))
	return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
}

// procFile returns the path of a process's file in /proc.
func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }
