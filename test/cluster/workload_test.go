// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A workload is a running pod with one container that requested devices.
type workload struct {
	*node
	name    string
	pod     *corev1.Pod // when it became ready
	devices devices
}

// devices are those that a container finds.
type devices struct {
	Env   map[string]string // variables that start with QAT
	Nodes []string          // device nodes that a container does not have by default
}

// runSample applies deployments/workloads/sample with the node's busybox image, in a
// namespace that enforces the Pod Security level restricted, and waits until its pod is
// ready.
func (n *node) runSample() *workload {
	n.t.Helper()
	n.addNamespace(workloadNamespace, enforceRestricted)
	return n.runShipped("workloads/sample", "qat-sample")
}

// runShipped applies a pod below deployments/ with the node's busybox image, and waits until it is
// ready.
func (n *node) runShipped(deploymentName, podName string) *workload {
	n.t.Helper()
	dir := addKustomization(n.t, deployment(deploymentName),
		"images: [{name: busybox, newName: local/busybox, newTag: \"1\"}]\n")
	n.cleanup(func() {
		kubectl(n.t, "delete", "-n", workloadNamespace, "--ignore-not-found", "--wait=false", "-k", dir)
	})
	kubectl(n.t, "apply", "--validate=strict", "-n", workloadNamespace, "-k", dir)
	return n.awaitWorkload(workloadNamespace, podName)
}

// runPod runs a pod that requests devices of a resource.
func (n *node) runPod(name, resourceName string, count int64) *workload {
	n.t.Helper()
	return n.run(requesting(newPod(name), resourceName, count))
}

// newPod returns a pod whose container runs as root.
func newPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(false),
			RestartPolicy:                corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name:            "c",
				Image:           "local/busybox:1",
				ImagePullPolicy: corev1.PullNever,
				// This shell exits immediately on SIGTERM.
				Command: []string{"/bin/sh", "-c", "trap exit TERM; sleep 1000000 & wait"},
			}},
		},
	}
}

// requesting makes the container of a pod request devices of a resource, and returns the pod.
func requesting(pod *corev1.Pod, resourceName string, count int64) *corev1.Pod {
	pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{
		corev1.ResourceName(resourceName): *resource.NewQuantity(count, resource.DecimalSI),
	}
	return pod
}

// run creates a pod, and waits until it is ready.
func (n *node) run(pod *corev1.Pod) *workload {
	n.t.Helper()
	n.create(pod)
	return n.awaitWorkload(pod.Namespace, pod.Name)
}

// create creates a pod in the namespace default, which is deleted when the test ends.
func (n *node) create(pod *corev1.Pod) {
	n.t.Helper()
	n.cleanup(func() { kubectl(n.t, "delete", "pod", "--ignore-not-found", "--wait=false", pod.Name) })
	_, err := n.client.CoreV1().Pods(pod.Namespace).Create(n.t.Context(), pod, metav1.CreateOptions{})
	must(n.t, err)
}

// createDeployment creates a Deployment of one such pod in the namespace default.
func (n *node) createDeployment(pod *corev1.Pod) {
	n.t.Helper()
	labels := map[string]string{"app": pod.Name}
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	_, err := n.client.AppsV1().Deployments(pod.Namespace).Create(n.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	must(n.t, err)
}

// awaitDeployment waits until the pod of a Deployment in the namespace default is ready.
func (n *node) awaitDeployment(name string) *workload {
	n.t.Helper()
	var found string
	poll(n.t, func() error {
		options := metav1.ListOptions{LabelSelector: "app=" + name}
		pods, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).List(n.t.Context(), options)
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp == nil && checkReady(&pod) == nil {
				found = pod.Name
				return nil
			}
		}
		return fmt.Errorf("no pod of Deployment %s is ready among %d", name, len(pods.Items))
	})
	return n.awaitWorkload(metav1.NamespaceDefault, found)
}

// awaitWorkload waits until a pod is ready.
func (n *node) awaitWorkload(namespace, name string) *workload {
	n.t.Helper()
	w := &workload{node: n, name: name}
	poll(n.t, func() (err error) {
		w.pod, err = n.client.CoreV1().Pods(namespace).Get(n.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return checkReady(w.pod)
	})
	w.devices = w.readDevices()
	return w
}

// readDevices reads the devices of the pod's first container.
func (w *workload) readDevices() devices {
	w.t.Helper()
	return w.readDevicesOf(w.pod.Spec.Containers[0].Name)
}

// readDevicesOf reads a container's devices. It tries again if kubectl exec fails,
// because a kubelet that has just started does not know its pods yet.
func (w *workload) readDevicesOf(container string) devices {
	w.t.Helper()
	const script = "env; for d in /dev/vfio/* /dev/qat* /dev/usdm* /dev/uio*; do\n" +
		`if [ -c "$d" ]; then echo "node $d"; fi; done`
	var out string
	poll(w.t, func() (err error) {
		var stderr string
		out, stderr, err = tryKubectl("exec", "-n", w.pod.Namespace, w.name, "-c", container, "--",
			"/bin/sh", "-c", script)
		if err != nil {
			return fmt.Errorf("kubectl exec %s: %w: %s", w.name, err, stderr)
		}
		return nil
	})
	d := devices{Env: map[string]string{}}
	for line := range strings.SplitSeq(out, "\n") {
		if path, isNode := strings.CutPrefix(line, "node "); isNode {
			d.Nodes = append(d.Nodes, path)
		} else if name, value, _ := strings.Cut(line, "="); strings.HasPrefix(name, "QAT") {
			d.Env[name] = value
		}
	}
	slices.Sort(d.Nodes)
	return d
}

// checkDevices checks the devices that the container found when it started.
func (w *workload) checkDevices(want devices) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.devices); diff != "" {
		w.t.Errorf("devices in pod %s (-want +got):\n%s", w.name, diff)
	}
}

// checkOpens opens a device node for writing, which the container's device control group
// must allow.
func (w *workload) checkOpens(path string) {
	w.t.Helper()
	kubectl(w.t, "exec", "-n", w.pod.Namespace, w.name, "--", "/bin/sh", "-c", ": >"+path)
}

// vfs returns the addresses in QAT0, QAT1 and so on, and in the variables that the DRA driver names
// for addresses.
func (w *workload) vfs() []string { return slices.Compact(slices.Sorted(maps.Values(w.devices.Env))) }

// checkUnchanged checks that the container has not been restarted, and has the same
// devices.
func (w *workload) checkUnchanged(after string) {
	w.t.Helper()
	now, err := w.client.CoreV1().Pods(w.pod.Namespace).Get(w.t.Context(), w.name, metav1.GetOptions{})
	must(w.t, err)
	if err := checkReady(now); err != nil || now.UID != w.pod.UID {
		w.t.Errorf("after %s pod %s is a new one, or %v", after, w.name, err)
	}
	was, is := w.pod.Status.ContainerStatuses[0], now.Status.ContainerStatuses[0]
	if is.ContainerID != was.ContainerID || is.RestartCount != was.RestartCount {
		w.t.Errorf("after %s pod %s has container %s, was %s", after, w.name, is.ContainerID, was.ContainerID)
	}
	if diff := cmp.Diff(w.devices, w.readDevices()); diff != "" {
		w.t.Errorf("after %s pod %s has other devices (-before +after):\n%s", after, w.name, diff)
	}
}
