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
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const kubeletPID = "/run/kubelet.pid"

// stopKubelet ends the kubelet as a node's service manager does.
func (n *node) stopKubelet() {
	n.t.Helper()
	text, err := os.ReadFile(kubeletPID)
	must(n.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(n.t, err)
	must(n.t, syscall.Kill(pid, syscall.SIGTERM))
	waitGone(n.t, pid)
}

// startKubelet starts it again, as a child of the node's first process, so that it outlives the test.
func (n *node) startKubelet() {
	n.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `"$0" >>"$1" 2>&1 </dev/null & echo $! >"$2"`,
		filepath.Join(os.Getenv("CLUSTER_TOP"), "test/cluster/kubelet.sh"), filepath.Join(os.Getenv("CLUSTER_LOGS"), "kubelet.log"), kubeletPID)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("start the kubelet: %v\n%s", err, out)
	}
}

// waitGone waits until the process has ended and its parent knows.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
	}
	t.Fatalf("process %d does not end within %v", pid, deadline)
}

// process is the process of a pod's one container, as this node numbers it.
func (n *node) process(pod *corev1.Pod) int {
	n.t.Helper()
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(n.t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), id) { // it has ended, or is another
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
			return pid
		}
	}
	n.t.Fatalf("no process is in the control group of container %q of pod %s", id, pod.Name)
	panic("unreachable")
}
