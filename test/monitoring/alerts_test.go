// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"qatplugin/internal/status"
	"qatplugin/internal/testenv"
)

// rules returns the groups of rules.yaml. Prometheus' own check finds wrong fields, queries and
// templates.
func rules(t testing.TB) *rulefmt.RuleGroups {
	t.Helper()
	p := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation, p, slog.Default())
	for _, err := range errs {
		t.Error(err)
	}
	if len(errs) > 0 || len(groups.Groups) == 0 {
		t.Fatalf("%s has errors, or no groups", rulesFile)
	}
	return groups
}

// forEachAlert calls a function for each alert of rules.yaml. All rules must be alerts.
func forEachAlert(t testing.TB, groups *rulefmt.RuleGroups, f func(r *rulefmt.Rule)) {
	t.Helper()
	for i := range groups.Groups {
		for j := range groups.Groups[i].Rules {
			r := &groups.Groups[i].Rules[j]
			if r.Alert == "" {
				t.Fatalf("rule %s is no alert", r.Record)
			}
			f(r)
		}
	}
}

// promtool runs promtool in a directory, and returns its output and whether it succeeded.
func promtool(t testing.TB, dir string, args ...string) (output string, ok bool) {
	t.Helper()
	program := os.Getenv("PROMTOOL")
	if program == "" {
		var err error
		if program, err = exec.LookPath("promtool"); err != nil {
			testenv.Skip(t, "promtool not found: install Debian's package prometheus, or run test/run.sh deployments")
		}
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func TestPromtoolAcceptsRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", testsFile}} {
		if out, ok := promtool(t, ".", args...); !ok {
			t.Errorf("promtool %s:\n%s", strings.Join(args, " "), out)
		}
	}
}

// A ruleTests is the part of a file of promtool that TestEachAlertHasTests reads.
type ruleTests struct {
	Tests []struct {
		Name   string
		Alerts []struct {
			Alert    string `yaml:"alertname"`
			Expected []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func TestEachAlertHasTests(t *testing.T) {
	var file ruleTests
	must(t, yaml.Unmarshal([]byte(readFile(t, testsFile)), &file))
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, a := range test.Alerts {
			if len(a.Expected) > 0 {
				fires[a.Alert] = true
			} else {
				quiet[a.Alert] = true
			}
		}
	}
	forEachAlert(t, rules(t), func(r *rulefmt.Rule) {
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s needs a test in which it fires, and one in which it does not", r.Alert)
		}
	})
}

// failed matches the line of promtool that names the alert of a failed test.
var failed = regexp.MustCompile(`(?m)^ *alertname: *(\w+), time:`)

// TestRuleTestsDetectChanges changes all alerts at once in one respect, and checks that promtool
// then reports a failure of each.
func TestRuleTestsDetectChanges(t *testing.T) {
	for _, change := range []struct {
		name string
		// apply changes an alert, and reports whether there was something to change.
		apply func(t *testing.T, r *rulefmt.Rule) bool
	}{
		{"never fires", func(_ *testing.T, r *rulefmt.Rule) bool {
			r.Expr = "vector(0) > 1"
			return true
		}},
		{"always fires", func(t *testing.T, r *rulefmt.Rule) bool { return alwaysTrue(t, r) }},
		{"fires a minute later", func(_ *testing.T, r *rulefmt.Rule) bool {
			had := r.For > 0
			r.For += model.Duration(time.Minute)
			return had
		}},
		{"fires a minute earlier", func(_ *testing.T, r *rulefmt.Rule) bool {
			had := r.For > 0
			r.For -= min(r.For, model.Duration(time.Minute))
			return had
		}},
	} {
		t.Run(change.name, func(t *testing.T) {
			t.Parallel()
			groups := rules(t)
			var want []string
			forEachAlert(t, groups, func(r *rulefmt.Rule) {
				if change.apply(t, r) {
					want = append(want, r.Alert)
				}
			})
			dir := t.TempDir()
			text, err := yaml.Marshal(groups)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "rules.yaml"), text, 0o600))
			tests := strings.ReplaceAll(readFile(t, testsFile), "../../deployments/monitoring/", "")
			must(t, os.WriteFile(filepath.Join(dir, testsFile), []byte(tests), 0o600))
			out, ok := promtool(t, dir, "test", "rules", testsFile)
			if ok || len(want) == 0 {
				t.Fatalf("promtool reports no failure:\n%s", out)
			}
			var got []string
			for _, match := range failed.FindAllStringSubmatch(out, -1) {
				got = append(got, match[1])
			}
			for _, alert := range want {
				if !slices.Contains(got, alert) {
					t.Errorf("no test of %s fails if it %s", alert, change.name)
				}
			}
		})
	}
}

