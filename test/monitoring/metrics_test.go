// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"qatplugin/devtree"
	"qatplugin/internal/metrics"
	"qatplugin/internal/status"
)

// A series is the labels of a time series, by name.
type series map[string]string

// targetLabels are those that Prometheus adds to each series of the plugin.
var targetLabels = series{
	"job":       "intel-qat-plugin",
	"namespace": "qat",
	"node":      "node1",
	"pod":       "intel-qat-plugin-abcde",
	"container": "intel-qat-plugin",
	"instance":  "10.0.0.1:8080",
}

// knownSeries returns what Prometheus knows while it scrapes the plugin: the plugin's metrics, and
// those of Prometheus and kube-state-metrics that the queries use, by name.
func knownSeries(t *testing.T) map[string][]series {
	t.Helper()
	known := map[string][]series{
		"up":                      {targetLabels},
		"scrape_duration_seconds": {targetLabels},
		"ALERTS":                  {{"alertname": "QATPFDown", "alertstate": "firing", "node": "node1"}},
		"kube_daemonset_status_number_unavailable": {
			{"namespace": "qat", "daemonset": "intel-qat-plugin"},
		},
	}
	for name, family := range gather(t) {
		for _, m := range family.Metric {
			labels := maps.Clone(targetLabels)
			for _, pair := range m.Label {
				if _, clash := targetLabels[pair.GetName()]; clash {
					t.Errorf("%s has the label %s, which Prometheus would rename", name, pair.GetName())
				}
				labels[pair.GetName()] = pair.GetValue()
			}
			if family.GetType() != dto.MetricType_HISTOGRAM {
				known[name] = append(known[name], labels)
				continue
			}
			for _, part := range []string{"_count", "_sum"} {
				known[name+part] = append(known[name+part], labels)
			}
			bucket := maps.Clone(labels)
			bucket["le"] = "+Inf"
			known[name+"_bucket"] = append(known[name+"_bucket"], bucket)
		}
	}
	return known
}

// gather returns the metrics of a plugin and a DRA driver that have everything.
func gather(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	const resource = "qat.intel.com/cy"
	m := metrics.New(metrics.Config{Namespace: "qat.intel.com", Version: "v1.2.3"})
	m.StreamOpened(resource)
	b := new(devtree.Tree).Edit()
	must(t, b.Put("cy", &devtree.Device{ID: "0000:6b:00.1", Health: devtree.Healthy}))
	tree := b.Build()
	m.Publishing(new(devtree.Tree), tree, time.Now())
	m.ListSent(resource, tree.Resource("cy"), 1, 100)
	m.Allocated(resource, []string{"0000:6b:00.1"}, nil)
	m.Allocated(resource, []string{"0000:6b:00.2"}, errors.New("unknown device"))
	m.Registered(resource, nil)
	m.Registered(resource, errors.New("refused"))

	families := scrape(t, m.Handler(fullSource{}))
	dra := metrics.NewDRA(metrics.Config{Namespace: "qat.intel.com", Version: "v1.2.3"})
	maps.Copy(families, scrape(t, dra.Handler(fullSource{})))
	return families
}

// scrape returns the metrics that h serves.
func scrape(t *testing.T, h http.Handler) map[string]*dto.MetricFamily {
	t.Helper()
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("/metrics: status %d\n%s", answer.Code, answer.Body)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(answer.Body)
	must(t, err)
	return families
}

// A fullSource is a plugin that has everything for which there is a metric.
type fullSource struct{}

func (fullSource) Journal() *status.Journal                        { return nil }
func (fullSource) WriteRecording(context.Context, io.Writer) error { return nil }

func (fullSource) Telemetry(context.Context) []status.Telemetry {
	errorsBySeverity := map[string]uint64{"correctable": 1, "nonfatal": 1, "fatal": 1}
	return []status.Telemetry{{
		Address: "0000:6b:00.0",
		Device: &status.DeviceTelemetry{
			Samples:     1,
			Utilization: map[string]float64{"cpr": 50},
			ReadLatency: 1e-6,
		},
		Firmware:       []status.EngineCounters{{Engine: "0", Requests: 1, Responses: 1}},
		CompressErrors: map[string]uint64{"0": 1},
		RAS:            errorsBySeverity,
		AER:            errorsBySeverity,
	}}
}

func (fullSource) Snapshot(context.Context) *status.Snapshot {
	s := &status.Snapshot{
		Mode:   "dpdk",
		Checks: []status.Check{{Name: "event-loop"}, {Name: "kernel-heard"}, {Name: "registered"}},
		Loops:  []status.Loop{{Name: "devices"}, {Name: "provisioning"}},
		Resources: []status.Resource{{
			Name: "qat.intel.com/cy", Phase: status.PhaseWatching, LastList: new(time.Time),
		}},
		PFs: []status.PF{{
			Address: "0000:6b:00.0", State: "up", Health: status.Healthy, VFs: 2, TotalVFs: 16,
			Heartbeat: status.Heartbeat{Last: "good", Good: 1},
		}},
		DRA:          &status.DRA{},
		Provisioning: &status.Provisioning{PFs: []status.ProvisionedPF{{State: status.ProvisioningDone}}},
		Counters: status.Counters{
			Uevents: map[string]map[string]uint64{"add": {"pci": 1}},
			Loops:   map[string]status.LoopCounters{"devices": {}, "provisioning": {}},
			Binds:   map[string]uint64{},
		},
	}
	for _, state := range []string{status.StateListed, status.StateUnhealthy, status.StateSkipped} {
		s.VFs = append(s.VFs, status.VF{PF: "0000:6b:00.0", State: state, Resource: "cy", Class: status.ClassLimit})
	}
	for _, result := range status.BindResults {
		s.Counters.Binds[result] = 1
	}
	return s
}

