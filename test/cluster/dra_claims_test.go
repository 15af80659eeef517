// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDRAClaims runs pods that ask for VFs in all ways that Kubernetes has.
func TestDRAClaims(t *testing.T) {
	const name = "qat_dra_driver"
	checkRendered(t, name)
	in, h := installDRA(t)
	in.checkPodSecurity("hostPath volumes", "seLinuxOptions")
	all := slices.Concat(h.VFs(cyPF), h.VFs(dcPF))

	for _, sub := range []struct {
		name string
		test func(in *installation)
	}{
		{"template", func(in *installation) {
			w := in.runClaims("template", vfs(1))
			w.checkHas(h, 1, all)
			w.checkNumbered()
			w.checkOpens("/dev/vfio/vfio")
			w.checkOpens(h.vfioNode(w.vfs()[0]))
		}},
		// Both claims have QAT0, and the container gets that of one. The variables with addresses
		// are all there.
		{"two claims in one container", func(in *installation) {
			w := in.runClaims("two-claims", vfs(1, selectSym), vfs(2, selectDC))
			w.checkHas(h, 3, all)
			counts := [2]int{}
			for _, vf := range w.vfs() {
				if slices.Contains(h.VFs(cyPF), vf) {
					counts[0]++
				} else {
					counts[1]++
				}
			}
			if counts != [2]int{1, 2} {
				in.t.Errorf("%v VFs with sym and with dc, want 1 and 2", counts)
			}
		}},
		{"init container", func(in *installation) { checkInitContainer(in, h) }},
		{"service and NUMA node", func(in *installation) {
			numa := func(n int) string {
				return fmt.Sprintf(`device.attributes["resource.kubernetes.io"].?numaNode.orValue(-1) == %d`, n)
			}
			in.runClaims("dc-on-1", vfs(1, selectDC, numa(1))).checkHas(h, 1, h.VFs(dcPF))
			in.runClaims("any-on-0", vfs(1, numa(0))).checkHas(h, 1, h.VFs(cyPF))
			in.create(in.newClaimPod("dc-on-0", vfs(1, selectDC, numa(0))))
			in.awaitUnschedulable("dc-on-0")
		}},
		// 17 VFs are more than one PF has.
		{"matchAttribute", func(in *installation) {
			const pfAddress = draDriver + "/pfAddress"
			const numaNode = "resource.kubernetes.io/numaNode"
			w := in.runClaims("same-pf", matching(matching(vfs(16), pfAddress), numaNode))
			if list := w.vfs(); !slices.Equal(list, h.VFs(cyPF)) && !slices.Equal(list, h.VFs(dcPF)) {
				in.t.Errorf("VFs %v are not all VFs of one PF", list)
			}
			kubectl(in.t, "delete", "pod", w.name)
			in.create(in.newClaimPod("one-pf", matching(vfs(17), pfAddress)))
			in.create(in.newClaimPod("one-numa-node", matching(vfs(17), numaNode)))
			in.awaitUnschedulable("one-pf")
			in.awaitUnschedulable("one-numa-node")
			in.runClaims("two-pfs", vfs(17)).checkHas(h, 17, all)
		}},
		{"extended resource", func(in *installation) {
			w := in.runSample()
			w.checkHas(h, 1, h.VFs(cyPF))
			w.checkNumbered()
			w = in.runPod("two", cy, 2)
			w.checkHas(h, 2, h.VFs(cyPF))
			w.checkNumbered()
			in.runPod("dc", dc, 1).checkHas(h, 1, h.VFs(dcPF))
			in.create(requesting(newPod("too-many"), cy, 14))
			in.awaitUnschedulable("too-many")
		}},
		{"extended resource in two containers", func(in *installation) {
			pod := requesting(newPod("two-containers"), cy, 2)
			other := *pod.Spec.Containers[0].DeepCopy()
			other.Name = "other"
			pod.Spec.Containers = append(pod.Spec.Containers, other)
			w := in.run(pod)
			w.checkHas(h, 2, h.VFs(cyPF))
			w.checkNumbered()
			second := *w
			second.devices = w.readDevicesOf("other")
			second.checkHas(h, 2, h.VFs(cyPF))
			second.checkNumbered()
			for _, vf := range second.vfs() {
				if slices.Contains(w.vfs(), vf) {
					in.t.Errorf("both containers have %s", vf)
				}
			}
		}},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(in.in(t)) })
	}
	in.awaitClaimFiles(0)
	in.logMemory(len(all))
}