// alwaysTrue replaces the first comparison of an alert with a number by one that is true for any
// number that is not negative. It reports whether there is one.
func alwaysTrue(t *testing.T, r *rulefmt.Rule) bool {
	t.Helper()
	expr := parse(t, r.Expr)
	found := false
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		b, ok := node.(*parser.BinaryExpr)
		if !ok || found || !b.Op.IsComparisonOperator() {
			return nil
		}
		if limit, ok := b.RHS.(*parser.NumberLiteral); ok {
			b.Op, limit.Val, found = parser.GTE, -1, true
		}
		return nil
	})
	r.Expr = expr.String()
	return found
}

func parse(t testing.TB, query string) parser.Expr {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Fatalf("%v in %s", err, query)
	}
	return expr
}

func TestAlertsHaveLabelsAndAnnotations(t *testing.T) {
	text := readFile(t, page)
	forEachAlert(t, rules(t), func(r *rulefmt.Rule) {
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || len(r.Labels) != 1 {
			t.Errorf("%s has the labels %v", r.Alert, r.Labels)
		}
		for _, name := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[name], ".") {
				t.Errorf("%s: the %s %q is no sentence", r.Alert, name, r.Annotations[name])
			}
		}
		if want := "docs/monitoring.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if !strings.Contains(text, "\n### "+r.Alert+"\n") {
			t.Errorf("%s has no section %s", page, r.Alert)
		}
		after := ""
		if r.For > 0 {
			after = r.For.String()
		}
		row := fmt.Sprintf("| [%s](#%s) | %s | %s | %s |", r.Alert, strings.ToLower(r.Alert),
			r.Labels["severity"], after, r.Annotations["summary"])
		if row = strings.ReplaceAll(row, "|  |", "| |"); !strings.Contains(text, "\n"+row+"\n") {
			t.Errorf("the table in %s lacks the row\n%s", page, row)
		}
	})
}

func TestPageDescribesOnlyAlerts(t *testing.T) {
	known := map[string]bool{}
	forEachAlert(t, rules(t), func(r *rulefmt.Rule) { known[r.Alert] = true })
	for _, match := range regexp.MustCompile(`(?m)^### (QAT\w+)$`).FindAllStringSubmatch(readFile(t, page), -1) {
		if !known[match[1]] {
			t.Errorf("%s describes %s, which is not in %s", page, match[1], rulesFile)
		}
	}
}

// TestSkipReasonsAreAlertedOrKnown: a new class of reasons must be added to QATVFsSkipped, or here.
func TestSkipReasonsAreAlertedOrKnown(t *testing.T) {
	noError := []string{ // a setting of the plugin, or it passes by
		status.ClassFamily, status.ClassWithdrawn, status.ClassNotBound, status.ClassOtherDriver,
		status.ClassGroupShared, status.ClassLimit,
	}
	var alert *rulefmt.Rule
	forEachAlert(t, rules(t), func(r *rulefmt.Rule) {
		if r.Alert == "QATVFsSkipped" {
			alert = r
		}
	})
	selectors := selectorsIn(parse(t, alert.Expr))
	if len(selectors) != 1 {
		t.Fatalf("%d selectors in %s", len(selectors), alert.Expr)
	}
	for _, m := range selectors[0].LabelMatchers {
		if m.Name != "reason" {
			continue
		}
		for _, class := range status.SkipClasses {
			if m.Matches(class) == slices.Contains(noError, class) {
				t.Errorf("reason %s: alerted %t", class, m.Matches(class))
			}
		}
		return
	}
	t.Errorf("no matcher of the reason in %s", alert.Expr)
}

// selectorsIn returns the selectors of an expression.
func selectorsIn(expr parser.Expr) (list []*parser.VectorSelector) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			list = append(list, s)
		}
		return nil
	})
	return list
}
