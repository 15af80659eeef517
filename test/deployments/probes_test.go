package deployments

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A probe that gives up before the program has answered would take a plugin that says what is wrong for one that says nothing.
func TestProbesWaitLongerThanTheProgramTakesToAnswer(t *testing.T) {
	patience := checkPatience(t)
	for _, o := range overlays() {
		c := o.plugin(t).container(t)
		for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
			if timeout := time.Duration(probe.TimeoutSeconds) * time.Second; timeout <= patience {
				t.Errorf("%s: the %s probe waits %v, and an answer may take %v", o.name, name, timeout, patience)
			}
		}
	}
}

// The kernel keeps whoever asks of a device waiting while a VF is removed that a workload holds, for seconds and, with a workload that does
// not let go, longer. A restart would only wait, too.
func TestARestartTakesAPluginThatStandsStillForTwoMinutes(t *testing.T) {
	for _, o := range overlays() {
		c := o.plugin(t).container(t)
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe} {
			if got := time.Duration(probe.PeriodSeconds*probe.FailureThreshold) * time.Second; got < 2*time.Minute || probe.HTTPGet.Path != "/livez" {
				t.Errorf("%s: it is restarted after %v without an answer of %s", o.name, got, probe.HTTPGet.Path)
			}
		}
	}
}

// checkPatience reads the constant of that name from the program's source.
func checkPatience(t *testing.T) (patience time.Duration) {
	t.Helper()
	const source = "cmd/qat_plugin/health.go"
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(top, source), nil, parser.SkipObjectResolution)
	must(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "checkPatience" {
			return true
		}
		if product, ok := spec.Values[0].(*ast.BinaryExpr); ok { // 3 * time.Second
			if factor, ok := product.X.(*ast.BasicLit); ok {
				seconds, err := strconv.Atoi(factor.Value)
				must(t, err)
				patience = time.Duration(seconds) * time.Second
			}
		}
		return false
	})
	if patience <= 0 {
		t.Fatalf("%s has no checkPatience that can be read here", source)
	}
	return patience
}
