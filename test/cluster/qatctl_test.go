// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"strings"
	"testing"
)

// The image has no shell: kubectl exec runs qatctl itself, which asks the plugin through the socket
// in its pod.
func TestQatctlAsksThePluginInItsPod(t *testing.T) {
	in, h := installOnHost(t)
	qatctl := func(args ...string) string {
		t.Helper()
		exec := []string{"exec", "-n", pluginNamespace, "daemonset/" + in.set, "--", "qatctl"}
		return kubectl(t, append(exec, args...)...)
	}
	got := strings.Fields(qatctl("list", "--state", "listed", "-o", "name"))
	if want := h.VFs(cyPF); !slices.Equal(got, want) {
		t.Errorf("qatctl list: %q, want the VFs of the host, %q", got, want)
	}
	vf := h.VFs(cyPF)[0]
	if text := qatctl("describe", vf); !strings.Contains(text, "VF "+vf) || !strings.Contains(text, cyPF) {
		t.Errorf("qatctl describe %s:\n%s", vf, text)
	}
	if text := qatctl("record"); !strings.HasPrefix(text, `{"type":"header"`) {
		t.Errorf("qatctl record: %.200s", text)
	}
}
