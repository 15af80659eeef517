package deployments

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func workload(t testing.TB, name string) *corev1.Pod {
	t.Helper()
	s := decode(t, kustomize(t, filepath.Join(manifests, others()[name])))
	if len(s.pods) != 1 || len(s.pods[0].Spec.Containers) != 1 {
		t.Fatalf("%s is not one pod of one container", name)
	}
	return &s.pods[0]
}

func TestWorkloadsAskForAVFAndForNothingElseThatIsSpecial(t *testing.T) {
	perf := func(name string) verdicts {
		lock := fmt.Sprintf(`(container %q must not include "IPC_LOCK" in securityContext.capabilities.add)`, name)
		return verdicts{
			Baseline: []string{"non-default capabilities " + lock},
			Restricted: []string{
				"unrestricted capabilities " + lock,
				fmt.Sprintf("runAsNonRoot != true (pod or container %q must set securityContext.runAsNonRoot=true)", name),
				fmt.Sprintf("runAsUser=0 (container %q must not set runAsUser=0)", name),
			},
		}
	}
	for name, want := range map[string]struct {
		pod, resource string
		verdicts      verdicts
	}{
		"sample":        {"qat-sample", "qat.intel.com/cy", verdicts{}},
		"crypto-perf":   {"qat-dpdk-test-crypto-perf", "qat.intel.com/cy", perf("crypto-perf")},
		"compress-perf": {"qat-dpdk-test-compress-perf", "qat.intel.com/dc", perf("compress-perf")},
	} {
		t.Run(name, func(t *testing.T) {
			pod := workload(t, name)
			limits := pod.Spec.Containers[0].Resources.Limits
			if count := limits[corev1.ResourceName(want.resource)]; pod.Name != want.pod || count.Value() != 1 {
				t.Errorf("%s asks for %v, want %s that asks for one %s", pod.Name, limits, want.pod, want.resource)
			}
			if diff := cmp.Diff(want.verdicts, judge(t, &pod.Spec)); diff != "" {
				t.Errorf("what Pod Security has against it (-want +got):\n%s", diff)
			}
		})
	}
}

// The commands are run by a real shell, with programs of the test's own in the place of DPDK's.
func TestWorkloadsPassTheirVFsOn(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"dpdk-test-crypto-perf", "dpdk-test-compress-perf"} {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho \"$0 $*\"\n"), 0o700))
	}
	must(t, os.WriteFile(filepath.Join(bin, "sleep"), []byte("#!/bin/sh\n"), 0o700))
	cores := ""
	for line := range strings.Lines(string(readFile(t, "/proc/self/status"))) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			cores = strings.TrimSpace(list)
		}
	}
	eal := " --no-telemetry -l " + cores + " -a 0000:6b:00.1 -a 0000:6b:00.2 -- "
	for name, want := range map[string]string{
		"sample":        "QAT0=0000:6b:00.1\nQAT1=0000:6b:00.2\n",
		"crypto-perf":   filepath.Join(bin, "dpdk-test-crypto-perf") + eal + "--ptest throughput --devtype crypto_qat ",
		"compress-perf": filepath.Join(bin, "dpdk-test-compress-perf") + eal + "--driver-name compress_qat --input-file " + bin + "/dpdk-test-compress-perf ",
	} {
		t.Run(name, func(t *testing.T) {
			command := workload(t, name).Spec.Containers[0].Command
			cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
			cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "QAT0=0000:6b:00.1", "QAT1=0000:6b:00.2"}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), want) {
				t.Errorf("it says %q with error %v, want a beginning of %q", out, err, want)
			}
		})
	}
}
