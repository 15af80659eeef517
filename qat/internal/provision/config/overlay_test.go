// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"qatplugin/qat/internal/device"
)

// TestConfigurationOfOverlay parses the file of the component provisioning, and the rule in its
// comment, which has all keys.
func TestConfigurationOfOverlay(t *testing.T) {
	text, err := os.ReadFile("../../../../deployments/components/provisioning/qat-provisioning.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Data map[string]string }
	if err := yaml.Unmarshal(text, &overlay); err != nil {
		t.Fatal(err)
	}
	shipped := overlay.Data["qat.yaml"]
	d, _, ok := parse(t, shipped).Desired(PF{Address: address("0000:6b:00.0"), NUMANode: -1, Family: families[0x4940]})
	if diff := cmp.Diff(Desired{VFs: All}, d); diff != "" || !ok || len(overlay.Data) != 1 {
		t.Errorf("the only rule of %q (-want +got):\n%s", overlay.Data, diff)
	}

	_, rule, _ := strings.Cut(shipped, "#\n")
	rule, _, _ = strings.Cut(rule, "rules:\n")
	rule = regexp.MustCompile(`(?m)^# ?`).ReplaceAllString(rule, "")
	if _, err := parseYAML("qat.yaml", "rules:\n"+rule, device.DriverVFIO); err != nil {
		t.Errorf("%v in:\n%s", err, rule)
	}
	for _, key := range strings.Fields("name pfs numaNodes families services vfs autoReset pmIdle driver") {
		if !strings.Contains(rule, key+":") {
			t.Errorf("the comment does not show the key %s:\n%s", key, rule)
		}
	}
}
