package cluster

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// try runs kubectl. What it says on standard error are warnings, or why it failed.
func try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command("kubectl", args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	return out.String(), complaints.String(), err
}

// kubectl runs kubectl, which must succeed.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, complaints, err := try(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, complaints)
	}
	return out
}

// report shows what there is to see of a test that failed. The logs of all programs and pods lie in the directory that it names.
func (n *node) report() {
	for _, args := range [][]string{
		{"get", "nodes,daemonsets,pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"describe", "pods", "-A"},
	} {
		out, complaints, _ := try(n.t, args...)
		n.t.Logf("kubectl %s:\n%s%s", strings.Join(args, " "), out, complaints)
	}
	logs := os.Getenv("CLUSTER_LOGS")
	files, _ := filepath.Glob(filepath.Join(logs, "pods/*/*/*.log"))
	for _, file := range append(files, filepath.Join(logs, "kubelet.log")) {
		n.t.Logf("the end of %s:\n%s", file, tail(file, 40))
	}
}

// tail is the end of a text file.
func tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
