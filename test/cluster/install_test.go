// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	pluginNamespace   = "plugin"
	workloadNamespace = "workloads"
	dryRunNamespace   = "strict" // for the warnings of another Pod Security level
)

// Labels of namespaces for Pod Security.
const (
	warnRestricted    = "pod-security.kubernetes.io/warn=restricted"
	warnBaseline      = "pod-security.kubernetes.io/warn=baseline"
	enforceRestricted = "pod-security.kubernetes.io/enforce=restricted"
)

// An installation is the base or an overlay of deployments/qat_plugin, applied with
// kubectl.
type installation struct {
	*node
	set      string // the name of the DaemonSet
	dir      string // of the applied kustomization
	warnings string // of kubectl apply
}

// deployment returns the path of a directory below deployments/.
func deployment(name string) string { return projectFile("deployments", name) }

// addNamespace creates a namespace unless it exists, and labels it.
func (n *node) addNamespace(name string, labels ...string) {
	n.t.Helper()
	if _, _, err := tryKubectl("get", "namespace", name); err != nil {
		kubectl(n.t, "create", "namespace", name)
	}
	kubectl(n.t, append([]string{"label", "--overwrite", "namespace", name}, labels...)...)
	poll(n.t, func() error { // pods are rejected before it exists
		_, err := n.client.CoreV1().ServiceAccounts(name).Get(n.t.Context(), "default", metav1.GetOptions{})
		return err
	})
}

// install applies a directory below deployments/, with some paths on the host replaced.
// It does not wait for the pods. The installation is deleted when the test ends.
func (n *node) install(name string, hostPaths map[string]string) *installation {
	n.t.Helper()
	return n.installFrom(deployment(name), hostPaths)
}

// installFrom is install for the directory of any kustomization.
func (n *node) installFrom(dir string, hostPaths map[string]string) *installation {
	n.t.Helper()
	n.addNamespace(pluginNamespace, warnRestricted)
	if len(hostPaths) > 0 {
		dir = replaceHostPaths(n.t, dir, hostPaths)
	}
	set := daemonSetIn(n.t, kubectl(n.t, "kustomize", dir))
	n.cleanup(func() {
		kubectl(n.t, "delete", "-n", pluginNamespace, "--ignore-not-found", "--cascade=foreground", "-k", dir)
	})
	stdout, stderr, err := tryKubectl("apply", "--validate=strict", "-n", pluginNamespace, "-k", dir)
	if err != nil {
		n.t.Fatalf("kubectl apply -k %s: %v\n%s%s", dir, err, stdout, stderr)
	}
	return &installation{node: n, set: set.Name, dir: dir, warnings: stderr}
}

// installOnHost installs the overlay debug, which logs the lists that the plugin sends,
// on a host with 16 VFs. It returns when they are in the Node's capacity.
func installOnHost(t *testing.T) (*installation, *host) {
	t.Helper()
	n := openNode(t)
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	in := n.install("qat_plugin/overlays/debug", h.hostPaths())
	in.awaitReady()
	n.awaitResources(resources{cy: 16})
	return in, h
}

// replaceHostPaths creates a kustomization on top of another one that replaces paths of
// hostPath volumes. It checks that nothing else changes.
func replaceHostPaths(t *testing.T, dir string, hostPaths map[string]string) string {
	t.Helper()
	want := daemonSetIn(t, kubectl(t, "kustomize", dir))
	var patch []map[string]string
	for i, volume := range want.Spec.Template.Spec.Volumes {
		if volume.HostPath == nil {
			continue
		}
		for from, to := range hostPaths {
			rest, ok := strings.CutPrefix(volume.HostPath.Path, from)
			if !ok || rest != "" && rest[0] != '/' {
				continue
			}
			volume.HostPath.Path = to + rest
			patch = append(patch, map[string]string{
				"op":    "replace",
				"path":  fmt.Sprintf("/spec/template/spec/volumes/%d/hostPath/path", i),
				"value": to + rest,
			})
			break
		}
	}
	text, err := json.Marshal(patch)
	must(t, err)
	patched := addKustomization(t, dir, fmt.Sprintf("patches: [{target: {kind: DaemonSet}, patch: %q}]\n", text))
	if diff := cmp.Diff(want, daemonSetIn(t, kubectl(t, "kustomize", patched))); diff != "" {
		t.Fatalf("the patch changes more than hostPath volumes (-want +got):\n%s", diff)
	}
	return patched
}

