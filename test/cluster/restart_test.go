package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What runs keeps its devices, the list is right again, and nobody gets a device that another pod has.
func TestRunningPodsKeepTheirDevices(t *testing.T) {
	n := openNode(t)
	h := startHost(t)
	h.add(cyPF, "sym;asym")
	in := n.install("qat_plugin/overlays/debug", h.paths())
	in.ready()
	n.offers(map[string]int64{cy: 16})
	pods := []*workload{n.ask("first", cy, 2)}

	for i, step := range []struct {
		what string
		do   func() (begun time.Time, said string)
	}{
		{"a restart of the kubelet", in.restartKubelet},
		{"a rollout of another image", in.rollout},
		{"a kill of the plugin", in.kill},
	} {
		stop := n.timeline(cy)
		begun, said := step.do()
		sent := in.sent(cy, 16, begun)
		n.offersSince(sent, map[string]int64{cy: 16})
		t.Logf("%s: %s%.2f s: the plugin had sent its list\nallocatable VFs of the Node's capacity: %s", step.what, said, sent.Sub(begun).Seconds(), stop())
		for _, w := range pods {
			w.untouched(step.what)
		}
		pods = append(pods, n.ask(fmt.Sprintf("later-%d", i+1), cy, 2))
		wantDistinct(t, pods, h.VFs(cyPF))
	}
}

// wantDistinct checks that no two pods have a device in common, and that all they have are devices of the host.
func wantDistinct(t *testing.T, pods []*workload, all []string) {
	t.Helper()
	owner := map[string]string{}
	for _, w := range pods {
		vfs := w.vfs()
		if len(vfs) != 2 {
			t.Errorf("pod %s was told of %v, want two VFs", w.name, vfs)
		}
		for _, vf := range vfs {
			if owner[vf] != "" || !slices.Contains(all, vf) {
				t.Errorf("pod %s has %s, which is no VF of the host or also pod %s's", w.name, vf, owner[vf])
			}
			owner[vf] = w.name
		}
	}
}

func (in *installation) restartKubelet() (begun time.Time, said string) {
	in.t.Helper()
	begun = time.Now()
	in.stopKubelet()
	stopped := time.Now()
	in.startKubelet()
	return stopped, fmt.Sprintf("after %.2f s it had ended, and the new one was started; from then on, ", stopped.Sub(begun).Seconds())
}

func (in *installation) rollout() (begun time.Time, said string) {
	in.t.Helper()
	old := in.pod()
	container := old.Spec.Containers[0]
	image, _, _ := strings.Cut(container.Image, ":")
	begun = time.Now()
	kubectl(in.t, "set", "image", "-n", namespace, "daemonset/"+in.set, container.Name+"="+image+":second")
	pod := in.ready()
	ready := time.Now()
	if pod.Name == old.Name || pod.Spec.Containers[0].Image != image+":second" {
		in.t.Errorf("after the rollout the pod is %s with %s, was %s", pod.Name, pod.Spec.Containers[0].Image, old.Name)
	}
	return begun, fmt.Sprintf("%.2f s: the rollout was complete; ", ready.Sub(begun).Seconds())
}

func (in *installation) kill() (begun time.Time, said string) {
	in.t.Helper()
	pod := in.pod()
	pid := in.process(pod)
	begun = time.Now()
	must(in.t, syscall.Kill(pid, syscall.SIGKILL))
	pods := in.client.CoreV1().Pods(namespace)
	_, ready := await(in.t, func(ctx context.Context) (*corev1.Pod, error) { return pods.Get(ctx, pod.Name, metav1.GetOptions{}) }, pods.Watch,
		func(now *corev1.Pod) (bool, string) {
			restarts := now.Status.ContainerStatuses[0].RestartCount
			return restarts == pod.Status.ContainerStatuses[0].RestartCount+1 && isReady(now), fmt.Sprintf("%d restarts, ready %v", restarts, isReady(now))
		})
	return begun, fmt.Sprintf("%.2f s: it was ready again; ", ready.Sub(begun).Seconds())
}
