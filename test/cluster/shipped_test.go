package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/testenv"
)

// Everything of the base is as shipped here, the paths on the host too: the plugin looks at this machine's sysfs, and hears this machine's kernel
// from a pod that has a network namespace of its own.
func TestTheBaseAsShippedHearsTheKernel(t *testing.T) {
	leaveQATAlone(t)
	n := openNode(t)
	began := time.Now()
	in := n.install("qat_plugin", nil)
	pod := in.ready()
	t.Logf("ready after %.1f s, with this machine's /sys and the kernel's answer to the event that the plugin asked for", time.Since(began).Seconds())
	wantReadyz(t, n.readyz(pod))
	theirs, err := os.Readlink("/proc/" + pid(n.process(pod)) + "/ns/net")
	must(t, err)
	own, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	if theirs == own {
		t.Errorf("the pod is in the network namespace of the node, %s: that is no proof", own)
	}
}

// leaveQATAlone skips a test that would install the plugin on a machine whose VFs it would bind.
func leaveQATAlone(t *testing.T) {
	t.Helper()
	classes, err := filepath.Glob("/sys/bus/pci/devices/*/class")
	must(t, err)
	for _, file := range classes {
		class, err := os.ReadFile(file)
		must(t, err)
		vendor, err := os.ReadFile(filepath.Join(filepath.Dir(file), "vendor"))
		must(t, err)
		if strings.HasPrefix(string(class), "0x0b40") && strings.TrimSpace(string(vendor)) == "0x8086" {
			testenv.Skip(t, "this machine has a QAT device, "+filepath.Base(filepath.Dir(file))+", and the plugin would bind its VFs")
		}
	}
}
