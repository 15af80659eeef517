// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"qatplugin/internal/lookalike"
)

const (
	draDriver      = "qat.intel.com"
	draClass       = draDriver // all devices of the driver
	taintUnhealthy = draDriver + "/unhealthy"
	taintGone      = draDriver + "/gone"
)

// CEL expressions that select devices.
const (
	selectSym = `device.attributes["qat.intel.com"].?sym.orValue(false)`
	selectDC  = `device.attributes["qat.intel.com"].?dc.orValue(false)`
)

// selectPF returns a CEL expression that selects the VFs of a PF.
func selectPF(address string) string {
	return fmt.Sprintf(`device.attributes["qat.intel.com"].?pfAddress.orValue("") == %q`, address)
}

// installDRA installs the DRA driver on a host with two PFs of 16 VFs, on different NUMA nodes. It
// returns when their VFs are in the driver's pool.
func installDRA(t *testing.T, args ...string) (*installation, *host) {
	t.Helper()
	return installDRAFrom(t, "qat_dra_driver", args...)
}

// installDRAFrom is installDRA for one of the overlays.
func installDRAFrom(t *testing.T, name string, args ...string) (*installation, *host) {
	t.Helper()
	n := openNode(t)
	h := startHost(t)
	must(t, h.addPFOnNode(cyPF, "sym;asym", 0, 16))
	must(t, h.addPFOnNode(dcPF, "dc", 1, 16))
	began := time.Now()
	in := n.installDriver(name, h, args...)
	in.awaitReady()
	published := in.awaitPool(func(p pool) error { return p.hasHealthy(slices.Concat(h.VFs(cyPF), h.VFs(dcPF))) })
	t.Logf("32 VFs in ResourceSlices %.1f s after kubectl apply", published.Sub(began).Seconds())
	return in, h
}

// installDriver applies deployments/qat_dra_driver or one of its overlays, with further arguments.
// It does not wait for the pods. When the test ends, the installation and its ResourceSlices are
// deleted.
func (n *node) installDriver(name string, h *host, args ...string) *installation {
	n.t.Helper()
	n.t.Cleanup(n.deleteSlices)
	in := n.installFrom(draKustomization(n.t, name, args...), h.hostPaths())
	// Without the driver, pods with claims do not end.
	n.t.Cleanup(func() { n.awaitPodsDeleted(metav1.NamespaceDefault, workloadNamespace) })
	return in
}

// deleteSlices deletes the driver's ResourceSlices, as the kubelet does 30 s after the driver has
// ended.
func (n *node) deleteSlices() {
	n.t.Helper()
	kubectl(n.t, "delete", "resourceslices", "--all")
}

// draKustomization creates a kustomization that installs the driver in the namespace of the tests,
// with further arguments.
func draKustomization(t *testing.T, name string, args ...string) string {
	t.Helper()
	lines := "namespace: " + pluginNamespace + "\n"
	var patch []map[string]string
	for _, arg := range args {
		const path = "/spec/template/spec/containers/0/args/-"
		patch = append(patch, map[string]string{"op": "add", "path": path, "value": arg})
	}
	if len(patch) > 0 {
		text, err := json.Marshal(patch)
		must(t, err)
		lines += fmt.Sprintf("patches: [{target: {kind: DaemonSet}, patch: %q}]\n", text)
	}
	return addKustomization(t, deployment(name), lines)
}

// addPFOnNode adds a PF of a NUMA node with a number of VFs.
func (h *host) addPFOnNode(address, services string, numaNode, vfs int) error {
	pf := lookalike.PF{Address: address, Services: services, NUMANode: numaNode}
	return errors.Join(h.AddPF(pf), h.SetVFs(address, vfs))
}

// in returns the installation in a subtest, which ends when its pods are gone.
func (in *installation) in(t *testing.T) *installation {
	t.Helper()
	copied := *in
	copied.node = &node{t: t, client: in.client}
	t.Cleanup(func() { copied.awaitPodsDeleted(metav1.NamespaceDefault, workloadNamespace) })
	return &copied
}

// A pool is what the driver's ResourceSlices of the node hold, by device name.
type pool map[string]resourcev1.Device

