// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestDRAHealth lets the heartbeat of a PF fail and recover while a pod holds one of its VFs.
func TestDRAHealth(t *testing.T) {
	in, h := installDRA(t, "-health-interval=1s")
	w := in.runClaims("holds", vfs(1, selectSym))
	held := w.vfs()[0]
	all := slices.Concat(h.VFs(cyPF), h.VFs(dcPF))
	changes := in.watchPod(w.name)
	isHealthy := func(pod *corev1.Pod) bool {
		health, _ := deviceHealth(pod, held)
		return health == corev1.ResourceHealthStatusHealthy
	}
	changes.await("healthy", isHealthy)

	failed := in.failHeartbeat(h, func(p pool) error { return p.hasHealthy(h.VFs(dcPF)) })
	p, err := in.pool()
	must(t, err)
	want := map[string]string{}
	for _, vf := range h.VFs(cyPF) {
		want[deviceName(vf)] = taintUnhealthy + "=heartbeat:NoSchedule"
	}
	if diff := cmp.Diff(want, p.taints()); diff != "" {
		t.Errorf("taints (-want +got):\n%s", diff)
	}
	var message string
	known := changes.await("unhealthy", func(pod *corev1.Pod) bool {
		var health corev1.ResourceHealthStatus
		health, message = deviceHealth(pod, held)
		return health == corev1.ResourceHealthStatusUnhealthy
	})
	t.Logf("the heartbeat failed: the pod's status has Unhealthy %.1f ms after the taints, with %q",
		ms(known.Sub(failed)), message)
	if !strings.Contains(message, cyPF) || !strings.Contains(message, "heartbeat") {
		t.Errorf("message %q of the device in the pod's status does not name the PF and the heartbeat", message)
	}
	in.create(in.newClaimPod("kept-away", vfs(1, selectSym)))
	in.awaitUnschedulable("kept-away")
	in.runClaims("elsewhere", vfs(1, selectDC)).checkHas(h, 1, h.VFs(dcPF))
	w.checkUnchanged("failure of the heartbeat")

	waiting := in.watchPod("kept-away")
	must(t, h.SetHeartbeat(cyPF, "0"))
	began := time.Now()
	healthy := in.awaitPool(func(p pool) error { return p.hasHealthy(all) })
	scheduled := waiting.await("scheduled", isScheduled)
	changes.await("healthy", isHealthy)
	t.Logf("the heartbeat is back: without taints after %.1f s, and the pod that waited was scheduled %.1f ms later",
		healthy.Sub(began).Seconds(), ms(scheduled.Sub(healthy)))
	in.awaitWorkload("default", "kept-away").checkHas(h, 1, h.VFs(cyPF))
	w.checkUnchanged("recovery of the heartbeat")
}

// failHeartbeat makes checks of the heartbeat of cyPF fail until check accepts the pool, and
// returns the time.
func (in *installation) failHeartbeat(h *host, check func(pool) error) time.Time {
	in.t.Helper()
	return in.awaitPool(func(p pool) error {
		must(in.t, h.SetHeartbeat(cyPF, "-1")) // one failed check
		return check(p)
	})
}

// deviceHealth returns the health of a VF in the status of a pod, with the message. The ID of a
// resource is the CDI name of the device, which ends with the name of the device.
func deviceHealth(pod *corev1.Pod, vf string) (health corev1.ResourceHealthStatus, message string) {
	for _, c := range pod.Status.ContainerStatuses {
		for _, s := range c.AllocatedResourcesStatus {
			for _, r := range s.Resources {
				if !strings.HasSuffix(string(r.ResourceID), "-"+deviceName(vf)) {
					continue
				}
				if r.Message != nil {
					message = *r.Message
				}
				return r.Health, message
			}
		}
	}
	return "", ""
}
