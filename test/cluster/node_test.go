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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	nodeName = "node1"
	// deadline is far beyond what anything here takes; it only keeps a broken test from hanging.
	deadline = 90 * time.Second
	// resources of the plugin, and what of them a pod may ask for here.
	prefix = "qat.intel.com/"
	cy     = prefix + "cy"
	dc     = prefix + "dc"
)

// A node is the cluster of one node, as a test sees it.
type node struct {
	t        *testing.T
	client   kubernetes.Interface
	reported sync.Once
}

func openNode(t *testing.T) *node {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	config.QPS = -1 // nobody is to be spared
	config.WarningHandler = rest.NoWarnings{}
	config.NextProtos = []string{"http/1.1"} // a connection of HTTP/2 whose watch has just ended is not yet idle, and stays
	transport, err := rest.HTTPClientFor(config)
	must(t, err)
	t.Cleanup(func() { net.CloseIdleConnectionsFor(transport.Transport) })
	client, err := kubernetes.NewForConfigAndClient(config, transport)
	must(t, err)
	n := &node{t: t, client: client}
	t.Cleanup(n.gone)
	return n
}

// gone waits until the test's pods, whose deletion has begun, are gone: the next test finds all VFs free.
func (n *node) gone() {
	for _, namespace := range []string{metav1.NamespaceDefault, workloads, namespace} {
		out, complaints, err := try(n.t, "wait", "--for=delete", "pods", "--all", "-n", namespace, "--timeout="+deadline.String())
		if err != nil {
			n.t.Errorf("pods stay: %v\n%s%s", err, out, complaints)
		}
	}
}

// cleanup is t.Cleanup that shows what there is to see of a failed test before the first thing is removed.
func (n *node) cleanup(f func()) {
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.reported.Do(n.report)
		}
		f()
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// object is what the API server watches.
type object interface {
	runtime.Object
	metav1.Object
}

// await gets an object and watches it until ok says that it is as it should be; said is what to tell when it never is.
func await[T object](t *testing.T, get func(context.Context) (T, error), follow func(context.Context, metav1.ListOptions) (watch.Interface, error),
	ok func(T) (done bool, said string)) (T, time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	last := "there is none"
	for {
		o, err := get(ctx)
		for err == nil {
			var done bool
			if done, last = ok(o); done {
				return o, time.Now()
			}
			var w watch.Interface
			w, err = follow(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + o.GetName(), ResourceVersion: o.GetResourceVersion()})
			if err != nil {
				break
			}
			for event := range w.ResultChan() {
				changed, isObject := event.Object.(T)
				if !isObject || event.Type == watch.Deleted {
					break
				}
				if done, last = ok(changed); done {
					w.Stop()
					return changed, time.Now()
				}
			}
			w.Stop()
			break
		}
		if err != nil {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v it is not so: %s", deadline, last)
		case <-time.After(50 * time.Millisecond): // before the object is made, or a watch is opened again
		}
	}
}

func (n *node) get(ctx context.Context) (*corev1.Node, error) {
	return n.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
}

// offers waits until the Node says that it has so many of each resource, and that all can be had. What it says of others does not matter. It returns
// when that was seen.
func (n *node) offers(want map[string]int64) time.Time {
	n.t.Helper()
	return n.offersSince(time.Time{}, want)
}

// offersSince is offers of a status that the kubelet wrote after the moment: what a kubelet said stays there when it has ended.
func (n *node) offersSince(moment time.Time, want map[string]int64) time.Time {
	n.t.Helper()
	_, at := await(n.t, n.get, n.client.CoreV1().Nodes().Watch, func(o *corev1.Node) (bool, string) {
		ready := readiness(o)
		said := fmt.Sprintf("the Node, ready %s at %s, has capacity {%s}, allocatable {%s}; want {%s}",
			ready.Status, ready.LastHeartbeatTime.Format(time.TimeOnly), ours(o.Status.Capacity), ours(o.Status.Allocatable), counts(want))
		if ready.Status != corev1.ConditionTrue || !ready.LastHeartbeatTime.After(moment) { // it has only seconds
			return false, said
		}
		for name, count := range want {
			capacity, allocatable := o.Status.Capacity[corev1.ResourceName(name)], o.Status.Allocatable[corev1.ResourceName(name)]
			if capacity.Value() != count || allocatable.Value() != count {
				return false, said
			}
		}
		return true, said
	})
	return at
}

func readiness(o *corev1.Node) (ready corev1.NodeCondition) {
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady {
			ready = c
		}
	}
	return ready
}

// ours are the resources of the plugin.
func ours(list corev1.ResourceList) string {
	c := map[string]int64{}
	for name, q := range list {
		if strings.HasPrefix(string(name), prefix) {
			c[string(name)] = q.Value()
		}
	}
	return counts(c)
}

func counts(c map[string]int64) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		words = append(words, fmt.Sprintf("%s: %d", strings.TrimPrefix(name, prefix), c[name]))
	}
	return strings.Join(words, ", ")
}

// timeline prints how the Node's numbers of a resource change, from now until the returned function is called.
func (n *node) timeline(resource string) (stop func() string) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	began := time.Now()
	done := make(chan string, 1)
	go func() {
		var said []string
		defer func() { done <- strings.Join(said, ", ") }()
		last := ""
		for ctx.Err() == nil {
			w, err := n.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + nodeName})
			if err != nil {
				return
			}
			for event := range w.ResultChan() {
				o, isNode := event.Object.(*corev1.Node)
				if !isNode {
					break
				}
				capacity, allocatable := o.Status.Capacity[corev1.ResourceName(resource)], o.Status.Allocatable[corev1.ResourceName(resource)]
				if now := fmt.Sprintf("%d of %d", allocatable.Value(), capacity.Value()); now != last {
					said = append(said, fmt.Sprintf("%.2f s: %s", time.Since(began).Seconds(), now))
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

// readyz is what the plugin's own readiness check says in full, asked through the API server.
func (n *node) readyz(pod *corev1.Pod) string {
	n.t.Helper()
	result := n.client.CoreV1().RESTClient().Get().Namespace(pod.Namespace).Resource("pods").Name("http:"+pod.Name+":8081").
		SubResource("proxy").Suffix("readyz").Param("verbose", "").Do(n.t.Context())
	var status int
	result.StatusCode(&status)
	text, err := result.Raw()
	if err != nil && status != http.StatusInternalServerError {
		n.t.Fatalf("readyz of %s: status %d: %v", pod.Name, status, err)
	}
	return string(text)
}
