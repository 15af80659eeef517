// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	nodeName = "node1"

	// Resources of the plugin.
	prefix = "qat.intel.com/"
	cy     = prefix + "cy"
	dc     = prefix + "dc"
)

// A node is the one-node cluster in a test.
type node struct {
	t        *testing.T
	client   kubernetes.Interface
	reported sync.Once
}

func openNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, client: openClient(t, rest.ImpersonationConfig{})}
	t.Cleanup(func() { n.awaitPodsDeleted(metav1.NamespaceDefault, workloadNamespace, pluginNamespace) })
	return n
}

// openClient returns a client of the API server for the administrator, or for a user whom the
// administrator impersonates.
func openClient(t *testing.T, user rest.ImpersonationConfig) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	config.Impersonate = user
	config.QPS = -1 // no limit
	config.Timeout = timeout
	config.WarningHandler = rest.NoWarnings{}
	// With HTTP/2, a connection whose watch has just ended does not count as idle, and
	// stays open.
	config.NextProtos = []string{"http/1.1"}
	transport, err := rest.HTTPClientFor(config)
	must(t, err)
	t.Cleanup(func() { net.CloseIdleConnectionsFor(transport.Transport) })
	client, err := kubernetes.NewForConfigAndClient(config, transport)
	must(t, err)
	return client
}

// awaitPodsDeleted waits until the pods that the test has deleted are gone, so that the
// next test finds all VFs free.
func (n *node) awaitPodsDeleted(namespaces ...string) {
	for _, namespace := range namespaces {
		stdout, stderr, err := tryKubectl("wait", "--for=delete", "pods", "--all", "-n", namespace,
			"--timeout="+timeout.String())
		if err != nil {
			n.t.Errorf("pods remain: %v\n%s%s", err, stdout, stderr)
		}
	}
}

// cleanup registers a cleanup function. If the test has failed, the state of the cluster
// is logged before the first one runs.
func (n *node) cleanup(f func()) {
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.reported.Do(n.report)
		}
		f()
	})
}

// resources maps names of resources to numbers of devices.
type resources map[string]int64

// String prints the resources of the plugin, without their prefix.
func (r resources) String() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if short, ok := strings.CutPrefix(name, prefix); ok {
			words = append(words, fmt.Sprintf("%s: %d", short, r[name]))
		}
	}
	return "{" + strings.Join(words, ", ") + "}"
}

func resourcesOf(list corev1.ResourceList) resources {
	r := resources{}
	for name, quantity := range list {
		r[string(name)] = quantity.Value()
	}
	return r
}

// has reports whether r has the numbers in want. It may have more resources.
func (r resources) has(want resources) bool {
	for name, count := range want {
		if r[name] != count {
			return false
		}
	}
	return true
}

// awaitResources waits until capacity and allocatable of the Node have these numbers, and
// returns the time.
func (n *node) awaitResources(want resources) time.Time {
	n.t.Helper()
	return n.awaitResourcesSince(time.Time{}, want)
}

// awaitResourcesSince is awaitResources for a status that the kubelet wrote after a time:
// the status outlives the kubelet.
func (n *node) awaitResourcesSince(since time.Time, want resources) time.Time {
	n.t.Helper()
	poll(n.t, func() error {
		o, err := n.client.CoreV1().Nodes().Get(n.t.Context(), nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var ready corev1.NodeCondition
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.NodeReady {
				ready = c
			}
		}
		isNew := ready.LastHeartbeatTime.After(since) // the resolution is one second
		capacity, allocatable := resourcesOf(o.Status.Capacity), resourcesOf(o.Status.Allocatable)
		if ready.Status == corev1.ConditionTrue && isNew && capacity.has(want) && allocatable.has(want) {
			return nil
		}
		return fmt.Errorf("Node with Ready=%s at %s has capacity %v, allocatable %v; want %v",
			ready.Status, ready.LastHeartbeatTime.Format(time.TimeOnly), capacity, allocatable, want)
	})
	return time.Now()
}

// recordAllocatable records how the Node's numbers of a resource change, until stop is
// called.
func (n *node) recordAllocatable(resource corev1.ResourceName) (stop func() string) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	began := time.Now()
	done := make(chan string, 1)
	go func() {
		var changes []string
		defer func() { done <- strings.Join(changes, ", ") }()
		last := ""
		for ctx.Err() == nil {
			options := metav1.ListOptions{FieldSelector: "metadata.name=" + nodeName}
			w, err := n.client.CoreV1().Nodes().Watch(ctx, options)
			if err != nil {
				return
			}
			for event := range w.ResultChan() {
				o, isNode := event.Object.(*corev1.Node)
				if !isNode {
					break
				}
				capacity, allocatable := o.Status.Capacity[resource], o.Status.Allocatable[resource]
				if now := fmt.Sprintf("%d of %d", allocatable.Value(), capacity.Value()); now != last {
					changes = append(changes, fmt.Sprintf("%.2f s: %s", time.Since(began).Seconds(), now))
					last = now
				}
			}
			w.Stop()
		}
	}()
	return func() string {
		cancel()
		return <-done
	}
}

// checkReadyz checks that a plugin's /readyz?verbose, requested through the API server,
// has passed all checks.
func (n *node) checkReadyz(pod *corev1.Pod) {
	n.t.Helper()
	result := n.client.CoreV1().RESTClient().Get().
		Namespace(pod.Namespace).Resource("pods").Name("http:"+pod.Name+":8081").SubResource("proxy").
		Suffix("readyz").Param("verbose", "").Do(n.t.Context())
	var status int
	result.StatusCode(&status)
	text, err := result.Raw()
	const want = "[+]event-loop ok\n[+]first-look ok\n[+]kernel-heard ok\n[+]registered ok\nreadyz check passed\n"
	if status != http.StatusOK || string(text) != want {
		n.t.Errorf("/readyz?verbose: status %d, %v:\n%s\nwant:\n%s", status, err, text, want)
	}
}

// checkReady returns an error that describes the pod if it is not ready.
func checkReady(pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s is not ready: %s %s %s",
		pod.Name, pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
}
