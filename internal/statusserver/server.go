// SPDX-License-Identifier: Apache-2.0

// Package statusserver serves what the plugin knows over HTTP, for people, Prometheus and qatctl.
//
// The handler only answers GET and HEAD requests and changes nothing. It builds answers from a
// [status.Source] for each request. Only while clients follow /events does it run goroutines of
// its own, which end before the request of the last client does. Other sites get no permission to
// read the answers in a browser.
package statusserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/status"
	"qatplugin/kubeletapi/probe"
)

// Config is what a handler serves.
type Config struct {
	Source  status.Source
	Live    []probe.Check     // of /livez
	Ready   []probe.Check     // of /readyz
	Metrics http.Handler      // of /metrics
	Page    http.Handler      // of /; it may set a Content-Security-Policy of its own
	Flags   map[string]string // of /flagz: the value of each flag by its name

	// Profiling adds /debug/pprof/. A profile shows what the process works on, and taking one costs
	// time.
	Profiling bool
}

const (
	// A loop that is stuck, or a PF whose counters the kernel does not show, delays an answer for
	// this long at most.
	snapshotTimeout  = time.Second
	telemetryTimeout = 2 * time.Second

	// maxInProgress is the number of requests that may read the status at the same time. Clients
	// that follow /events have a limit of their own.
	maxInProgress = 4

	// sendTimeout limits how long a client may take to receive a part of a long answer.
	sendTimeout = 10 * time.Second

	// contentSecurityPolicy lets a browser load and run nothing.
	contentSecurityPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

// New returns the handler.
func New(c Config) http.Handler {
	s := &server{
		config:     c,
		events:     newHub(c.Source),
		inProgress: make(chan struct{}, maxInProgress),
		mux:        http.NewServeMux(),
	}
	probes := probe.Handler(c.Live, c.Ready)
	s.handle("/livez", "is the process alive? 200 or 500; ?verbose lists the checks", probes)
	s.handle("/readyz", "does the kubelet have the current lists? 200 or 500; ?verbose lists the checks", probes)
	s.handle("/metrics", "metrics for Prometheus", c.Metrics)
	s.handle("/statusz", "all that the plugin knows, as text or with ?format=json", s.limited(s.statusz))
	s.handle("/flagz", "the values of the flags, as text or with ?format=json", http.HandlerFunc(s.flagz))
	s.handle("/events", "what happens, as server-sent events", http.HandlerFunc(s.follow))
	s.handle("/telemetry", "the counters of each PF, as JSON", s.limited(s.telemetry))
	s.handle("/debug/recording", "what the recorder holds, as lines of JSON", s.limited(s.recording))
	if c.Profiling {
		s.handle("/debug/pprof/", "profiles of the process", http.HandlerFunc(pprof.Index))
		for name, f := range map[string]http.HandlerFunc{
			"cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
		} {
			s.mux.Handle("/debug/pprof/"+name, f)
		}
	}
	s.handle("/{$}", "the page for people", c.Page)
	s.mux.HandleFunc("/", s.notFound)
	return s
}

// server is the handler.
type server struct {
	config     Config
	events     *hub
	inProgress chan struct{} // holds a value for each request that reads the status
	mux        *http.ServeMux
	paths      []path // that are served, in the order in which they are listed
}

// A path is a path for people and what they find there.
type path struct{ name, what string }

// handle serves a path, unless h is nil.
func (s *server) handle(pattern, what string, h http.Handler) {
	if h == nil {
		return
	}
	s.mux.Handle(pattern, h)
	s.paths = append(s.paths, path{name: strings.TrimSuffix(pattern, "{$}"), what: what})
}

// ServeHTTP serves all paths.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "%s is not allowed: the status can only be read, with GET or HEAD",
			r.Method)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// answer answers with one line of text.
func answer(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, format+"\n", args...)
}

// notFound names the paths that there are.
func (s *server) notFound(w http.ResponseWriter, r *http.Request) {
	var list strings.Builder
	table := newTable(&list)
	for _, p := range s.paths {
		table.row(p.name, p.what)
	}
	table.end()
	answer(w, http.StatusNotFound, "%s does not exist. These paths do:\n%s",
		r.URL.Path, strings.TrimSuffix(list.String(), "\n"))
}

