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

// verdicts are what Pod Security has against a pod at each level, in its own words, which kubectl shows as a warning.
type verdicts struct{ Baseline, Restricted []string }

func judge(t testing.TB, spec *corev1.PodSpec) verdicts {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	must(t, err)
	at := func(level api.Level) (list []string) {
		for _, result := range evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &metav1.ObjectMeta{}, spec) {
			if !result.Allowed {
				list = append(list, fmt.Sprintf("%s (%s)", result.ForbiddenReason, result.ForbiddenDetail))
			}
		}
		return list
	}
	return verdicts{at(api.LevelBaseline), at(api.LevelRestricted)}
}

// The level is privileged because of the hostPaths alone; the rest is little, but in mode kernel.
func TestPodSecurityHasAgainstThePluginWhatIsKnown(t *testing.T) {
	const (
		seLinux = `seLinuxOptions (container "intel-qat-plugin" set forbidden securityContext.seLinuxOptions: type "container_device_plugin_t")`
		nonRoot = `runAsNonRoot != true (pod or container %q must set securityContext.runAsNonRoot=true)`
		user0   = `runAsUser=0 (container %q must not set runAsUser=0)`

		privileged   = `privileged (container "intel-qat-kernel-plugin" must not set securityContext.privileged=true)`
		escalation   = `allowPrivilegeEscalation != false (container "intel-qat-kernel-plugin" must set securityContext.allowPrivilegeEscalation=false)`
		capabilities = `unrestricted capabilities (container "intel-qat-kernel-plugin" must set securityContext.capabilities.drop=["ALL"])`
		seccomp      = `seccompProfile (pod or container "intel-qat-kernel-plugin" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`
	)
	for _, o := range overlays() {
		t.Run(o.name, func(t *testing.T) {
			p := o.plugin(t)
			name, volumes := p.container(t).Name, []string{}
			for _, v := range p.pod().Volumes {
				if v.HostPath != nil {
					volumes = append(volumes, fmt.Sprintf("%q", v.Name))
				}
			}
			quoted := strings.Join(volumes, ", ")
			hostPath := fmt.Sprintf("hostPath volumes (volumes %s)", quoted)
			types := fmt.Sprintf(`restricted volume types (volumes %s use restricted volume type "hostPath")`, quoted)
			want := verdicts{
				Baseline:   []string{hostPath, seLinux},
				Restricted: []string{seLinux, types, fmt.Sprintf(nonRoot, name), fmt.Sprintf(user0, name)},
			}
			if o.name == "kernel" {
				want = verdicts{
					Baseline:   []string{hostPath, privileged},
					Restricted: []string{privileged, escalation, capabilities, types, fmt.Sprintf(nonRoot, name), fmt.Sprintf(user0, name), seccomp},
				}
			}
			if diff := cmp.Diff(want, judge(t, p.pod())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