// A query is a PromQL expression in one of the files.
type query struct {
	where string // for messages
	text  string
	used  []string // labels of the result that a template uses
}

var (
	alertTemplate  = regexp.MustCompile(`\$labels\.(\w+)`)
	legendTemplate = regexp.MustCompile(`\{\{ *(\w+) *\}\}`)
	promqlBlock    = regexp.MustCompile("(?ms)^ *```promql\n(.*?)^ *```")
	metricName     = regexp.MustCompile(`\bqat_(plugin|device)_\w+`)
)

// labelsIn returns what the first group of a pattern matches.
func labelsIn(pattern *regexp.Regexp, text string) (labels []string) {
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		labels = append(labels, match[1])
	}
	return labels
}

// queries returns those of the alert rules, of the dashboard and of docs/monitoring.md.
func queries(t *testing.T) (list []query) {
	t.Helper()
	forEachAlert(t, rules(t), func(r *rulefmt.Rule) {
		text := r.Annotations["summary"] + r.Annotations["description"]
		list = append(list, query{r.Alert, r.Expr, labelsIn(alertTemplate, text)})
	})
	list = append(list, dashboardQueries(t)...)
	for _, match := range promqlBlock.FindAllStringSubmatch(readFile(t, page), -1) {
		list = append(list, query{where: page, text: match[1]})
	}
	return list
}

// TestQueriesUseKnownMetrics checks that each selector of a query matches a series, and that each
// label by which it groups, or which a template shows, is one of these series.
func TestQueriesUseKnownMetrics(t *testing.T) {
	known := knownSeries(t)
	for _, q := range queries(t) {
		expr := parse(t, q.text)
		grouped := map[string]bool{}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.VectorSelector:
				if !matchesSeries(known[n.Name], n) {
					t.Errorf("%s: no series matches %s; %s has %v", q.where, n, n.Name, known[n.Name])
				}
			case *parser.AggregateExpr:
				checkLabels(t, q, n.Expr, known, n.Grouping)
				for _, label := range n.Grouping {
					grouped[label] = true
				}
			case *parser.BinaryExpr:
				if n.VectorMatching != nil {
					checkLabels(t, q, n.LHS, known, n.VectorMatching.MatchingLabels)
					checkLabels(t, q, n.RHS, known, n.VectorMatching.MatchingLabels)
				}
			}
			return nil
		})
		for _, label := range q.used {
			if !grouped[label] {
				t.Errorf("%s: a template uses the label %s, which the query lacks: %s", q.where, label, q.text)
			}
		}
	}
}

// matchesSeries reports whether a selector matches one of the series, which must have all of its
// labels.
func matchesSeries(known []series, s *parser.VectorSelector) bool {
	return slices.ContainsFunc(known, func(labels series) bool {
		for _, m := range s.LabelMatchers {
			value, ok := labels[m.Name]
			if m.Name == model.MetricNameLabel {
				continue
			}
			if !ok || !m.Matches(value) {
				return false
			}
		}
		return true
	})
}

// checkLabels checks that a series in an expression has all of the labels.
func checkLabels(t *testing.T, q query, expr parser.Expr, known map[string][]series, labels []string) {
	t.Helper()
	for _, label := range labels {
		has := func(s *parser.VectorSelector) bool {
			return slices.ContainsFunc(known[s.Name], func(labels series) bool { _, ok := labels[label]; return ok })
		}
		if !slices.ContainsFunc(selectorsIn(expr), has) {
			t.Errorf("%s: no series in %s has the label %s", q.where, expr, label)
		}
	}
}

// TestEachMetricIsShown: an operator sees each metric of the plugin in the dashboard, or an alert
// watches it.
func TestEachMetricIsShown(t *testing.T) {
	shown := map[string]bool{}
	for _, q := range queries(t) {
		for _, s := range selectorsIn(parse(t, q.text)) {
			shown[s.Name] = true
		}
	}
	for name := range gather(t) {
		if strings.HasPrefix(name, "qat_") && !shown[name] && !shown[name+"_bucket"] {
			t.Errorf("%s is in no query", name)
		}
	}
}

func TestPageNamesKnownMetrics(t *testing.T) {
	known := knownSeries(t)
	for _, name := range metricName.FindAllString(readFile(t, page), -1) {
		if known[name] == nil {
			t.Errorf("%s names %s, which does not exist", page, name)
		}
	}
}