// deviceName returns the name of a VF in the pool.
func deviceName(vf string) string { return strings.NewReplacer(":", "-", ".", "-").Replace(vf) }

// pool reads the driver's ResourceSlices of the node. It returns an error if they are incomplete.
func (n *node) pool() (pool, error) {
	list, err := n.client.ResourceV1().ResourceSlices().List(n.t.Context(), poolSelector())
	if err != nil {
		return nil, err
	}
	return poolOf(list.Items)
}

func poolOf(list []resourcev1.ResourceSlice) (pool, error) {
	p := pool{}
	for _, slice := range list {
		first := list[0].Spec.Pool
		if slice.Spec.Pool != first || int(first.ResourceSliceCount) != len(list) {
			return nil, fmt.Errorf("slice %s of %d is of pool %+v, another is of %+v",
				slice.Name, len(list), slice.Spec.Pool, first)
		}
		for _, d := range slice.Spec.Devices {
			if _, found := p[d.Name]; found {
				return nil, fmt.Errorf("device %s is in the pool twice", d.Name)
			}
			p[d.Name] = d
		}
	}
	return p, nil
}

func poolSelector() metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: "spec.driver=" + draDriver + ",spec.nodeName=" + nodeName}
}

// awaitPool waits until the pool is complete and check returns nil.
func (n *node) awaitPool(check func(pool) error) time.Time {
	n.t.Helper()
	poll(n.t, func() error {
		p, err := n.pool()
		if err != nil {
			return err
		}
		return check(p)
	})
	return time.Now()
}

// hasHealthy returns an error unless the devices without a taint are those of these VFs.
func (p pool) hasHealthy(vfs []string) error {
	var want, got []string
	for _, vf := range vfs {
		want = append(want, deviceName(vf))
	}
	for name, d := range p {
		if len(d.Taints) == 0 {
			got = append(got, name)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return fmt.Errorf("devices without a taint: %v, want %v; tainted are %v", got, want, p.taints())
	}
	return nil
}

// taints returns the taints of the devices that have any, as key=value:effect.
func (p pool) taints() map[string]string {
	all := map[string]string{}
	for name, d := range p {
		var words []string
		for _, taint := range d.Taints {
			words = append(words, fmt.Sprintf("%s=%s:%s", taint.Key, taint.Value, taint.Effect))
		}
		if len(words) > 0 {
			all[name] = strings.Join(words, " ")
		}
	}
	return all
}

// versions returns the versions of the driver's ResourceSlices of the node, by name.
func (n *node) versions() map[string]string {
	n.t.Helper()
	list, err := n.client.ResourceV1().ResourceSlices().List(n.t.Context(), poolSelector())
	must(n.t, err)
	all := map[string]string{}
	for _, slice := range list.Items {
		all[slice.Name] = slice.ResourceVersion
	}
	return all
}

// vfs returns a request for devices that these CEL expressions select.
func vfs(count int64, expressions ...string) resourcev1.DeviceClaim {
	exactly := &resourcev1.ExactDeviceRequest{DeviceClassName: draClass, Count: count}
	for _, e := range expressions {
		exactly.Selectors = append(exactly.Selectors, resourcev1.DeviceSelector{
			CEL: &resourcev1.CELDeviceSelector{Expression: e},
		})
	}
	return resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "vf", Exactly: exactly}}}
}

// matching returns the claim with the constraint that its devices have an attribute in common.
func matching(claim resourcev1.DeviceClaim, attribute resourcev1.FullyQualifiedName) resourcev1.DeviceClaim {
	claim.Constraints = append(claim.Constraints, resourcev1.DeviceConstraint{MatchAttribute: &attribute})
	return claim
}

