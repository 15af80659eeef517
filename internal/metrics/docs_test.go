// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"qatplugin/internal/status"
)

// documented is a row of docs/metrics.md.
type documented struct{ Type, Labels, Unit, Help string }

// readPage returns the rows of docs/metrics.md by name of the metric.
func readPage(t *testing.T) map[string]documented {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "metrics.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := map[string]documented{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !strings.HasPrefix(line, "| `qat_") {
			continue
		}
		if len(cells) != 6 || cells[4] == "" {
			t.Errorf("row %q: want 6 columns, and the number of series", line)
			continue
		}
		labels := strings.ReplaceAll(cells[2], "`", "")
		page[strings.Trim(cells[0], "`")] = documented{cells[1], labels, cells[3], cells[5]}
	}
	return page
}

// unitOf returns the unit that the name of a metric states.
func unitOf(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for suffix, unit := range map[string]string{
		"_seconds": "seconds", "_bytes": "bytes", "_bytes_per_second": "bytes per second", "_ratio": "ratio",
	} {
		if strings.HasSuffix(name, suffix) && (unit != "seconds" || !strings.HasSuffix(name, "_per_second")) {
			return unit
		}
	}
	return ""
}

// addServed adds what a program serves.
func addServed(t *testing.T, served map[string]documented, b *base, source status.Source) {
	t.Helper()
	state := prometheus.NewRegistry()
	state.MustRegister(&collector{source: source, namespace: namespace})
	families, err := prometheus.Gatherers{b.registry, state}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "qat_") {
			continue
		}
		labels := map[string]bool{}
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		served[f.GetName()] = documented{
			Type:   strings.ToLower(f.GetType().String()),
			Labels: strings.Join(slices.Sorted(maps.Keys(labels)), ", "),
			Unit:   unitOf(f.GetName()),
			Help:   f.GetHelp(),
		}
	}
}

// TestPageListsAllMetrics compares docs/metrics.md with what the registries of both programs gather
// from sources in which nothing is missing.
func TestPageListsAllMetrics(t *testing.T) {
	m, dra := newMetrics(), NewDRA(Config{Namespace: namespace})
	exercise(t, m)
	got := map[string]documented{}
	addServed(t, got, &m.base, fullSource())
	addServed(t, got, &dra.base, draSource())
	if diff := cmp.Diff(got, readPage(t)); diff != "" {
		t.Errorf("docs/metrics.md (-registry +page):\n%s", diff)
	}
}