// checkInitContainer runs a pod whose init container has the same claim as its container.
func checkInitContainer(in *installation, h *host) {
	in.t.Helper()
	pod := in.newClaimPod("init", vfs(1))
	init := *pod.Spec.Containers[0].DeepCopy()
	init.Name = "init"
	init.Command = []string{"/bin/sh", "-c", "{ env | grep ^QAT_; ls /dev/vfio; } >/dev/termination-log"}
	pod.Spec.InitContainers = []corev1.Container{init}
	w := in.run(pod)
	w.checkHas(h, 1, slices.Concat(h.VFs(cyPF), h.VFs(dcPF)))
	vf := w.vfs()[0]
	want := fmt.Sprintf("QAT_%s=%s\n%s\nvfio\n",
		strings.NewReplacer(":", "_", ".", "_").Replace(vf), vf, filepath.Base(h.vfioNode(vf)))
	got := w.pod.Status.InitContainerStatuses[0].State.Terminated.Message
	if diff := cmp.Diff(want, got); diff != "" {
		in.t.Errorf("devices of the init container (-want +got):\n%s", diff)
	}
}

// awaitClaimFiles waits until the CDI directory has the files of a number of claims.
func (n *node) awaitClaimFiles(want int) {
	n.t.Helper()
	poll(n.t, func() error {
		files, err := filepath.Glob("/var/run/cdi/" + draDriver + "-claim-*.json")
		if err == nil && len(files) != want {
			err = fmt.Errorf("CDI files of claims: %v, want %d", files, want)
		}
		return err
	})
}

// logMemory logs the memory of the driver, which VmRSS in proc(5) contains.
func (in *installation) logMemory(devices int) {
	in.t.Helper()
	pod, err := in.pod()
	must(in.t, err)
	for line := range strings.SplitSeq(readFile(in.t, procFile(in.process(pod), "status")), "\n") {
		if strings.HasPrefix(line, "VmRSS:") || strings.HasPrefix(line, "VmHWM:") {
			in.t.Logf("the driver with %d devices: %s", devices, strings.Join(strings.Fields(line), " "))
		}
	}
}

// TestDRAFollowsHost adds a VF while a pod waits for it, and removes and adds the PF of a VF that a
// pod holds.
func TestDRAFollowsHost(t *testing.T) {
	const newPF = "0000:75:00.0"
	in, h := installDRA(t)

	in.create(in.newClaimPod("waits", vfs(1, selectPF(newPF))))
	in.awaitUnschedulable("waits")
	must(t, h.addPFOnNode(newPF, "dc", 1, 0))
	changes := in.watchPod("waits")
	began := time.Now()
	must(t, h.SetVFs(newPF, 1))
	added := time.Now()
	scheduled := changes.await("scheduled", isScheduled)
	ready := changes.await("ready", isReady)
	t.Logf("a pod that waits for a VF: adding it took %.1f ms, then the pod was scheduled after %.1f ms, "+
		"and ready after %.0f ms", ms(added.Sub(began)), ms(scheduled.Sub(added)), ms(ready.Sub(added)))
	in.awaitWorkload(metav1.NamespaceDefault, "waits").checkHas(h, 1, h.VFs(newPF))

	w := in.runClaims("holds", vfs(1, selectPF(dcPF)))
	held := w.vfs()[0]
	others := slices.Concat(h.VFs(cyPF), h.VFs(newPF))
	began = time.Now()
	must(t, h.RemovePF(dcPF))
	gone := in.awaitPool(func(p pool) error {
		if err := p.hasHealthy(others); err != nil {
			return err
		}
		want := map[string]string{deviceName(held): taintGone + "=:NoSchedule"}
		if diff := cmp.Diff(want, p.taints()); diff != "" {
			return fmt.Errorf("taints (-want +got):\n%s", diff)
		}
		return nil
	})
	t.Logf("a PF was removed: the VF that a pod holds had a taint, and the others were gone, after %.1f ms",
		ms(gone.Sub(began)))
	w.checkUnchanged("removal of its PF")

	must(t, h.addPFOnNode(dcPF, "dc", 1, 16))
	back := time.Now()
	healthy := in.awaitPool(func(p pool) error { return p.hasHealthy(slices.Concat(others, h.VFs(dcPF))) })
	t.Logf("the PF returned: all its VFs were in the pool after %.1f ms", ms(healthy.Sub(back)))
	w.checkUnchanged("return of its PF")
}
