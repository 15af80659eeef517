// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/internal/status"
)

// largeSource returns a source with this number of PFs, each of which has 16 VFs, an eighth of the
// VFs not listed, and telemetry.
func largeSource(pfs int) *fakeSource {
	full := fullSource()
	s := &fakeSource{snapshot: full.snapshot}
	s.snapshot.PFs, s.snapshot.VFs = nil, nil
	resources := []string{"cy", "dc", "sym", "asym"}
	for i := range pfs {
		node, resource := i%2, resources[i%len(resources)]
		pf := status.PF{
			Address: fmt.Sprintf("0000:%02x:00.0", i), Family: "4xxx", Driver: "4xxx", NUMANode: node, State: "up",
			Services: resource, Resource: resource, VFs: 16, TotalVFs: 16, Health: status.Healthy,
			Heartbeat: status.Heartbeat{Last: "good", Good: 100},
		}
		s.snapshot.PFs = append(s.snapshot.PFs, pf)
		for j := range 16 {
			vf := status.VF{
				Address: fmt.Sprintf("0000:%02x:%02x.%d", i, (j+1)/8, (j+1)%8), PF: pf.Address, NUMANode: node,
				State: status.StateListed, Resource: resource,
			}
			if j%8 == 0 {
				vf.State, vf.Class = status.StateSkipped, status.ClassLimit
			}
			s.snapshot.VFs = append(s.snapshot.VFs, vf)
		}
		t := full.telemetry[0]
		t.Address = pf.Address
		s.telemetry = append(s.telemetry, t)
	}
	return s
}

// BenchmarkScrape measures a scrape of 64 PFs with 1024 VFs, with the telemetry of all PFs and
// without.
func BenchmarkScrape(b *testing.B) {
	for _, bb := range []struct {
		name      string
		telemetry bool
	}{{"telemetry", true}, {"none", false}} {
		b.Run(bb.name, func(b *testing.B) {
			source := largeSource(64)
			if !bb.telemetry {
				source.telemetry = nil
			}
			h := newMetrics().Handler(source)
			request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/metrics", nil)
			bytes := 0
			b.ReportAllocs()
			for b.Loop() {
				recorder := httptest.NewRecorder()
				h.ServeHTTP(recorder, request)
				bytes = recorder.Body.Len()
			}
			b.ReportMetric(float64(bytes), "bytes")
		})
	}
}

// BenchmarkList measures what a list of a changed resource costs: Publishing in the event loop, and
// ListSent in the goroutine of the stream. With a journal, ListSent also records the list.
func BenchmarkList(b *testing.B) {
	trees := [2]*devtree.Tree{next(b, nil, "cy", "1")}
	trees[1] = next(b, trees[0], "cy", "2")
	for _, name := range []string{"sym", "asym", "dc", "generic"} {
		trees[0] = next(b, trees[0], name, "1")
	}
	trees[1] = next(b, trees[0], "cy", "2")
	for _, bb := range []struct {
		name    string
		journal *status.Journal
	}{{"journal", status.NewJournal(1000)}, {"none", nil}} {
		b.Run("Publishing and ListSent/"+bb.name, func(b *testing.B) {
			m := New(Config{Namespace: namespace, Journal: bb.journal})
			for _, r := range []string{cy, dc, namespace + "/sym", namespace + "/asym", namespace + "/generic"} {
				m.StreamOpened(r)
			}
			since := time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				old, new := trees[i%2], trees[1-i%2]
				m.Publishing(old, new, since)
				m.ListSent(cy, new.Resource("cy"), 2, 100)
			}
		})
	}
	b.Run("Publishing", func(b *testing.B) {
		m := newMetrics()
		m.StreamOpened(cy)
		since := time.Now()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			m.Publishing(trees[i%2], trees[1-i%2], since)
			m.ListUnchanged(cy, trees[1-i%2].Resource("cy"))
		}
	})
}
