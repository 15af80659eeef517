// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// securityContextConstraints has the fields of security.openshift.io/v1 that the manifests use
// (https://docs.redhat.com/en/documentation/openshift_container_platform/latest/html/security_apis).
type securityContextConstraints struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	AllowHostDirVolumePlugin bool                `json:"allowHostDirVolumePlugin"`
	AllowHostIPC             bool                `json:"allowHostIPC"`
	AllowHostNetwork         bool                `json:"allowHostNetwork"`
	AllowHostPID             bool                `json:"allowHostPID"`
	AllowHostPorts           bool                `json:"allowHostPorts"`
	AllowPrivilegeEscalation *bool               `json:"allowPrivilegeEscalation"`
	AllowPrivilegedContainer bool                `json:"allowPrivilegedContainer"`
	AllowedCapabilities      []corev1.Capability `json:"allowedCapabilities"`
	DefaultAddCapabilities   []corev1.Capability `json:"defaultAddCapabilities"`
	RequiredDropCapabilities []corev1.Capability `json:"requiredDropCapabilities"`
	ReadOnlyRootFilesystem   bool                `json:"readOnlyRootFilesystem"`
	RunAsUser                strategy            `json:"runAsUser"`
	FSGroup                  strategy            `json:"fsGroup"`
	SupplementalGroups       strategy            `json:"supplementalGroups"`
	SELinuxContext           strategy            `json:"seLinuxContext"`
	SeccompProfiles          []string            `json:"seccompProfiles"`
	Volumes                  []string            `json:"volumes"`
	Users                    []string            `json:"users"`
	Groups                   []string            `json:"groups"`
	Priority                 *int32              `json:"priority"`
}

type strategy struct {
	Type string `json:"type"`
}

// denials returns why a pod with one container would not be admitted. Only what the manifests ask
// for is considered; fatal reports anything else.
func (s securityContextConstraints) denials(spec *corev1.PodSpec) (why []string) {
	deny := func(condition bool, format string, args ...any) {
		if condition {
			why = append(why, fmt.Sprintf(format, args...))
		}
	}
	for _, v := range spec.Volumes {
		kind := "other"
		switch {
		case v.HostPath != nil:
			kind = "hostPath"
			deny(!s.AllowHostDirVolumePlugin, "directories of the host")
		case v.EmptyDir != nil:
			kind = "emptyDir"
		case v.ConfigMap != nil:
			kind = "configMap"
		case v.Projected != nil:
			kind = "projected"
		}
		deny(!slices.Contains(s.Volumes, kind), "volume %s of kind %s", v.Name, kind)
	}
	deny(spec.HostNetwork && !s.AllowHostNetwork || spec.HostPID && !s.AllowHostPID || spec.HostIPC && !s.AllowHostIPC,
		"namespaces of the host")
	c := spec.Containers[0]
	for _, p := range c.Ports {
		deny(p.HostPort != 0 && !s.AllowHostPorts, "port %d of the host", p.HostPort)
	}
	security := c.SecurityContext
	deny(security.Privileged != nil && *security.Privileged && !s.AllowPrivilegedContainer, "a privileged container")
	deny(s.ReadOnlyRootFilesystem && isNilOr(security.ReadOnlyRootFilesystem, false), "a writable root file system")
	deny(!*s.AllowPrivilegeEscalation && isNilOr(security.AllowPrivilegeEscalation, true), "privilege escalation")
	deny(s.RunAsUser.Type != "RunAsAny" && isNilOr(security.RunAsUser, 0), "user 0")
	deny(s.SELinuxContext.Type != "RunAsAny" && security.SELinuxOptions != nil, "an SELinux type")
	seccomp := security.SeccompProfile
	deny(seccomp == nil || seccomp.Type != corev1.SeccompProfileTypeRuntimeDefault ||
		!slices.Contains(s.SeccompProfiles, "runtime/default"), "the seccomp profile")
	if security.Capabilities == nil || !slices.Equal(security.Capabilities.Drop, s.RequiredDropCapabilities) {
		return append(why, "capabilities that are not dropped")
	}
	for _, capability := range security.Capabilities.Add {
		deny(!slices.Contains(s.AllowedCapabilities, capability), "capability %s", capability)
	}
	return slices.Compact(why)
}

func sccs(t testing.TB) map[string]securityContextConstraints {
	t.Helper()
	byName := map[string]securityContextConstraints{}
	for _, s := range decode(t, kustomize(t, manifests+"/openshift")).sccs {
		byName[s.Name] = s
	}
	return byName
}

func TestSCCsAdmitTheirPods(t *testing.T) {
	all := sccs(t)
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		denied := all["intel-qat-plugin"].denials(p.podSpec())
		if (len(denied) > 0) != (o.name == "kernel") {
			t.Errorf("the SCC of the plugin denies %q", denied)
		}
	})
	for _, name := range append([]string{"crypto-perf", "compress-perf", "qatlib", "sample"}, draExamples...) {
		if denied := all["intel-qat-workload"].denials(&workload(t, name).Spec); len(denied) > 0 {
			t.Errorf("the SCC of workloads denies %s: %q", name, denied)
		}
	}
}

// TestSCCsGrantNothingElse lists what the SCCs grant beyond the strictest ones, and whether a pod
// needs it.
func TestSCCsGrantNothingElse(t *testing.T) {
	no := false
	strictest := securityContextConstraints{
		AllowPrivilegeEscalation: &no,
		RequiredDropCapabilities: []corev1.Capability{"ALL"},
		FSGroup:                  strategy{"RunAsAny"}, // a group adds nothing for user 0
		SupplementalGroups:       strategy{"RunAsAny"},
		RunAsUser:                strategy{"RunAsAny"},
		SeccompProfiles:          []string{"runtime/default"},
		AllowedCapabilities:      []corev1.Capability{},
		DefaultAddCapabilities:   []corev1.Capability{},
		Users:                    []string{},
		Groups:                   []string{},
	}
	plugin, workload := strictest, strictest
	plugin.Name, workload.Name = "intel-qat-plugin", "intel-qat-workload"
	plugin.AllowHostDirVolumePlugin = true
	plugin.ReadOnlyRootFilesystem = true
	plugin.SELinuxContext = strategy{"RunAsAny"}
	plugin.Volumes = []string{"configMap", "emptyDir", "hostPath", "projected"}
	workload.AllowedCapabilities = []corev1.Capability{"IPC_LOCK"}
	workload.SELinuxContext = strategy{"MustRunAs"}
	workload.Volumes = []string{"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
	want := map[string]securityContextConstraints{plugin.Name: plugin, workload.Name: workload}
	got := sccs(t)
	for name, s := range got {
		s.TypeMeta = metav1.TypeMeta{}
		got[name] = s
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
