// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestFleetTableCountsRequests(t *testing.T) {
	at := time.Unix(100, 0)
	r := result{
		label: "10", scenario: "churn", nodes: 10, took: 1500 * time.Millisecond, changes: 7,
		delays: []time.Duration{3 * time.Millisecond, time.Millisecond, 2 * time.Millisecond},
		sent:   10_000, received: 200_000,
		requests: []request{
			{verb: "create", code: 201, at: at},
			{verb: "update", code: 429, at: at},
			{verb: "get node", code: 200, at: at},
			{verb: "watch", code: 0, at: at.Add(time.Second)},
			{verb: "watch", code: inFlight, at: at.Add(time.Second)},
		},
	}
	r.apiServer.CPU = 2500 * time.Millisecond
	want := "| 10 | churn | 1.50 |  | 2.00 | 3.00 | 7 | 2 | 1 | 2 | 1 | 1 | 3 | 1.00 | 20.0 | 2.5 |\n"
	if text := fleetTable("nodes", []result{r}); !strings.HasSuffix(text, want) {
		t.Errorf("the table ends with\n%s\nwant\n%s", text, want)
	}
}

func TestVerbOf(t *testing.T) {
	const slices = "https://host/apis/resource.k8s.io/v1/resourceslices"
	for _, tt := range []struct{ method, url, want string }{
		{http.MethodGet, slices + "?fieldSelector=a", "list"},
		{http.MethodGet, slices + "?watch=true", "watch"},
		{http.MethodGet, slices + "/a", "get"},
		{http.MethodPost, slices, "create"},
		{http.MethodPut, slices + "/a", "update"},
		{http.MethodDelete, slices + "/a", "delete"},
		{http.MethodGet, "https://host/api/v1/nodes/a", "get node"},
		{http.MethodGet, "https://host/version", "other"},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := verbOf(&http.Request{Method: tt.method, URL: u}); got != tt.want {
			t.Errorf("%s %s is %q, want %q", tt.method, tt.url, got, tt.want)
		}
	}
}

func TestExtrapolationMultiplies(t *testing.T) {
	f := &sizeResult{slice: 20_000, listBytes: 1_000_000}
	f.nodes, f.apiServer.CPU = 1000, 20*time.Second
	write := &capacity{cpu: 20 * time.Millisecond}
	watched := &capacity{load: load{watches: 20_000}, rate: 25, perWatch: 50_000}
	// 5,000 slices of 20 kB; 50 of them are written each second and kept for 300 s; 25 writes a
	// second with 20,000 watches are 100 with 5,000.
	want := "| 5000 | 100 | 300 | 5.00 | 250 | 100 | 1.00 | 100 | 50.0 |\n"
	if got := extrapolation(f, write, watched); !strings.Contains(got, want) {
		t.Errorf("the table is\n%s\nwant a row\n%s", got, want)
	}
}
