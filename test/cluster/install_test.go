package cluster

import (
	"context"
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

// namespace is where the plugin is installed; workloads holds the pods that ask for devices. strict is never used but to hear what Pod
// Security says at another level than in namespace.
const (
	namespace = "plugin"
	workloads = "workloads"
	strict    = "strict"
)

// A namespace's Pod Security level, as its label.
const (
	warnRestricted    = "pod-security.kubernetes.io/warn=restricted"
	warnBaseline      = "pod-security.kubernetes.io/warn=baseline"
	enforceRestricted = "pod-security.kubernetes.io/enforce=restricted"
)

// An installation is one of deployments/qat_plugin/overlays, or the base, applied by kubectl.
type installation struct {
	*node
	set      string // the DaemonSet's name
	dir      string // of the kustomization that was applied
	warnings string // what kubectl said besides
}

// deployment is a directory below deployments/.
func deployment(name string) string {
	return filepath.Join(os.Getenv("CLUSTER_TOP"), "deployments", name)
}

// makeNamespace makes a namespace with labels, where there is none.
func (n *node) makeNamespace(name string, labels ...string) {
	n.t.Helper()
	if _, _, err := try(n.t, "get", "namespace", name); err != nil {
		kubectl(n.t, "create", "namespace", name)
	}
	kubectl(n.t, append([]string{"label", "--overwrite", "namespace", name}, labels...)...)
	await(n.t, func(ctx context.Context) (*corev1.ServiceAccount, error) {
		return n.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
	}, n.client.CoreV1().ServiceAccounts(name).Watch, func(*corev1.ServiceAccount) (bool, string) { return true, "" })
}

// install applies a directory below deployments/ as it is, but for the paths on the host, which moved replaces: /sys by that of a look-alike
// host, and so on. It does not wait for anything. The installation is deleted when the test ends.
func (n *node) install(name string, moved map[string]string) *installation {
	n.t.Helper()
	n.makeNamespace(namespace, warnRestricted)
	dir := deployment(name)
	if len(moved) > 0 {
		dir = n.moveHostPaths(dir, moved)
	}
	set := daemonSet(n.t, kubectl(n.t, "kustomize", dir))
	in := &installation{node: n, set: set.Name, dir: dir}
	n.cleanup(in.remove)
	out, complaints, err := try(n.t, "apply", "--validate=strict", "-n", namespace, "-k", dir)
	if err != nil {
		n.t.Fatalf("kubectl apply -k %s: %v\n%s%s", name, err, out, complaints)
	}
	in.warnings = complaints
	return in
}

// remove deletes the installation and waits until its pods are gone.
func (in *installation) remove() {
	in.t.Helper()
	kubectl(in.t, "delete", "-n", namespace, "--ignore-not-found", "--cascade=foreground", "-k", in.dir)
}

// moveHostPaths makes a kustomization on top of another one that only replaces paths of hostPath volumes. What else it would change is found by
// a comparison.
func (n *node) moveHostPaths(dir string, moved map[string]string) string {
	n.t.Helper()
	shipped := kubectl(n.t, "kustomize", dir)
	var patch []map[string]string
	want := daemonSet(n.t, shipped)
	for i := range want.Spec.Template.Spec.Volumes {
		path := want.Spec.Template.Spec.Volumes[i].HostPath
		if path == nil {
			continue
		}
		for from, to := range moved {
			if rest, below := strings.CutPrefix(path.Path, from); below && (rest == "" || rest[0] == '/') {
				path.Path = to + rest
				field := fmt.Sprintf("/spec/template/spec/volumes/%d/hostPath/path", i)
				patch = append(patch, map[string]string{"op": "replace", "path": field, "value": path.Path})
				break
			}
		}
	}
	text, err := json.Marshal(patch)
	must(n.t, err)
	resource := relative(n.t, dir)
	made := writeKustomization(n.t, fmt.Sprintf("resources: [%q]\npatches: [{target: {kind: DaemonSet}, patch: %q}]\n", resource, text))
	got := daemonSet(n.t, kubectl(n.t, "kustomize", made))
	if diff := cmp.Diff(want, got); diff != "" {
		n.t.Fatalf("more than paths on the host was replaced (-want +got):\n%s", diff)
	}
	return made
}

// relative is the directory as a kustomization that writeKustomization makes names it: absolute paths are not allowed there.
func relative(t *testing.T, dir string) string {
	t.Helper()
	rel, err := filepath.Rel("/", dir)
	must(t, err)
	return strings.Repeat("../", 16) + rel // from anywhere up to the root
}

// writeKustomization makes a kustomization in a directory of the test's.
func writeKustomization(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n" + text
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644))
	return dir
}

