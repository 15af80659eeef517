// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInstallGuideCommands runs the commands of docs/install.md in their order. Before
// the last block, which removes the plugin, it runs those of docs/troubleshooting.md,
// which only read.
func TestInstallGuideCommands(t *testing.T) {
	skipIfMachineHasQAT(t)
	n := openNode(t)
	install := commandsIn(t, "install.md")
	if len(install) < 4 {
		t.Fatalf("docs/install.md has %d blocks of commands, want at least 4", len(install))
	}
	last := len(install) - 1
	n.cleanup(func() { kubectl(t, "delete", "namespace", "qat", "--ignore-not-found") })
	kubeconfig := os.Getenv("KUBECONFIG")
	for _, block := range install[:last] {
		runCommands(t, block, kubeconfig)
	}
	// The commands for troubleshooting use the current namespace of kubectl.
	inNamespace := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(inNamespace, []byte(readFile(t, kubeconfig)), 0o600))
	kubectl(t, "--kubeconfig", inNamespace, "config", "set-context", "--current", "--namespace=qat")
	for _, block := range commandsIn(t, "troubleshooting.md") {
		runCommands(t, block, inNamespace)
	}
	runCommands(t, install[last], kubeconfig)
	if out, _, err := tryKubectl("get", "namespace", "qat"); err == nil {
		t.Errorf("after the last command of the guide the namespace still exists:\n%s", out)
	}
}

// TestDRAGuideCommands runs the commands of docs/dra.md, in the namespace that docs/install.md
// creates.
func TestDRAGuideCommands(t *testing.T) {
	skipIfMachineHasQAT(t)
	n := openNode(t)
	n.t.Cleanup(n.deleteSlices)
	n.cleanup(func() {
		kubectl(t, "delete", "--ignore-not-found", "-k", deployment("qat_dra_driver"))
		kubectl(t, "delete", "namespace", "qat", "--ignore-not-found")
	})
	kubeconfig := os.Getenv("KUBECONFIG")
	namespace := commandsIn(t, "install.md")[0]
	for _, block := range append([]string{namespace}, commandsIn(t, "dra.md")...) {
		runCommands(t, block, kubeconfig)
	}
	p, err := n.pool() // no VFs of this machine
	if err != nil || len(p) > 0 {
		t.Errorf("the pool is %v, %v", p, err)
	}
}

// commandsIn returns the blocks of shell commands in a page, without that of the image:
// run.sh has built it, and the node sees the checkout read-only.
func commandsIn(t *testing.T, page string) (blocks []string) {
	t.Helper()
	for _, block := range blocksIn(readFile(t, projectFile("docs", page))) {
		if block != "make image" {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// blocksIn returns the blocks of shell commands in a text. Those in a list are indented.
func blocksIn(text string) (blocks []string) {
	for _, m := range shellBlock.FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, strings.TrimSpace(strings.ReplaceAll(m[2], "\n"+m[1], "\n")))
	}
	return blocks
}

var shellBlock = regexp.MustCompile("(?ms)^( *)```sh\n(.*?)^ *```$")

func runCommands(t *testing.T, commands, kubeconfig string) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir = projectFile()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s\nThe output is\n%s", err, commands, out)
	}
	t.Logf("%s\n\n%s", commands, out)
}
