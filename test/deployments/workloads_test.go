// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func workload(t testing.TB, name string) *corev1.Pod {
	t.Helper()
	got := decode(t, kustomize(t, filepath.Join(manifests, others[name])))
	if len(got.pods) != 1 || len(got.pods[0].Spec.Containers) != 1 {
		t.Fatalf("%s is not one pod with one container", name)
	}
	return &got.pods[0]
}

// TestWorkloads checks what the pods request: one VF each, and for those that use VFIO
// the capability to lock memory.
func TestWorkloads(t *testing.T) {
	const lock = ` capabilities (CONTAINER must not include "IPC_LOCK" in securityContext.capabilities.add)`
	vfio := violations{
		Baseline:   []string{"non-default" + lock},
		Restricted: []string{"unrestricted" + lock, nonRoot, user0},
	}
	for name, want := range map[string]struct {
		pod, resource string
		violations    violations
	}{
		"sample":        {"qat-sample", "qat.intel.com/cy", violations{}},
		"crypto-perf":   {"qat-dpdk-test-crypto-perf", "qat.intel.com/cy", vfio},
		"compress-perf": {"qat-dpdk-test-compress-perf", "qat.intel.com/dc", vfio},
		"qatlib":        {"qat-qatlib-sample", "qat.intel.com/cy", vfio},
	} {
		t.Run(name, func(t *testing.T) {
			pod := workload(t, name)
			limits := pod.Spec.Containers[0].Resources.Limits
			if count := limits[corev1.ResourceName(want.resource)]; pod.Name != want.pod || count.Value() != 1 {
				t.Errorf("pod %s has limits %v, want pod %s with one %s", pod.Name, limits, want.pod, want.resource)
			}
			if diff := cmp.Diff(want.violations, violationsOf(t, &pod.Spec)); diff != "" {
				t.Errorf("Pod Security violations (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWorkloadsUseTheirVFs runs the pods' commands in a real shell, with stand-ins for
// the programs of DPDK and qatlib.
func TestWorkloadsUseTheirVFs(t *testing.T) {
	bin := t.TempDir()
	for name, script := range map[string]string{
		"dpdk-test-crypto-perf":   `echo "$0 $*"`,
		"dpdk-test-compress-perf": `echo "$0 $*"`,
		"cpa_sample_code":         `echo "$0 $* QAT_POLICY=$QAT_POLICY"`,
		"sleep":                   "",
	} {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	}
	status := readFile(t, "/proc/self/status")
	cores := regexp.MustCompile(`Cpus_allowed_list:\s*(\S+)`).FindStringSubmatch(status)[1]
	eal := " --no-telemetry -l " + cores + " -a 0000:6b:00.1 -a 0000:6b:00.2 -- "
	crypto, compress := filepath.Join(bin, "dpdk-test-crypto-perf"), filepath.Join(bin, "dpdk-test-compress-perf")
	for name, want := range map[string]string{ // how the output starts
		"sample":        "QAT0=0000:6b:00.1\nQAT1=0000:6b:00.2\n",
		"qatlib":        filepath.Join(bin, "cpa_sample_code") + " signOfLife=1 runTests=31 QAT_POLICY=2\n",
		"crypto-perf":   crypto + eal + "--ptest throughput --devtype crypto_qat ",
		"compress-perf": compress + eal + "--driver-name compress_qat --input-file " + compress + " ",
	} {
		t.Run(name, func(t *testing.T) {
			command := workload(t, name).Spec.Containers[0].Command
			cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
			cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "QAT0=0000:6b:00.1", "QAT1=0000:6b:00.2"}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), want) {
				t.Errorf("output %q (%v), want one that starts with %q", out, err, want)
			}
		})
	}
}
