package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// docs/install.md says that these commands are run, one after the other, and so they are: from a checkout, with nothing of the plugin installed.
// Those of docs/troubleshooting.md, which only look, are run before the last block, that removes the plugin.
func TestTheCommandsOfTheInstallGuideWork(t *testing.T) {
	leaveQATAlone(t)
	n := openNode(t)
	install := commands(t, "install.md")
	if len(install) < 4 {
		t.Fatalf("docs/install.md has %d blocks of commands, want at least 4", len(install))
	}
	last := len(install) - 1
	n.cleanup(func() { kubectl(t, "delete", "namespace", "qat", "--ignore-not-found") })
	for _, block := range install[:last] {
		runBlock(t, block, os.Getenv("KUBECONFIG"))
	}
	// Theirs are for the namespace that kubectl uses.
	own := filepath.Join(t.TempDir(), "kubeconfig")
	text, err := os.ReadFile(os.Getenv("KUBECONFIG"))
	must(t, err)
	must(t, os.WriteFile(own, text, 0o600))
	kubectl(t, "--kubeconfig", own, "config", "set-context", "--current", "--namespace=qat")
	for _, block := range commands(t, "troubleshooting.md") {
		runBlock(t, block, own)
	}
	runBlock(t, install[last], os.Getenv("KUBECONFIG"))
	if out, _, err := try(t, "get", "namespace", "qat"); err == nil {
		t.Errorf("after the guide's last command the namespace is still there:\n%s", out)
	}
}

// commands are the blocks of shell commands without a prompt of a page. That of the image is left out: run.sh has run it, and here the checkout
// cannot be written to.
func commands(t *testing.T, page string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(os.Getenv("CLUSTER_TOP"), "docs", page))
	must(t, err)
	for _, part := range strings.Split(string(text), "\n```sh\n")[1:] {
		block, _, closed := strings.Cut(part, "\n```\n")
		if !closed {
			t.Fatalf("docs/%s: a block does not end: %s", page, part)
		}
		if block != "make image" {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

func runBlock(t *testing.T, block, kubeconfig string) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", block)
	cmd.Dir = os.Getenv("CLUSTER_TOP")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v, of the commands\n%s\nwhich said\n%s", err, block, out)
	}
	t.Logf("%s\n\n%s", block, out)
}