// daemonSet is the one DaemonSet of a stream of objects. Fields that the API does not know are an error.
func daemonSet(t *testing.T, objects string) *appsv1.DaemonSet {
	t.Helper()
	var found *appsv1.DaemonSet
	for object := range strings.SplitSeq(objects, "\n---\n") {
		var kind metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(object), &kind))
		if kind.Kind == "DaemonSet" {
			if found != nil {
				t.Fatal("there is more than one DaemonSet")
			}
			found = &appsv1.DaemonSet{}
			must(t, yaml.UnmarshalStrict([]byte(object), found))
		}
	}
	if found == nil {
		t.Fatalf("there is no DaemonSet in:\n%s", objects)
	}
	return found
}

// ready waits until kubectl says that the DaemonSet is rolled out and the API says that its pod is ready, and returns the pod. One may be sooner than
// the other.
func (in *installation) ready() *corev1.Pod {
	in.t.Helper()
	kubectl(in.t, "rollout", "status", "-n", namespace, "daemonset/"+in.set, "--timeout="+deadline.String())
	pod, _ := await(in.t, in.findPod, in.client.CoreV1().Pods(namespace).Watch, func(pod *corev1.Pod) (bool, string) {
		return isReady(pod), fmt.Sprintf("the DaemonSet is rolled out, but its pod %s is not ready", pod.Name)
	})
	return pod
}

// pod is the plugin's pod.
func (in *installation) pod() *corev1.Pod {
	in.t.Helper()
	pod, err := in.findPod(in.t.Context())
	must(in.t, err)
	return pod
}

// findPod finds the one pod of the DaemonSet that is not on its way out.
func (in *installation) findPod(ctx context.Context) (*corev1.Pod, error) {
	set, err := in.client.AppsV1().DaemonSets(namespace).Get(ctx, in.set, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	options := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)}
	pods, err := in.client.CoreV1().Pods(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	if len(found) != 1 {
		return nil, fmt.Errorf("DaemonSet %s has %d pods, want 1", in.set, len(found))
	}
	return &found[0], nil
}

// logs are what the plugin's pods logged, from the files that the kubelet keeps: it may not answer just now.
func (in *installation) logs() string {
	in.t.Helper()
	files, err := filepath.Glob(filepath.Join(os.Getenv("CLUSTER_LOGS"), "pods", namespace+"_"+in.set+"-*", "*", "*.log"))
	must(in.t, err)
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(in.t, err)
		all.Write(text)
	}
	return all.String()
}

// sent waits until the plugin logged that it sent a list of a resource with so many healthy devices, after the moment, and returns when that was. It
// needs VERBOSITY 4.
func (in *installation) sent(resource string, healthy int, moment time.Time) time.Time {
	in.t.Helper()
	want := fmt.Sprintf(`"Sent the list" resource=%q `, resource)
	var others []string
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		others = nil
		for line := range strings.SplitSeq(in.logs(), "\n") {
			_, line, _ = strings.Cut(line, " F ") // behind the runtime's own time and the stream
			if !strings.Contains(line, want) {
				continue
			}
			if at := logged(in.t, line); at.After(moment) && strings.HasSuffix(line, fmt.Sprintf(" healthy=%d", healthy)) {
				return at
			}
			others = append(others, line)
		}
	}
	in.t.Fatalf("the plugin did not log after %s that it sent %d healthy devices of %s, but:\n%s",
		moment.UTC().Format("15:04:05.000000"), healthy, resource, strings.Join(others, "\n"))
	panic("unreachable")
}

// logged is the time at the beginning of a line of klog: I1124 20:53:05.340274.
func logged(t *testing.T, line string) time.Time {
	t.Helper()
	now := time.Now().UTC()
	at, err := time.Parse("2006 0102 15:04:05.000000", fmt.Sprintf("%d %s", now.Year(), line[1:min(len(line), 21)]))
	must(t, err)
	return at
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
