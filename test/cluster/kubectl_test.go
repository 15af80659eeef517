// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tryKubectl runs kubectl. Its standard error holds warnings, or the error.
func tryKubectl(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command("kubectl", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// kubectl runs kubectl and returns its standard output. It fails the test if kubectl
// fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := tryKubectl(args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// report logs the state of the cluster after a failure. The directory CLUSTER_LOGS keeps
// the complete logs of all programs and pods.
func (n *node) report() {
	for _, args := range [][]string{
		{"get", "nodes,daemonsets,pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"describe", "pods", "-A"},
	} {
		stdout, stderr, _ := tryKubectl(args...)
		n.t.Logf("kubectl %s:\n%s%s", strings.Join(args, " "), stdout, stderr)
	}
	logs := os.Getenv("CLUSTER_LOGS")
	files, _ := filepath.Glob(filepath.Join(logs, "pods/*/*/*.log"))
	for _, file := range append(files, filepath.Join(logs, "kubelet.log")) {
		text, _ := os.ReadFile(file)
		lines := strings.SplitAfter(string(text), "\n")
		n.t.Logf("the last lines of %s:\n%s", file, strings.Join(lines[max(0, len(lines)-40):], ""))
	}
}
