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

// stopKubelet stops the kubelet as a service manager does, and waits until it has exited.
func (n *node) stopKubelet() {
	n.t.Helper()
	n.stop("kubelet", syscall.SIGTERM)
}

// startKubelet starts the kubelet as a child of the node's first process, so that it
// outlives the test.
func (n *node) startKubelet() {
	n.t.Helper()
	n.start("kubelet", projectFile("test/cluster/kubelet.sh"))
}

// restartAPIServer kills the API server, calls meanwhile, starts it with the same arguments, and
// waits until it is ready.
func (n *node) restartAPIServer(meanwhile func()) {
	n.t.Helper()
	const name = "kube-apiserver"
	args := strings.Split(strings.TrimSuffix(readFile(n.t, procFile(n.pidOf(name), "cmdline")), "\x00"), "\x00")
	n.stop(name, syscall.SIGKILL)
	meanwhile()
	n.start(name, args...)
	poll(n.t, func() error {
		_, stderr, err := tryKubectl("get", "--raw", "/readyz")
		if err != nil {
			return fmt.Errorf("kubectl get --raw /readyz: %w: %s", err, stderr)
		}
		return nil
	})
}

// pidFile returns the file with the ID of the process of one of the node's programs.
func pidFile(name string) string { return filepath.Join("/run", name+".pid") }

func (n *node) pidOf(name string) int {
	n.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(n.t, pidFile(name))))
	must(n.t, err)
	return pid
}

// stop stops one of the node's programs with a signal, and waits until it has exited.
func (n *node) stop(name string, signal syscall.Signal) {
	n.t.Helper()
	pid := n.pidOf(name)
	must(n.t, syscall.Kill(pid, signal))
	poll(n.t, func() error {
		if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return fmt.Errorf("%s, process %d, has not exited", name, pid)
		}
		return nil
	})
}

// start starts one of the node's programs.
func (n *node) start(name string, command ...string) {
	n.t.Helper()
	const script = `log=$1 pid=$2; shift 2; "$@" >>"$log" 2>&1 </dev/null & echo $! >"$pid"`
	log := filepath.Join(os.Getenv("CLUSTER_LOGS"), name+".log")
	args := append([]string{"-c", script, "sh", log, pidFile(name)}, command...)
	if out, err := exec.Command("/bin/sh", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("start %s: %v\n%s", name, err, out)
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
