// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// violations are those of a pod at each Pod Security level, in the words of kubectl's
// warning.
type violations struct{ Baseline, Restricted []string }

// violationsOf evaluates a pod with one container. It replaces the quoted name of the
// container by CONTAINER, and the list of the volumes with a hostPath by HOSTPATHS.
func violationsOf(t testing.TB, spec *corev1.PodSpec) violations {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	must(t, err)
	var hostPaths []string
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			hostPaths = append(hostPaths, fmt.Sprintf("%q", v.Name))
		}
	}
	names := strings.NewReplacer(
		fmt.Sprintf("container %q", spec.Containers[0].Name), "CONTAINER",
		"volumes "+strings.Join(hostPaths, ", "), "HOSTPATHS",
	)
	at := func(level api.Level) (list []string) {
		version := api.LevelVersion{Level: level, Version: api.LatestVersion()}
		for _, result := range evaluator.EvaluatePod(version, &metav1.ObjectMeta{}, spec) {
			if !result.Allowed {
				detail := names.Replace(result.ForbiddenDetail)
				list = append(list, fmt.Sprintf("%s (%s)", result.ForbiddenReason, detail))
			}
		}
		return list
	}
	return violations{at(api.LevelBaseline), at(api.LevelRestricted)}
}

const (
	nonRoot = "runAsNonRoot != true (pod or CONTAINER must set securityContext.runAsNonRoot=true)"
	user0   = "runAsUser=0 (CONTAINER must not set runAsUser=0)"
)

// TestPodSecurityViolations: every hostPath volume requires the level privileged. Beyond
// that the pod violates the level baseline only by its SELinux type, and in mode kernel
// by being privileged.
func TestPodSecurityViolations(t *testing.T) {
	const (
		hostPaths   = "hostPath volumes (HOSTPATHS)"
		volumeTypes = `restricted volume types (HOSTPATHS use restricted volume type "hostPath")`
		seLinux     = "seLinuxOptions (CONTAINER set forbidden securityContext.seLinuxOptions: " +
			`type "container_device_plugin_t")`

		privileged = "privileged (CONTAINER must not set securityContext.privileged=true)"
		escalation = "allowPrivilegeEscalation != false " +
			"(CONTAINER must set securityContext.allowPrivilegeEscalation=false)"
		capabilities = `unrestricted capabilities (CONTAINER must set securityContext.capabilities.drop=["ALL"])`
		seccomp      = "seccompProfile (pod or CONTAINER must set securityContext.seccompProfile.type " +
			`to "RuntimeDefault" or "Localhost")`
	)
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		want := violations{
			Baseline:   []string{hostPaths, seLinux},
			Restricted: []string{seLinux, volumeTypes, nonRoot, user0},
		}
		if o.name == "kernel" {
			want = violations{
				Baseline:   []string{hostPaths, privileged},
				Restricted: []string{privileged, escalation, capabilities, volumeTypes, nonRoot, user0, seccomp},
			}
		}
		if diff := cmp.Diff(want, violationsOf(t, p.podSpec())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