// limited refuses a request while maxInProgress others are in progress.
func (s *server) limited(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.inProgress <- struct{}{}:
			defer func() { <-s.inProgress }()
			h(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, "%d requests read the status already: try again later",
				maxInProgress)
		}
	})
}

// wantsJSON reports whether the client asks for JSON, by ?format or by its Accept header. The error
// is what to answer to a format that does not exist.
func wantsJSON(r *http.Request) (bool, error) {
	switch format := r.URL.Query().Get("format"); format {
	case "json":
		return true, nil
	case "text":
		return false, nil
	case "":
		accept := r.Header.Get("Accept")
		return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html"), nil
	default:
		return false, fmt.Errorf("format: invalid value %q: must be text or json", format)
	}
}

// render answers with v as JSON or with text, as the client asks.
func render(w http.ResponseWriter, r *http.Request, v any, text func(io.Writer)) {
	w.Header().Set("Vary", "Accept")
	asJSON, err := wantsJSON(r)
	switch {
	case err != nil:
		answer(w, http.StatusBadRequest, "%v", err)
	case asJSON:
		writeJSON(w, r, v)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		text(w)
	}
}

func writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil { // the client is gone
		klog.FromContext(r.Context()).V(2).Info("Cannot send the status", "path", r.URL.Path, "err", err)
	}
}

func (s *server) statusz(w http.ResponseWriter, r *http.Request) {
	if _, err := wantsJSON(r); err != nil {
		answer(w, http.StatusBadRequest, "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), snapshotTimeout)
	defer cancel()
	snapshot := s.config.Source.Snapshot(ctx)
	render(w, r, snapshot, func(w io.Writer) {
		writeText(w, snapshot, s.config.Source.Journal().Since(0))
	})
}

func (s *server) flagz(w http.ResponseWriter, r *http.Request) {
	render(w, r, map[string]any{"flags": s.config.Flags}, func(w io.Writer) {
		for _, name := range slices.Sorted(maps.Keys(s.config.Flags)) {
			fmt.Fprintf(w, "%s=%s\n", name, s.config.Flags[name])
		}
	})
}

func (s *server) follow(w http.ResponseWriter, r *http.Request) {
	var h http.Handler = s.events
	if follow, err := strconv.ParseBool(r.URL.Query().Get("follow")); err == nil && !follow {
		h = s.limited(s.events.ServeHTTP)
	}
	h.ServeHTTP(w, r)
}

func (s *server) telemetry(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), telemetryTimeout)
	defer cancel()
	list := s.config.Source.Telemetry(ctx)
	if list == nil {
		list = []status.Telemetry{} // not null
	}
	writeJSON(w, r, list)
}

func (s *server) recording(w http.ResponseWriter, r *http.Request) {
	out := &sender{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Content-Disposition",
		fmt.Sprintf("attachment; filename=%q", "qat-recording-"+time.Now().UTC().Format("20060102T150405Z")+".ndjson"))
	if r.Method == http.MethodHead {
		return
	}
	err := s.config.Source.WriteRecording(r.Context(), out)
	switch {
	case err == nil:
	case !out.begun:
		w.Header().Del("Content-Disposition")
		answer(w, http.StatusInternalServerError, "Cannot write the recording: %v", err)
	default:
		klog.FromContext(r.Context()).V(2).Info("Cannot send the whole recording", "err", err)
		_ = out.control.SetWriteDeadline(time.Unix(1, 0)) // the client must see that the end is missing
	}
}

// A sender writes a long answer. Each write must end within sendTimeout, whatever the write timeout
// of the server is.
type sender struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool // something was written
}

// Write implements [io.Writer].
func (s *sender) Write(p []byte) (int, error) {
	s.begun = true
	err := s.control.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) { // the writers of some tests have none
		return 0, err
	}
	return s.w.Write(p)
}

// send writes parts and sends them at once.
func (s *sender) send(parts ...[]byte) error {
	for _, p := range parts {
		if _, err := s.Write(p); err != nil {
			return err
		}
	}
	return s.control.Flush()
}
