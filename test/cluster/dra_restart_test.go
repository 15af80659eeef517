// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// TestDRARestarts restarts the driver, the kubelet and the API server while pods hold devices. It
// checks after each that the pods have their devices, that all devices are offered, and that a new
// pod gets devices that no other one has.
func TestDRARestarts(t *testing.T) {
	const newPF = "0000:75:00.0"
	in, h := installDRA(t)
	must(t, h.addPFOnNode(newPF, "dc", 1, 0))
	all := slices.Concat(h.VFs(cyPF), h.VFs(dcPF))
	pods := []*workload{in.runClaims("first", vfs(2))}

	for _, step := range []struct {
		name string
		do   func()
	}{
		{"kill of the driver", func() { in.kill() }},
		{"rollout of another image", func() {
			in.rolloutWhile(func() { pods = append(pods, in.runClaims("rollout", vfs(2))) })
		}},
		{"hang of the driver", func() { pods = append(pods, in.hang()) }},
		{"restart of the API server", func() { in.restartAPIServer(func() {}) }},
	} {
		before := in.versions()
		began := time.Now()
		step.do()
		did := time.Now()
		t.Logf("%s: took %.2f s", step.name, did.Sub(began).Seconds())
		in.awaitPool(func(p pool) error { return p.hasHealthy(all) })
		if diff := cmp.Diff(before, in.versions()); diff != "" {
			t.Errorf("versions of the slices (-before %s +after):\n%s", step.name, diff)
		}
		for _, w := range pods {
			w.checkUnchanged(step.name)
		}
		pods = append(pods, in.runClaims(fmt.Sprintf("later-%d", len(pods)), vfs(2)))
		t.Logf("%s: a new pod was ready %.2f s later", step.name, time.Since(did).Seconds())
		checkDistinct(t, pods, all)
	}
	in.checkKubeletRestart(all)
	for _, w := range pods {
		w.checkUnchanged("restart of the kubelet")
	}
	pods = append(pods, in.runClaims("last", vfs(2)))
	checkDistinct(t, pods, all)
	in.awaitClaimFiles(len(pods)) // none of the pod that was deleted

	in.restartAPIServer(func() { must(t, h.SetVFs(newPF, 16)) })
	ready := time.Now()
	added := in.awaitPool(func(p pool) error { return p.hasHealthy(slices.Concat(all, h.VFs(newPF))) })
	t.Logf("VFs that were added while the API server was away were in the pool %.2f s after it was ready",
		added.Sub(ready).Seconds())
	in.logMemory(len(all))
}

// hang suspends the driver while a pod ends and another one starts, and returns the latter.
func (in *installation) hang() *workload {
	in.t.Helper()
	driver, err := in.pod()
	must(in.t, err)
	ends := in.runClaims("ends", vfs(2))
	changes := in.watchPod("hang")
	resume := in.suspend(driver)
	defer resume()
	kubectl(in.t, "delete", "pod", "--wait=false", ends.name)
	in.create(in.newClaimPod("hang", vfs(2)))
	changes.await("known to the kubelet", func(pod *corev1.Pod) bool { return pod.Status.StartTime != nil })
	resume()
	resumed := time.Now()
	ready := changes.await("ready", isReady)
	in.t.Logf("a pod was ready %.2f s after the driver ran again", ready.Sub(resumed).Seconds())
	return in.awaitWorkload("default", "hang")
}

// checkKubeletRestart restarts the kubelet, which deletes the slices of the node, and checks that
// they come back.
func (in *installation) checkKubeletRestart(vfs []string) {
	in.t.Helper()
	options := poolSelector()
	list, err := in.client.ResourceV1().ResourceSlices().List(in.t.Context(), options)
	must(in.t, err)
	options.ResourceVersion = list.ResourceVersion
	w, err := in.client.ResourceV1().ResourceSlices().Watch(in.t.Context(), options)
	must(in.t, err)
	defer w.Stop()
	current := map[string]resourcev1.ResourceSlice{}
	for _, s := range list.Items {
		current[s.Name] = s
	}

	in.stopKubelet()
	stopped := time.Now()
	in.startKubelet()
	deleted := 0
	for end := time.After(timeout); ; {
		select {
		case event := <-w.ResultChan():
			slice, ok := event.Object.(*resourcev1.ResourceSlice)
			if !ok {
				in.t.Fatalf("watch of slices: %+v", event)
			}
			in.t.Logf("%.3f s after the stop of the kubelet: %s %s with %d devices", time.Since(stopped).Seconds(),
				event.Type, slice.Name, len(slice.Spec.Devices))
			current[slice.Name] = *slice
			if event.Type == watch.Deleted {
				deleted++
				delete(current, slice.Name)
			}
		case <-end:
			in.t.Fatalf("%v after the start of the kubelet, %d slices were deleted, and the pool has %v",
				timeout, deleted, current)
		}
		p, err := poolOf(slices.Collect(maps.Values(current)))
		if deleted > 0 && err == nil && p.hasHealthy(vfs) == nil {
			break
		}
	}
	complete := time.Now()
	socket, err := os.Stat(filepath.Join(podResourcesDir, "kubelet.sock"))
	must(in.t, err)
	in.t.Logf("restart of the kubelet: its socket was there %.2f s after its stop, "+
		"then the slices were complete after %.2f s",
		socket.ModTime().Sub(stopped).Seconds(), complete.Sub(socket.ModTime()).Seconds())
}
