// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestRunningPodsKeepTheirDevices also checks that the list is complete after each
// restart, and that no two pods get the same device.
func TestRunningPodsKeepTheirDevices(t *testing.T) {
	in, h := installOnHost(t)
	pods := []*workload{in.runPod("first", cy, 2)}

	for i, step := range []struct {
		name string
		do   func() (began time.Time)
	}{
		{"restart of the kubelet", in.restartKubelet},
		{"rollout of another image", in.rollout},
		{"kill of the plugin", in.kill},
	} {
		stop := in.recordAllocatable(cy)
		began := step.do()
		sent := in.awaitListSent(cy, 16, began)
		in.awaitResourcesSince(sent, resources{cy: 16})
		t.Logf("%s: the plugin sent its list after %.2f s\nallocatable VFs of the Node's capacity: %s",
			step.name, sent.Sub(began).Seconds(), stop())
		for _, w := range pods {
			w.checkUnchanged(step.name)
		}
		pods = append(pods, in.runPod(fmt.Sprintf("later-%d", i+1), cy, 2))
		checkDistinct(t, pods, h.VFs(cyPF))
	}
}

// checkDistinct checks that each pod has two VFs of the host, and no two pods the same.
func checkDistinct(t *testing.T, pods []*workload, all []string) {
	t.Helper()
	owner := map[string]string{}
	for _, w := range pods {
		vfs := w.vfs()
		if len(vfs) != 2 {
			t.Errorf("pod %s has %v, want two VFs", w.name, vfs)
		}
		for _, vf := range vfs {
			if owner[vf] != "" || !slices.Contains(all, vf) {
				t.Errorf("pod %s has %s, which is not a VF of the host, or that of pod %s", w.name, vf, owner[vf])
			}
			owner[vf] = w.name
		}
	}
}

// restartKubelet restarts the kubelet and returns the time when it had stopped.
func (in *installation) restartKubelet() (stopped time.Time) {
	in.t.Helper()
	in.stopKubelet()
	stopped = time.Now()
	in.startKubelet()
	return stopped
}

// rollout sets another image and waits until the new pod is ready.
func (in *installation) rollout() (began time.Time) {
	in.t.Helper()
	return in.rolloutWhile(func() {})
}

// rolloutWhile is rollout, and calls meanwhile when the rollout has begun.
func (in *installation) rolloutWhile(meanwhile func()) (began time.Time) {
	in.t.Helper()
	old, err := in.pod()
	must(in.t, err)
	container := old.Spec.Containers[0]
	image, _, _ := strings.Cut(container.Image, ":")
	image += ":second"
	began = time.Now()
	kubectl(in.t, "set", "image", "-n", pluginNamespace, "daemonset/"+in.set, container.Name+"="+image)
	meanwhile()
	pod := in.awaitReady()
	in.t.Logf("the rollout was complete after %.2f s", time.Since(began).Seconds())
	if got := pod.Spec.Containers[0].Image; pod.Name == old.Name || got != image {
		in.t.Errorf("after the rollout the pod is %s with image %s, was %s; want a new one with %s",
			pod.Name, got, old.Name, image)
	}
	return began
}

// kill kills the plugin and waits until its container is restarted and ready.
func (in *installation) kill() (began time.Time) {
	in.t.Helper()
	pod, err := in.pod()
	must(in.t, err)
	restarts := func(pod *corev1.Pod) int32 { return pod.Status.ContainerStatuses[0].RestartCount }
	began = time.Now()
	must(in.t, syscall.Kill(in.process(pod), syscall.SIGKILL))
	poll(in.t, func() error {
		now, err := in.pod()
		if err != nil {
			return err
		}
		if now.Name != pod.Name || restarts(now) != restarts(pod)+1 {
			return fmt.Errorf("pod %s has %d restarts; want pod %s and %d",
				now.Name, restarts(now), pod.Name, restarts(pod)+1)
		}
		return checkReady(now)
	})
	in.t.Logf("the plugin was ready again after %.2f s", time.Since(began).Seconds())
	return began
}
