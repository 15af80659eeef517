// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeFeatureRule is the part of nfd.k8s-sigs.io/v1alpha1 that the rules use. decode
// rejects other fields.
type nodeFeatureRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Rules []rule `json:"rules"`
	} `json:"spec"`
}

type rule struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels"`
	MatchFeatures []matchFeature    `json:"matchFeatures"`
}

type matchFeature struct {
	Feature          string                     `json:"feature"`
	MatchExpressions map[string]matchExpression `json:"matchExpressions"`
}

type matchExpression struct {
	Op    string   `json:"op"`
	Value []string `json:"value"`
}

func rules(t testing.TB) []rule {
	t.Helper()
	got := decode(t, kustomize(t, filepath.Join(manifests, "nfd")))
	if len(got.rules) != 1 {
		t.Fatalf("%d NodeFeatureRules, want 1", len(got.rules))
	}
	return got.rules[0].Spec.Rules
}

func TestNodeFeatureRulesMatchFamilies(t *testing.T) {
	got := rules(t)
	for _, r := range got {
		for _, feature := range r.MatchFeatures {
			slices.Sort(feature.MatchExpressions["device"].Value)
		}
	}
	ids := map[string][]string{} // the device IDs of each family's PFs and VFs
	var names []string           // in the order of the table
	const row = `\{Name: "(\w+)", PF: 0x([0-9a-f]{4}), VF: 0x([0-9a-f]{4})`
	for _, match := range findInSource(t, "qat/internal/device/family.go", row, 10) {
		name := strings.ToLower(match[1])
		if ids[name] == nil {
			names = append(names, name)
		}
		ids[name] = append(ids[name], match[2:]...)
	}
	var want []rule
	for _, name := range names {
		slices.Sort(ids[name])
		const label = "intel.feature.node.kubernetes.io/qat"
		want = append(want, rule{
			Name:   "intel.qat." + name,
			Labels: map[string]string{label: "true", label + "-" + name: "true"},
			MatchFeatures: []matchFeature{{
				Feature: "pci.device",
				MatchExpressions: map[string]matchExpression{
					"vendor": {"In", []string{"8086"}},
					"device": {"In", ids[name]},
				},
			}},
		})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-families of the plugin +deployments/nfd):\n%s", diff)
	}
}

func TestNodeSelectorIsLabelOfEveryRule(t *testing.T) {
	base, selector := overlayNamed(t, "base").podSpec().NodeSelector, overlayNamed(t, "nfd").podSpec().NodeSelector
	want := maps.Clone(base)
	for label, value := range selector {
		if _, known := base[label]; known {
			continue
		}
		want[label] = value
		for _, r := range rules(t) {
			if r.Labels[label] != value {
				t.Errorf("rule %s does not set %s=%s", r.Name, label, value)
			}
		}
	}
	if diff := cmp.Diff(want, selector); diff != "" || len(want) != len(base)+1 {
		t.Errorf("the node selector is not that of the base and one label more (-want +got):\n%s", diff)
	}
}
