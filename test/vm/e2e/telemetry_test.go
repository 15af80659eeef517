// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// waitForControl waits until telemetry/control of the PF has a value.
func (p *pf) waitForControl(t *testing.T, want string) {
	t.Helper()
	file := p.debugfs("telemetry/control")
	poll(t, pollInterval, "telemetry/control to be "+want, func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.TrimSpace(string(text)) == want
	})
}

// Each time a PF goes up, its driver recreates telemetry/, with telemetry off.
func TestTelemetryIsOnWhilePluginRuns(t *testing.T) {
	n := newNode(t, "npf=1")
	a := n.pfs[0]
	if _, err := os.ReadFile(a.debugfs("telemetry/device_data")); !errors.Is(err, unix.EPERM) {
		t.Errorf("reading device_data while telemetry is off: %v, want EPERM", err)
	}
	n.startPlugin(t, "-telemetry")
	a.waitForControl(t, "1")
	a.enableVFs(t) // takes the PF down and up
	a.waitForControl(t, "1")
	write(t, a.path("qat/state"), "down")
	write(t, a.path("qat/state"), "up")
	a.waitForControl(t, "1")
	n.stopPlugin(t, n.plugin)
	if got := read(t, a.debugfs("telemetry/control")); got != "0" {
		t.Errorf("telemetry/control is %q after the plugin ended, want 0", got)
	}
}
