// SPDX-License-Identifier: Apache-2.0

package monitoring

//lint:file-ignore SA1019 Grafana before version 12 reads only this schema of dashboards

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

const dashboardFile = top + "/deployments/monitoring/dashboard.json"

// loadDashboard decodes the dashboard with the types that Grafana generates from its schema. Fields
// that the schema does not have are errors.
func loadDashboard(t *testing.T) *dashboard.Dashboard {
	t.Helper()
	plugins.RegisterDefaultPlugins()
	text := []byte(readFile(t, dashboardFile))
	// The error has no message if there is none, and the result then lacks the panels.
	if err := new(dashboard.Dashboard).UnmarshalJSONStrict(text); err != nil && err.Error() != "" {
		t.Fatalf("%s:\n%v", dashboardFile, err)
	}
	d := &dashboard.Dashboard{}
	must(t, json.Unmarshal(text, d))
	return d
}

// replaceVariables replaces the variables of Grafana in a query.
var replaceVariables = strings.NewReplacer("$__rate_interval", "5m", "$__range", "3h", "$node", ".*", "$pf", ".*")

func dashboardQueries(t *testing.T) (list []query) {
	t.Helper()
	d := loadDashboard(t)
	for _, p := range panels(t, d) {
		for _, target := range p.Targets {
			q, ok := target.(*prometheus.Dataquery)
			if !ok {
				t.Fatalf("panel %s has a query of type %T", *p.Title, target)
			}
			legend := ""
			if q.LegendFormat != nil {
				legend = *q.LegendFormat
			}
			list = append(list, query{
				where: "panel " + *p.Title,
				text:  replaceVariables.Replace(q.Expr),
				used:  labelsIn(legendTemplate, legend),
			})
		}
	}
	for _, a := range d.Annotations.List {
		list = append(list, query{where: "annotation " + a.Name, text: replaceVariables.Replace(*a.Expr)})
	}
	for _, v := range d.Templating.List {
		if v.Query == nil || v.Query.Map == nil {
			continue
		}
		// label_values(SELECTOR, LABEL)
		text, ok := v.Query.Map["query"].(string)
		inner, isValues := strings.CutPrefix(strings.TrimSuffix(text, ")"), "label_values(")
		cut := strings.LastIndex(inner, ", ")
		if !ok || !isValues || cut < 0 {
			t.Fatalf("variable %s is no label_values(SELECTOR, LABEL): %v", v.Name, v.Query.Map)
		}
		list = append(list, query{
			where: "variable " + v.Name,
			text:  "group by (" + inner[cut+2:] + ") (" + replaceVariables.Replace(inner[:cut]) + ")",
		})
	}
	return list
}

// panels returns the panels without the rows.
func panels(t *testing.T, d *dashboard.Dashboard) (list []*dashboard.Panel) {
	t.Helper()
	for _, p := range d.Panels {
		if p.RowPanel != nil {
			if len(p.RowPanel.Panels) > 0 {
				t.Fatalf("row %s is collapsed", *p.RowPanel.Title)
			}
			continue
		}
		list = append(list, p.Panel)
	}
	return list
}

func TestDashboardMatchesSchema(t *testing.T) {
	d := loadDashboard(t)
	must(t, d.Validate())
	// What the types do not keep is unknown to Grafana, too.
	var want, got any
	must(t, json.Unmarshal([]byte(readFile(t, dashboardFile)), &want))
	text, err := json.Marshal(d)
	must(t, err)
	must(t, json.Unmarshal(text, &got))
	if missing := lost("", want, got); len(missing) > 0 {
		t.Errorf("fields that Grafana does not know:\n%s", strings.Join(missing, "\n"))
	}
}

// lost returns the paths of what is in want and not in got.
func lost(path string, want, got any) (missing []string) {
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		for key, value := range w {
			if list, ok := value.([]any); ok && len(list) == 0 {
				continue // omitted
			}
			missing = append(missing, lost(path+"."+key, value, g[key])...)
		}
	case []any:
		g, _ := got.([]any)
		for i, value := range w {
			if i >= len(g) {
				return append(missing, path)
			}
			missing = append(missing, lost(path, value, g[i])...)
		}
	default:
		if !cmp.Equal(want, got) {
			missing = append(missing, path)
		}
	}
	return missing
}

// TestPanelsAreComplete: each panel says what it shows, in which unit, and has a place of its own.
func TestPanelsAreComplete(t *testing.T) {
	d := loadDashboard(t)
	const columns = 24
	taken := map[[2]uint32]string{}
	ids, titles := map[uint32]bool{}, map[string]bool{}
	place := func(id *uint32, title *string, at *dashboard.GridPos) {
		if id == nil || ids[*id] || title == nil || *title == "" || titles[*title] || at == nil {
			t.Fatalf("panel %v %v at %v: the ID, the title or the position is missing, or not unique", id, title, at)
		}
		ids[*id], titles[*title] = true, true
		if at.X+at.W > columns {
			t.Errorf("panel %s ends in column %d", *title, at.X+at.W)
		}
		for x := range at.W {
			for y := range at.H {
				cell := [2]uint32{at.X + x, at.Y + y}
				if other := taken[cell]; other != "" {
					t.Fatalf("panels %s and %s overlap", other, *title)
				}
				taken[cell] = *title
			}
		}
	}
	for _, p := range d.Panels {
		if r := p.RowPanel; r != nil {
			place(&r.Id, r.Title, r.GridPos)
			continue
		}
		place(p.Panel.Id, p.Panel.Title, p.Panel.GridPos)
	}
	for _, p := range panels(t, d) {
		if p.Description == nil || !strings.HasSuffix(*p.Description, ".") {
			t.Errorf("panel %s has no description", *p.Title)
		}
		if p.FieldConfig == nil || p.FieldConfig.Defaults.Unit == nil {
			t.Errorf("panel %s has no unit", *p.Title)
		}
		source := p.Datasource
		if source == nil || source.Uid == nil || *source.Uid != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %s does not query the chosen data source", *p.Title)
		}
	}
}

func TestDashboardRows(t *testing.T) {
	d := loadDashboard(t)
	var got []string
	for _, p := range d.Panels {
		if p.RowPanel != nil {
			got = append(got, *p.RowPanel.Title)
		}
	}
	want := []string{
		"What is offered", "Health", "Latency from event to list", "Kubelet", "Device utilization",
		"Provisioning and binding", "What the plugin costs", "Dynamic Resource Allocation",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	// Links and provisioning depend on the UID.
	if d.Uid == nil || *d.Uid != "intel-qat-plugin" {
		t.Errorf("UID %v", d.Uid)
	}
}
