// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// objects are those of a rendered directory, in the types of the API.
type objects struct {
	daemonSets []appsv1.DaemonSet
	configMaps []corev1.ConfigMap
	policies   []networkingv1.NetworkPolicy
	pods       []corev1.Pod
	rules      []nodeFeatureRule
	sccs       []securityContextConstraints
	accounts   []corev1.ServiceAccount
	roles      []rbacv1.Role
	bindings   []rbacv1.RoleBinding
	monitors   []monitoringv1.PodMonitor
	alerts     []monitoringv1.PrometheusRule

	clusterRoles    []rbacv1.ClusterRole
	clusterBindings []rbacv1.ClusterRoleBinding
	classes         []resourcev1.DeviceClass
	templates       []resourcev1.ResourceClaimTemplate
	admission       []admissionv1.ValidatingAdmissionPolicy
	enforced        []admissionv1.ValidatingAdmissionPolicyBinding
}

// decode decodes YAML documents. It fails the test for fields that the API does not know,
// and for other kinds of objects.
func decode(t testing.TB, text string) (o objects) {
	t.Helper()
	for _, document := range documents(text) {
		var kind metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(document), &kind))
		switch kind.APIVersion + " " + kind.Kind {
		case "apps/v1 DaemonSet":
			o.daemonSets = append(o.daemonSets, decodeStrict[appsv1.DaemonSet](t, document))
		case "v1 ConfigMap":
			o.configMaps = append(o.configMaps, decodeStrict[corev1.ConfigMap](t, document))
		case "networking.k8s.io/v1 NetworkPolicy":
			o.policies = append(o.policies, decodeStrict[networkingv1.NetworkPolicy](t, document))
		case "v1 Pod":
			o.pods = append(o.pods, decodeStrict[corev1.Pod](t, document))
		case "v1 ServiceAccount":
			o.accounts = append(o.accounts, decodeStrict[corev1.ServiceAccount](t, document))
		case "rbac.authorization.k8s.io/v1 Role":
			o.roles = append(o.roles, decodeStrict[rbacv1.Role](t, document))
		case "rbac.authorization.k8s.io/v1 RoleBinding":
			o.bindings = append(o.bindings, decodeStrict[rbacv1.RoleBinding](t, document))
		case "rbac.authorization.k8s.io/v1 ClusterRole":
			o.clusterRoles = append(o.clusterRoles, decodeStrict[rbacv1.ClusterRole](t, document))
		case "rbac.authorization.k8s.io/v1 ClusterRoleBinding":
			o.clusterBindings = append(o.clusterBindings, decodeStrict[rbacv1.ClusterRoleBinding](t, document))
		case "resource.k8s.io/v1 DeviceClass":
			o.classes = append(o.classes, decodeStrict[resourcev1.DeviceClass](t, document))
		case "resource.k8s.io/v1 ResourceClaimTemplate":
			o.templates = append(o.templates, decodeStrict[resourcev1.ResourceClaimTemplate](t, document))
		case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy":
			o.admission = append(o.admission, decodeStrict[admissionv1.ValidatingAdmissionPolicy](t, document))
		case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding":
			o.enforced = append(o.enforced, decodeStrict[admissionv1.ValidatingAdmissionPolicyBinding](t, document))
		case "nfd.k8s-sigs.io/v1alpha1 NodeFeatureRule":
			o.rules = append(o.rules, decodeStrict[nodeFeatureRule](t, document))
		case "security.openshift.io/v1 SecurityContextConstraints":
			o.sccs = append(o.sccs, decodeStrict[securityContextConstraints](t, document))
		case "monitoring.coreos.com/v1 PodMonitor":
			o.monitors = append(o.monitors, decodeStrict[monitoringv1.PodMonitor](t, document))
		case "monitoring.coreos.com/v1 PrometheusRule":
			o.alerts = append(o.alerts, decodeStrict[monitoringv1.PrometheusRule](t, document))
		default:
			t.Fatalf("unexpected object %s %s:\n%s", kind.APIVersion, kind.Kind, document)
		}
	}
	return o
}

func decodeStrict[T any](t testing.TB, document string) (object T) {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict([]byte(document))
	must(t, err)
	unknown, err := json.UnmarshalStrict(text, &object) // case-sensitive, as the API server is
	if err != nil || len(unknown) > 0 {
		t.Fatalf("%v %v in:\n%s", err, unknown, document)
	}
	return object
}

// A plugin is an installation of the plugin: the objects of an overlay.
type plugin struct {
	daemonSet    appsv1.DaemonSet
	config       corev1.ConfigMap
	policy       networkingv1.NetworkPolicy
	provisioning *corev1.ConfigMap // nil without provisioning
	accounts     []corev1.ServiceAccount
}

func (o overlay) plugin(t testing.TB) plugin {
	t.Helper()
	got := decode(t, kustomize(t, manifests+"/"+o.dir))
	single := len(got.daemonSets) == 1 && len(got.configMaps) > 0 && len(got.policies) == 1
	if !single || len(got.pods)+len(got.rules)+len(got.roles)+len(got.bindings) > 0 {
		t.Fatalf("%s does not consist of a DaemonSet, its ConfigMaps, a NetworkPolicy and service accounts", o.dir)
	}
	beside := len(got.classes) + len(got.admission) + len(got.enforced) +
		len(got.clusterRoles) + len(got.clusterBindings)
	if beside > 0 && !o.isDRA() {
		t.Fatalf("%s has %d objects that only the DRA driver needs", o.dir, beside)
	}
	p := plugin{
		daemonSet: got.daemonSets[0],
		config:    got.configMaps[0],
		policy:    got.policies[0],
		accounts:  got.accounts,
	}
	for _, c := range got.configMaps[1:] {
		if c.Name != "qat-provisioning" || p.provisioning != nil {
			t.Fatalf("unexpected ConfigMap %s in %s", c.Name, o.dir)
		}
		p.provisioning = &c
	}
	return p
}

func (p plugin) podSpec() *corev1.PodSpec { return &p.daemonSet.Spec.Template.Spec }

// container returns the only container of the pod.
func (p plugin) container(t testing.TB) *corev1.Container {
	t.Helper()
	if len(p.podSpec().Containers) != 1 || len(p.podSpec().InitContainers) > 0 {
		t.Fatalf("%s does not have exactly one container", p.daemonSet.Name)
	}
	return &p.podSpec().Containers[0]
}

// mount returns the innermost mount that contains a path of the container, and the path
// on the host. The mount is nil if none does.
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

// hostPath returns the path of a volume on the host, or "" for a volume that is not of the host.
func (p plugin) hostPath(t testing.TB, volume string) string {
	t.Helper()
	for _, v := range p.podSpec().Volumes {
		switch {
		case v.Name != volume:
		case v.HostPath != nil:
			return v.HostPath.Path
		case v.EmptyDir != nil, v.ConfigMap != nil, v.Projected != nil:
			return ""
		default:
			t.Fatalf("volume %s is none of hostPath, emptyDir, ConfigMap and projected", volume)
		}
	}
	return ""
}