// newClaimPod creates a template for each claim, and returns a pod whose container has all of them.
func (n *node) newClaimPod(name string, claims ...resourcev1.DeviceClaim) *corev1.Pod {
	n.t.Helper()
	pod := newPod(name)
	container := &pod.Spec.Containers[0]
	for i, claim := range claims {
		claimName := fmt.Sprintf("claim-%d", i)
		template := &resourcev1.ResourceClaimTemplate{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-" + claimName, Namespace: pod.Namespace},
			Spec:       resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: claim}},
		}
		n.cleanup(func() {
			kubectl(n.t, "delete", "resourceclaimtemplate", "--ignore-not-found", "--wait=false", template.Name)
		})
		_, err := n.client.ResourceV1().ResourceClaimTemplates(pod.Namespace).
			Create(n.t.Context(), template, metav1.CreateOptions{})
		must(n.t, err)
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, corev1.PodResourceClaim{
			Name: claimName, ResourceClaimTemplateName: &template.Name,
		})
		container.Resources.Claims = append(container.Resources.Claims, corev1.ResourceClaim{Name: claimName})
	}
	return pod
}

// runClaims runs a pod whose container has a claim for each of claims.
func (n *node) runClaims(name string, claims ...resourcev1.DeviceClaim) *workload {
	n.t.Helper()
	return n.run(n.newClaimPod(name, claims...))
}

// checkHas checks that the container has count VFs, of those in from, and nothing else: their
// variables, numbered and by address, and their device nodes.
func (w *workload) checkHas(h *host, count int, from []string) {
	w.t.Helper()
	got := w.vfs()
	want := devices{Env: map[string]string{}}
	nodes := []string{"/dev/vfio/vfio"}
	for _, vf := range got {
		if !slices.Contains(from, vf) {
			w.t.Errorf("pod %s has %s, which is none of %v", w.name, vf, from)
			continue
		}
		want.Env["QAT_"+strings.NewReplacer(":", "_", ".", "_").Replace(vf)] = vf
		nodes = append(nodes, h.vfioNode(vf))
	}
	slices.Sort(nodes)
	if len(got) != count || !slices.Equal(nodes, w.devices.Nodes) {
		w.t.Errorf("pod %s has VFs %v with nodes %v, want %d VFs with %v", w.name, got, w.devices.Nodes, count, nodes)
	}
	for name, vf := range want.Env {
		if w.devices.Env[name] != vf {
			w.t.Errorf("pod %s has %s=%q, want %q", w.name, name, w.devices.Env[name], vf)
		}
	}
}

// checkNumbered checks that QAT0, QAT1 and so on are the VFs of the container.
func (w *workload) checkNumbered() {
	w.t.Helper()
	var got []string
	for i := range w.vfs() {
		got = append(got, w.devices.Env[fmt.Sprintf("QAT%d", i)])
	}
	slices.Sort(got)
	if want := w.vfs(); !slices.Equal(want, got) {
		w.t.Errorf("pod %s has %v, want its VFs %v in QAT0 and so on", w.name, w.devices.Env, want)
	}
}

// A podWatch reports changes of a pod.
type podWatch struct {
	t    *testing.T
	name string
	w    watch.Interface
}

// watchPod watches a pod in the namespace default, which need not exist yet.
func (n *node) watchPod(name string) *podWatch {
	n.t.Helper()
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	w, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Watch(n.t.Context(), options)
	must(n.t, err)
	n.t.Cleanup(w.Stop)
	return &podWatch{n.t, name, w}
}

// await waits until reached returns true, and returns the time.
func (p *podWatch) await(what string, reached func(*corev1.Pod) bool) time.Time {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), timeout)
	defer cancel()
	var last *corev1.Pod
	for {
		select {
		case event, ok := <-p.w.ResultChan():
			if !ok {
				p.t.Fatalf("the watch of pod %s ended before it was %s", p.name, what)
			}
			pod, isPod := event.Object.(*corev1.Pod)
			if !isPod {
				continue
			}
			last = pod
			if reached(pod) {
				return time.Now()
			}
		case <-ctx.Done():
			p.t.Fatalf("pod %s is not %s after %v: %+v", p.name, what, timeout, last)
		}
	}
}

func isScheduled(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" }

func isReady(pod *corev1.Pod) bool { return checkReady(pod) == nil }

// awaitUnschedulable waits until the scheduler has rejected all nodes for a pod, and returns its
// message.
func (n *node) awaitUnschedulable(name string) (message string) {
	n.t.Helper()
	poll(n.t, func() error {
		pod, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Get(n.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("pod %s is not unschedulable: %+v", name, pod.Status)
	})
	return message
}
