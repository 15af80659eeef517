// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/testenv"
)

// TestBaseReceivesUevents applies the base with nothing replaced, not even paths on the
// host. The plugin reads this machine's sysfs and receives this machine's uevents, in a
// pod with a network namespace of its own.
func TestBaseReceivesUevents(t *testing.T) {
	skipIfMachineHasQAT(t)
	n := openNode(t)
	began := time.Now()
	in := n.install("qat_plugin", nil)
	pod := in.awaitReady()
	t.Logf("ready after %.1f s", time.Since(began).Seconds())
	n.checkReadyz(pod) // kernel-heard: the plugin received the uevent that it requested
	pods, err := os.Readlink(procFile(n.process(pod), "ns/net"))
	must(t, err)
	nodes, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	if pods == nodes {
		t.Errorf("the pod has the network namespace of the node, %s", nodes)
	}
}

// skipIfMachineHasQAT skips a test that would install the plugin on a machine whose VFs
// it would bind.
func skipIfMachineHasQAT(t *testing.T) {
	t.Helper()
	classes, err := filepath.Glob("/sys/bus/pci/devices/*/class")
	must(t, err)
	for _, file := range classes {
		dir := filepath.Dir(file)
		class, vendor := readFile(t, file), readFile(t, dir, "vendor")
		if strings.HasPrefix(class, "0x0b40") && strings.TrimSpace(vendor) == "0x8086" {
			testenv.Skip(t, "the plugin would bind the VFs of this machine's QAT device "+filepath.Base(dir))
		}
	}
}
