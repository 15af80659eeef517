// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qatplugin/internal/status"
	"qatplugin/kubeletapi/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a status.Source whose state a test sets.
type source struct {
	journal *status.Journal

	mu        sync.Mutex // guards all following fields
	snapshot  status.Snapshot
	snapshots int // number of calls of Snapshot
	telemetry []status.Telemetry
	reads     int // number of calls of Telemetry
	stuck     bool
	record    func(w io.Writer) error
}

func newSource() *source {
	return &source{journal: status.NewJournal(1000), snapshot: status.Snapshot{Mode: "dpdk"}}
}

// change changes the state, and tells the journal.
func (s *source) change(f func(*status.Snapshot), events ...status.Event) {
	s.mu.Lock()
	f(&s.snapshot)
	s.mu.Unlock()
	s.journal.Append(events...)
}

func (s *source) Snapshot(ctx context.Context) *status.Snapshot {
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck {
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots++
	snapshot := s.snapshot
	snapshot.Time = time.Now()
	snapshot.PFs = append([]status.PF(nil), snapshot.PFs...)
	snapshot.VFs = append([]status.VF(nil), snapshot.VFs...)
	return &snapshot
}

func (s *source) Journal() *status.Journal { return s.journal }

func (s *source) Telemetry(ctx context.Context) []status.Telemetry {
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck {
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.telemetry
}

func (s *source) WriteRecording(_ context.Context, w io.Writer) error { return s.record(w) }

// calls returns how often a snapshot and telemetry were read.
func (s *source) calls() (snapshots, telemetry int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshots, s.reads
}

// text returns a handler that answers with a text.
func textHandler(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

// config has all that a handler can serve.
func config(s *source) Config {
	checks := []probe.Check{{Name: "one", Run: func(context.Context) error { return nil }}}
	return Config{
		Source:    s,
		Live:      checks,
		Ready:     checks,
		Metrics:   textHandler("metrics"),
		Page:      textHandler("page"),
		Flags:     map[string]string{"mode": "dpdk", "bind": "true"},
		Profiling: true,
	}
}

// get returns the answer to a request with headers in pairs.
func get(h http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var allPaths = []string{
	"/livez", "/readyz", "/metrics", "/statusz", "/flagz", "/events?follow=false", "/telemetry", "/debug/recording",
	"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine", "/",
}

func TestEachPathOnlyReads(t *testing.T) {
	s := newSource()
	s.record = func(w io.Writer) error { _, err := io.WriteString(w, "{}\n"); return err }
	h := New(config(s))
	for _, path := range allPaths {
		for _, method := range []string{"GET", "HEAD"} {
			if w := get(h, method, path); w.Code != 200 {
				t.Errorf("%s %s: status %d\n%s", method, path, w.Code, w.Body)
			}
		}
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "X"} {
			w := get(h, method, path)
			if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: status %d, Allow %q; want 405 and GET, HEAD",
					method, path, w.Code, w.Header().Get("Allow"))
			}
		}
	}
}

func TestEachAnswerKeepsBrowsersSafe(t *testing.T) {
	s := newSource()
	s.record = func(io.Writer) error { return nil }
	h := New(config(s))
	for _, path := range append(allPaths, "/unknown") {
		w := get(h, "GET", path, "Origin", "https://example.com")
		for name, want := range map[string]string{
			"Cache-Control":                "no-store",
			"Content-Security-Policy":      contentSecurityPolicy,
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
			"X-Content-Type-Options":       "nosniff",
			"Access-Control-Allow-Origin":  "",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", path, name, got, want)
			}
		}
	}
}

func TestPageHasItsOwnPolicy(t *testing.T) {
	c := config(newSource())
	c.Page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "of the page")
	})
	if got := get(New(c), "GET", "/").Header().Get("Content-Security-Policy"); got != "of the page" {
		t.Errorf("policy %q, want that of the page", got)
	}
}

func TestUnknownPathIsAnsweredWithThoseThatExist(t *testing.T) {
	c := config(newSource())
	c.Profiling = false
	for _, path := range []string{
		"/status", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/index.html",
	} {
		w := get(New(c), "GET", path)
		if w.Code != 404 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
			t.Errorf("%s: status %d, %s", path, w.Code, w.Header().Get("Content-Type"))
		}
		for _, want := range []string{path + " does not exist", "  /statusz ", "  /events ", "  / "} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: no %q in:\n%s", path, want, w.Body)
			}
		}
		if strings.Contains(w.Body.String(), "  /debug/pprof/") {
			t.Errorf("%s: names the profiles, which are off:\n%s", path, w.Body)
		}
	}
}