// addKustomization creates a kustomization in a temporary directory: lines on top of
// another one.
func addKustomization(t *testing.T, base, lines string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	base, err = filepath.Rel(dir, base) // kustomize rejects absolute paths
	must(t, err)
	text := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%q]\n", base)
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text+lines), 0o644))
	return dir
}

// daemonSetIn returns the only DaemonSet in YAML documents. Fields that the API does not
// know are errors.
func daemonSetIn(t *testing.T, objects string) (set *appsv1.DaemonSet) {
	t.Helper()
	for object := range strings.SplitSeq(objects, "\n---\n") {
		var kind metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(object), &kind))
		if kind.Kind != "DaemonSet" {
			continue
		}
		if set != nil {
			t.Fatal("more than one DaemonSet")
		}
		set = &appsv1.DaemonSet{}
		must(t, yaml.UnmarshalStrict([]byte(object), set))
	}
	if set == nil {
		t.Fatalf("no DaemonSet in:\n%s", objects)
	}
	return set
}

// awaitReady waits until the DaemonSet is rolled out and its pod is ready, and returns
// the pod.
func (in *installation) awaitReady() (pod *corev1.Pod) {
	in.t.Helper()
	kubectl(in.t, "rollout", "status", "-n", pluginNamespace, "daemonset/"+in.set, "--timeout="+timeout.String())
	poll(in.t, func() (err error) {
		if pod, err = in.pod(); err != nil {
			return err
		}
		return checkReady(pod)
	})
	return pod
}

// pod returns the only pod of the DaemonSet that is not being deleted.
func (in *installation) pod() (*corev1.Pod, error) {
	set, err := in.client.AppsV1().DaemonSets(pluginNamespace).Get(in.t.Context(), in.set, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	options := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)}
	pods, err := in.client.CoreV1().Pods(pluginNamespace).List(in.t.Context(), options)
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	if len(found) != 1 {
		return nil, fmt.Errorf("DaemonSet %s has %d pods, want 1", in.set, len(found))
	}
	return &found[0], nil
}

// logs returns the logs of the plugin's pods. It reads the files of the kubelet, which
// may not be running.
func (in *installation) logs() string {
	in.t.Helper()
	pods := filepath.Join(os.Getenv("CLUSTER_LOGS"), "pods", pluginNamespace+"_"+in.set+"-*")
	files, err := filepath.Glob(filepath.Join(pods, "*", "*.log"))
	must(in.t, err)
	var all strings.Builder
	for _, file := range files {
		all.WriteString(readFile(in.t, file))
	}
	return all.String()
}

// awaitListSent waits until the plugin logs, after a time, that it sent a list with this
// number of healthy devices, and returns the time of the log message. It needs VERBOSITY
// 4.
func (in *installation) awaitListSent(resource string, healthy int, after time.Time) (sent time.Time) {
	in.t.Helper()
	message, end := fmt.Sprintf(`"Sent the list" resource=%q `, resource), fmt.Sprintf(" healthy=%d", healthy)
	poll(in.t, func() error {
		var others []string
		for line := range strings.SplitSeq(in.logs(), "\n") {
			_, line, _ = strings.Cut(line, " F ") // after the runtime's own time and the name of the stream
			if !strings.Contains(line, message) {
				continue
			}
			sent = logTime(in.t, line)
			if sent.After(after) && strings.HasSuffix(line, end) {
				return nil
			}
			others = append(others, line)
		}
		return fmt.Errorf("no log message after %s about a list of %s with %d healthy devices; there are\n%s",
			after.UTC().Format("15:04:05.000000"), resource, healthy, strings.Join(others, "\n"))
	})
	return sent
}

// logTime returns the time of a klog line, which starts with a time such as I1124
// 20:53:05.340274.
func logTime(t *testing.T, line string) time.Time {
	t.Helper()
	text := fmt.Sprintf("%d %s", time.Now().UTC().Year(), line[1:min(len(line), 21)])
	at, err := time.Parse("2006 0102 15:04:05.000000", text)
	must(t, err)
	return at
}
