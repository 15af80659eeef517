package deployments

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeFeatureRule is what the rules use of nfd.k8s-sigs.io/v1alpha1, and no more: strict decoding finds the rest.
type nodeFeatureRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Rules []labelRule `json:"rules"`
	} `json:"spec"`
}

type labelRule struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels"`
	MatchFeatures []struct {
		Feature          string                     `json:"feature"`
		MatchExpressions map[string]matchExpression `json:"matchExpressions"`
	} `json:"matchFeatures"`
}

type matchExpression struct {
	Op    string   `json:"op"`
	Value []string `json:"value"`
}

const labelPrefix = "intel.feature.node.kubernetes.io/"

// A rule as it should be: its labels and its device IDs.
type rule struct {
	Name    string
	Labels  []string
	Vendor  []string
	Devices []string
}

func TestTheRulesNameTheDevicesThatThePluginKnows(t *testing.T) {
	var got []rule
	for _, r := range rules(t) {
		if len(r.MatchFeatures) != 1 || r.MatchFeatures[0].Feature != "pci.device" {
			t.Fatalf("%s matches more than PCI devices", r.Name)
		}
		flat := rule{Name: r.Name}
		for label, value := range r.Labels {
			flat.Labels = append(flat.Labels, label+"="+value)
		}
		slices.Sort(flat.Labels)
		for name, expression := range r.MatchFeatures[0].MatchExpressions {
			switch {
			case expression.Op != "In":
				t.Fatalf("%s compares %s by %s", r.Name, name, expression.Op)
			case name == "vendor":
				flat.Vendor = expression.Value
			case name == "device":
				flat.Devices = slices.Sorted(slices.Values(expression.Value))
			default:
				t.Fatalf("%s also asks for the %s", r.Name, name)
			}
		}
		got = append(got, flat)
	}
	var want []rule
	for _, f := range families(t) {
		name := strings.ToLower(f.name)
		i := slices.IndexFunc(want, func(r rule) bool { return r.Name == "intel.qat."+name })
		if i < 0 {
			i = len(want)
			want = append(want, rule{
				Name: "intel.qat." + name, Labels: []string{labelPrefix + "qat-" + name + "=true", labelPrefix + "qat=true"}, Vendor: []string{"8086"},
			})
		}
		want[i].Devices = append(want[i].Devices, f.pf, f.vf)
		slices.Sort(want[i].Devices)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-families of package qat +deployments/nfd):\n%s", diff)
	}
}

// The overlay's selector is a label that every rule gives.
func TestTheNodeSelectorIsALabelOfTheRules(t *testing.T) {
	plain, selected := overlays()[0].plugin(t).pod().NodeSelector, map[string]string{}
	for _, o := range overlays() {
		if o.name == "nfd" {
			selected = o.plugin(t).pod().NodeSelector
		}
	}
	for label, value := range plain {
		if selected[label] != value {
			t.Errorf("the overlay lost the base's %s: %s", label, value)
		}
		delete(selected, label)
	}
	if len(selected) != 1 {
		t.Fatalf("the overlay selects by %v, want one label more than the base", selected)
	}
	for label, value := range selected {
		for _, r := range rules(t) {
			if r.Labels[label] != value {
				t.Errorf("the rule %s does not give %s: %s", r.Name, label, value)
			}
		}
	}
}

func rules(t testing.TB) []labelRule {
	t.Helper()
	s := decode(t, kustomize(t, filepath.Join(manifests, "nfd")))
	if len(s.rules) != 1 {
		t.Fatalf("there are %d NodeFeatureRules, want 1", len(s.rules))
	}
	return s.rules[0].Spec.Rules
}

// A family is one row of the table in qat/family.go, with its device IDs as sysfs shows them, without 0x.
type family struct{ name, pf, vf string }

// families reads the table from the source: package qat keeps it to itself.
func families(t testing.TB) (list []family) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(top, "qat/family.go"), nil, parser.SkipObjectResolution)
	must(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		row, ok := n.(*ast.CompositeLit)
		if !ok || row.Type != nil {
			return true
		}
		fields := map[string]string{}
		for _, element := range row.Elts {
			pair, ok := element.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			if value, ok := pair.Value.(*ast.BasicLit); ok {
				fields[fmt.Sprint(pair.Key)] = value.Value
			}
		}
		name, err := strconv.Unquote(fields["Name"])
		must(t, err)
		f := family{name: name}
		for key, id := range map[string]*string{"PF": &f.pf, "VF": &f.vf} {
			number, err := strconv.ParseUint(fields[key], 0, 16)
			must(t, err)
			*id = fmt.Sprintf("%04x", number)
		}
		list = append(list, f)
		return false
	})
	if len(list) < 10 {
		t.Fatalf("qat/family.go has %d families that can be read here: %v", len(list), list)
	}
	return list
}
