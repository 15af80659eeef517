// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// TestDRAOptions installs the overlay monitoring with flags that are off by default.
func TestDRAOptions(t *testing.T) {
	const name = "qat_dra_driver/overlays/monitoring"
	checkRendered(t, name)
	p := startPrometheus(t)
	in, h := installDRAFrom(t, name, "-health-interval=1s", "-unhealthy-taint-effect=NoExecute", "-device-metadata")
	t.Run("device-metadata", func(t *testing.T) { in.in(t).checkMetadata(h) })
	t.Run("unhealthy-taint-effect", func(t *testing.T) { in.in(t).checkEviction(h) })
	poll(t, func() error {
		for _, panel := range p.dashboard() {
			if panel.row == rowDRA && panel.series == 0 {
				return fmt.Errorf("panel %s has no series", panel.title)
			}
		}
		return nil
	})
}

// checkMetadata checks that a container has a file with the attributes of its VF, as described by
// KEP-5304.
func (in *installation) checkMetadata(h *host) {
	in.t.Helper()
	const file = "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/claim-0/vf/" +
		draDriver + "-metadata.json"
	w := in.runClaims("metadata", vfs(1, selectSym))
	w.checkHas(h, 1, h.VFs(cyPF))
	vf := w.vfs()[0]
	p, err := in.pool()
	must(in.t, err)
	type device struct {
		Driver, Pool, Name string
		Attributes         map[resourcev1.QualifiedName]resourcev1.DeviceAttribute
	}
	var metadata struct {
		Requests []struct {
			Name    string
			Devices []device
		}
	}
	text := kubectl(in.t, "exec", w.name, "--", "cat", file)
	must(in.t, json.Unmarshal([]byte(text), &metadata))
	if len(metadata.Requests) != 1 || len(metadata.Requests[0].Devices) != 1 {
		in.t.Fatalf("%s does not have one device: %s", file, text)
	}
	want := device{draDriver, nodeName, deviceName(vf), p[deviceName(vf)].Attributes}
	if diff := cmp.Diff(want, metadata.Requests[0].Devices[0]); diff != "" {
		in.t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// checkEviction checks that a pod with a VF is evicted when the VF becomes unhealthy.
func (in *installation) checkEviction(h *host) {
	in.t.Helper()
	evicted := in.runClaims("evicted", vfs(1, selectSym))
	stays := in.runClaims("stays", vfs(1, selectDC))
	extended := in.runPod("extended", cy, 1) // Kubernetes 1.36 does not evict it

	changes := in.watchPod(evicted.name)
	tainted := in.failHeartbeat(h, func(p pool) error {
		const want = taintUnhealthy + "=heartbeat:NoExecute"
		if got := p.taints()[deviceName(evicted.vfs()[0])]; got != want {
			return fmt.Errorf("taints %q, want %s", got, want)
		}
		return nil
	})
	deleted := changes.await("deleted", func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	in.t.Logf("the pod was evicted %.1f ms after the taint was seen", ms(deleted.Sub(tainted)))
	stays.checkUnchanged("an eviction")
	extended.checkUnchanged("an eviction")
}