func TestStatuszIsTextOrJSON(t *testing.T) {
	s := newSource()
	s.change(func(s *status.Snapshot) { s.Version = "v1.2.3" })
	h := New(config(s))
	for _, tt := range []struct {
		target, accept string
		want           string // content type
	}{
		{"/statusz", "", "text/plain; charset=utf-8"},
		{"/statusz", "*/*", "text/plain; charset=utf-8"},
		{"/statusz", "text/html,application/xhtml+xml,application/json;q=0.9", "text/plain; charset=utf-8"},
		{"/statusz", "application/json", "application/json"},
		{"/statusz?format=json", "", "application/json"},
		{"/statusz?format=text", "application/json", "text/plain; charset=utf-8"},
		{"/flagz", "", "text/plain; charset=utf-8"},
		{"/flagz?format=json", "", "application/json"},
		{"/flagz", "application/json", "application/json"},
	} {
		w := get(h, "GET", tt.target, "Accept", tt.accept)
		if got := w.Header().Get("Content-Type"); w.Code != 200 || got != tt.want {
			t.Errorf("%s with %q: status %d, %s; want %s", tt.target, tt.accept, w.Code, got, tt.want)
		}
		isJSON := json.Valid(w.Body.Bytes())
		if want := tt.want == "application/json"; isJSON != want {
			t.Errorf("%s with %q: is JSON: %v, want %v:\n%s", tt.target, tt.accept, isJSON, want, w.Body)
		}
	}
	var got status.Snapshot
	err := json.Unmarshal(get(h, "GET", "/statusz?format=json").Body.Bytes(), &got)
	if err != nil || got.Version != "v1.2.3" {
		t.Errorf("JSON is not the Snapshot: %v, %v", got, err)
	}
	for _, target := range []string{"/statusz?format=xml", "/flagz?format=xml"} {
		w := get(h, "GET", target)
		if want := "format: invalid value \"xml\": must be text or json\n"; w.Code != 400 || w.Body.String() != want {
			t.Errorf("%s: %d %q, want 400 %q", target, w.Code, w.Body, want)
		}
	}
}

func TestFlagz(t *testing.T) {
	h := New(config(newSource()))
	if got, want := get(h, "GET", "/flagz").Body.String(), "bind=true\nmode=dpdk\n"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	var got map[string]map[string]string
	if err := json.Unmarshal(get(h, "GET", "/flagz?format=json").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]string{"flags": {"mode": "dpdk", "bind": "true"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTelemetryIsAList(t *testing.T) {
	s := newSource()
	h := New(config(s))
	if got := get(h, "GET", "/telemetry").Body.String(); got != "[]\n" {
		t.Errorf("without PFs: %q, want []", got)
	}
	s.telemetry = []status.Telemetry{{Address: "0000:6b:00.0"}}
	var got []status.Telemetry
	if err := json.Unmarshal(get(h, "GET", "/telemetry").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.telemetry, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRecordingIsADownload(t *testing.T) {
	s := newSource()
	s.record = func(w io.Writer) error { _, err := io.WriteString(w, "{}\n{}\n"); return err }
	w := get(New(config(s)), "GET", "/debug/recording")
	if got := w.Header().Get("Content-Disposition"); !strings.HasPrefix(got, `attachment; filename="qat-recording-`) {
		t.Errorf("Content-Disposition %q", got)
	}
	if got := w.Header().Get("Content-Type"); got != "application/x-ndjson" || w.Body.String() != "{}\n{}\n" {
		t.Errorf("%s: %q", got, w.Body)
	}
	s.record = func(io.Writer) error { return errors.New("the recorder is off") }
	w = get(New(config(s)), "GET", "/debug/recording")
	if w.Code != 500 || w.Body.String() != "Cannot write the recording: the recorder is off\n" {
		t.Errorf("without a recorder: %d %q", w.Code, w.Body)
	}
}

func TestNumberOfRequestsInProgressIsLimited(t *testing.T) {
	s := newSource()
	begun, end := make(chan struct{}), make(chan struct{})
	s.record = func(io.Writer) error {
		begun <- struct{}{}
		<-end
		return nil
	}
	h := New(config(s))
	var requests sync.WaitGroup
	for range maxInProgress {
		requests.Go(func() { get(h, "GET", "/debug/recording") })
		<-begun
	}
	for _, path := range []string{"/statusz", "/telemetry", "/debug/recording", "/events?follow=false"} {
		if w := get(h, "GET", path); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: status %d, want 503: %s", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/flagz", "/"} {
		if w := get(h, "GET", path); w.Code != 200 {
			t.Errorf("%s: status %d, want 200", path, w.Code)
		}
	}
	close(end)
	requests.Wait()
	if w := get(h, "GET", "/statusz"); w.Code != 200 {
		t.Errorf("after the others: status %d", w.Code)
	}
}

func TestStuckKernelDelaysAnswersForSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		s.stuck = true
		for path, want := range map[string]time.Duration{
			"/statusz":             snapshotTimeout,
			"/telemetry":           telemetryTimeout,
			"/events?follow=false": snapshotTimeout + telemetryTimeout,
		} {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", path, nil))
			cancel()
			if took := time.Since(start); w.Code != 200 || took != want {
				t.Errorf("%s: status %d after %v, want 200 after %v", path, w.Code, took, want)
			}
		}
	})
}

// A client must notice that the end of a recording is missing.
func TestIncompleteRecordingIsNoticed(t *testing.T) {
	s := newSource()
	s.record = func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Repeat("{}\n", 10000))
		return errors.Join(err, os.ErrDeadlineExceeded)
	}
	server := httptest.NewServer(New(config(s)))
	defer server.Close()
	response, err := server.Client().Get(server.URL + "/debug/recording")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("the client takes the recording for complete")
	}
}
