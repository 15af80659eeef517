package deployments

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// A set is what one directory renders, as the API's own types.
type set struct {
	daemonSets []appsv1.DaemonSet
	configMaps []corev1.ConfigMap
	policies   []networkingv1.NetworkPolicy
	pods       []corev1.Pod
	rules      []nodeFeatureRule
}

// decode reads a rendering. A field that the API does not know, or a kind that is not expected, ends the test.
func decode(t testing.TB, text string) (s set) {
	t.Helper()
	for _, document := range documents(text) {
		var is metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(document), &is))
		switch is.APIVersion + " " + is.Kind {
		case "apps/v1 DaemonSet":
			s.daemonSets = append(s.daemonSets, strict[appsv1.DaemonSet](t, document))
		case "v1 ConfigMap":
			s.configMaps = append(s.configMaps, strict[corev1.ConfigMap](t, document))
		case "networking.k8s.io/v1 NetworkPolicy":
			s.policies = append(s.policies, strict[networkingv1.NetworkPolicy](t, document))
		case "v1 Pod":
			s.pods = append(s.pods, strict[corev1.Pod](t, document))
		case "nfd.k8s-sigs.io/v1alpha1 NodeFeatureRule":
			s.rules = append(s.rules, strict[nodeFeatureRule](t, document))
		default:
			t.Fatalf("a %s %s is not expected in:\n%s", is.APIVersion, is.Kind, document)
		}
	}
	return s
}

func strict[T any](t testing.TB, document string) (object T) {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict([]byte(document))
	must(t, err)
	wrong, err := json.UnmarshalStrict(text, &object) // minds capital letters, as the API does
	if err != nil || len(wrong) > 0 {
		t.Fatalf("%v %v in:\n%s", err, wrong, document)
	}
	return object
}

// plugin is an installation of the plugin: the three objects of each overlay.
type plugin struct {
	daemonSet appsv1.DaemonSet
	config    corev1.ConfigMap
	policy    networkingv1.NetworkPolicy
}

func (o overlay) plugin(t testing.TB) plugin {
	t.Helper()
	s := decode(t, kustomize(t, manifests+"/"+o.dir))
	if len(s.daemonSets) != 1 || len(s.configMaps) != 1 || len(s.policies) != 1 || len(s.pods)+len(s.rules) > 0 {
		t.Fatalf("%s has other objects than a DaemonSet, a ConfigMap and a NetworkPolicy", o.dir)
	}
	return plugin{s.daemonSets[0], s.configMaps[0], s.policies[0]}
}

func (p plugin) pod() *corev1.PodSpec { return &p.daemonSet.Spec.Template.Spec }

// container is the only one; there are no others, and none that run before.
func (p plugin) container(t testing.TB) *corev1.Container {
	t.Helper()
	if len(p.pod().Containers) != 1 || len(p.pod().InitContainers) > 0 {
		t.Fatalf("%s has other containers than one", p.daemonSet.Name)
	}
	return &p.pod().Containers[0]
}

// mount finds the mount that a path of the container is in, and the path that it is on the host; nil: it is in none of the host's.
func (p plugin) mount(t testing.TB, path string) (m *corev1.VolumeMount, onHost string) {
	t.Helper()
	for _, candidate := range p.container(t).VolumeMounts {
		rest, ok := below(path, candidate.MountPath)
		if !ok || m != nil && len(m.MountPath) > len(candidate.MountPath) {
			continue
		}
		m, onHost = &candidate, p.hostPath(t, candidate.Name)+rest
	}
	return m, onHost
}

// hostPath is where a volume is on the host; "" for an empty directory.
func (p plugin) hostPath(t testing.TB, volume string) string {
	t.Helper()
	for _, v := range p.pod().Volumes {
		switch {
		case v.Name != volume:
		case v.HostPath != nil:
			return v.HostPath.Path
		case v.EmptyDir != nil:
			return ""
		default:
			t.Fatalf("the volume %s is neither hostPath nor emptyDir", volume)
		}
	}
	return ""
}
