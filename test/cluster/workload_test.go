package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A workload is a running pod that asked for devices.
type workload struct {
	*node
	name string
	pod  *corev1.Pod // as it was when it began to run
	got  devices
}

// devices is what the container of a pod finds.
type devices struct {
	Env   map[string]string // variables that begin with QAT
	Nodes []string          // device nodes below /dev that containers do not have as they are
}

// sample applies deployments/workloads/sample, with the one busybox that there is here, and waits until its pod runs. Its namespace lets in what
// Pod Security calls restricted, and no more.
func (n *node) sample() *workload {
	n.t.Helper()
	n.makeNamespace(workloads, enforceRestricted)
	dir := writeKustomization(n.t, fmt.Sprintf("resources: [%q]\nimages: [{name: busybox, newName: local/busybox, newTag: \"1\"}]\n",
		relative(n.t, deployment("workloads/sample"))))
	n.cleanup(func() { kubectl(n.t, "delete", "-n", workloads, "--ignore-not-found", "--wait=false", "-k", dir) })
	kubectl(n.t, "apply", "--validate=strict", "-n", workloads, "-k", dir)
	return n.running(workloads, "qat-sample")
}

// ask runs a pod with one container, of user root, that asks for so many devices of a resource, and waits until it runs.
func (n *node) ask(name, of string, count int64) *workload {
	n.t.Helper()
	limits := corev1.ResourceList{corev1.ResourceName(of): *resource.NewQuantity(count, resource.DecimalSI)}
	no := false
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			RestartPolicy:                corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "c", Image: "local/busybox:1", ImagePullPolicy: corev1.PullNever,
				Command:   []string{"/bin/sh", "-c", "trap exit TERM; sleep 1000000 & wait"}, // it ends at once when it is told to
				Resources: corev1.ResourceRequirements{Limits: limits},
			}},
		},
	}
	n.cleanup(func() { kubectl(n.t, "delete", "pod", "--ignore-not-found", "--wait=false", name) })
	_, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Create(n.t.Context(), pod, metav1.CreateOptions{})
	must(n.t, err)
	return n.running(metav1.NamespaceDefault, name)
}

// running waits until the pod runs.
func (n *node) running(namespace, name string) *workload {
	n.t.Helper()
	pods := n.client.CoreV1().Pods(namespace)
	pod, _ := await(n.t, func(ctx context.Context) (*corev1.Pod, error) { return pods.Get(ctx, name, metav1.GetOptions{}) }, pods.Watch,
		func(pod *corev1.Pod) (bool, string) {
			return isReady(pod), fmt.Sprintf("pod %s is %s %s%s", name, pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
		})
	w := &workload{node: n, name: name, pod: pod}
	w.got = w.look()
	return w
}

// look asks the container what it has. A kubelet that was just started does not know its pods for a moment, and says that there is none.
func (w *workload) look() devices {
	w.t.Helper()
	const script = `env; for d in /dev/vfio/* /dev/qat* /dev/usdm* /dev/uio*; do if [ -c "$d" ]; then echo "node $d"; fi; done`
	out, complaints, err := "", "", errors.New("not asked")
	for end := time.Now().Add(deadline); err != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("kubectl exec %s: %v\n%s", w.name, err, complaints)
		}
		out, complaints, err = try(w.t, "exec", "-n", w.pod.Namespace, w.name, "--", "/bin/sh", "-c", script)
	}
	d := devices{Env: map[string]string{}}
	for line := range strings.SplitSeq(out, "\n") {
		if name, value, _ := strings.Cut(line, "="); strings.HasPrefix(name, "QAT") {
			d.Env[name] = value
		}
		if path, isNode := strings.CutPrefix(line, "node "); isNode {
			d.Nodes = append(d.Nodes, path)
		}
	}
	slices.Sort(d.Nodes)
	return d
}

// open opens a node for writing, which only the device control group of the container can forbid.
func (w *workload) open(path string) {
	w.t.Helper()
	kubectl(w.t, "exec", "-n", w.pod.Namespace, w.name, "--", "/bin/sh", "-c", ": >"+path)
}

// vfs are the addresses that the container was told, of QAT0, QAT1 and so on.
func (w *workload) vfs() []string {
	return slices.Sorted(maps.Values(w.got.Env))
}

// untouched checks that the container is the one that was started first, and has what it had.
func (w *workload) untouched(after string) {
	w.t.Helper()
	now, err := w.client.CoreV1().Pods(w.pod.Namespace).Get(w.t.Context(), w.name, metav1.GetOptions{})
	must(w.t, err)
	first, c := w.pod.Status.ContainerStatuses[0], now.Status.ContainerStatuses[0]
	switch {
	case now.UID != w.pod.UID || now.Status.Phase != corev1.PodRunning || !isReady(now):
		w.t.Errorf("after %s pod %s is another or does not run: %s", after, w.name, now.Status.Phase)
	case c.ContainerID != first.ContainerID || c.RestartCount != first.RestartCount:
		w.t.Errorf("after %s the container of pod %s is another: %s, was %s", after, w.name, c.ContainerID, first.ContainerID)
	}
	if got := w.look(); !got.equal(w.got) {
		w.t.Errorf("after %s pod %s has %+v, had %+v", after, w.name, got, w.got)
	}
}

func (d devices) equal(o devices) bool {
	return maps.Equal(d.Env, o.Env) && slices.Equal(d.Nodes, o.Nodes)
}
