// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/internal/status"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(pluginDir)
		os.Exit(code)
	}))
}

// must fails the test for an error of the test's own surroundings.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// now is the time at which qatctl runs.
var now = time.Date(2026, 5, 6, 12, 30, 0, 0, time.Local)

func ptr[T any](v T) *T { return &v }

// newSnapshot returns the status of a plugin with VFs in all states.
func newSnapshot() *status.Snapshot {
	vf := func(address, pf, state, resource, driver, reason string) status.VF {
		return status.VF{
			Address: address, PF: pf, Family: "4xxx", DeviceID: "4941", Driver: driver, State: state,
			Resource: resource, Reason: reason,
		}
	}
	s := &status.Snapshot{
		Time:    now,
		Started: now.Add(-26 * time.Hour),
		Version: "v1.2.3",
		Mode:    "dpdk",
		Checks:  []status.Check{{Name: "event-loop"}, {Name: "registered"}},
		Loops:   []status.Loop{{Name: "devices", Complete: true}},
		Resources: []status.Resource{
			{
				Name: "qat.intel.com/cy", Devices: 3, Healthy: 2, Phase: status.PhaseWatching, Streams: 1, Lists: 4,
				Bytes: 500, LastList: ptr(now.Add(-90 * time.Second)), Allocated: 1,
			},
			{
				Name: "qat.intel.com/dc", Devices: 1, Healthy: 1, Phase: status.PhaseFailed,
				Err: "the kubelet refuses the registration: invalid name",
			},
		},
		PFs: []status.PF{
			{
				Address: "0000:6b:00.0", Family: "4xxx", DeviceID: "4940", Driver: "4xxx", NUMANode: 0, State: "up",
				Services: "sym;asym", Resource: "cy", VFs: 5, TotalVFs: 16, Health: status.Healthy,
				Heartbeat: status.Heartbeat{Last: "good", LastAt: ptr(now.Add(-2 * time.Second)), Good: 77, Failed: 1},
			},
			{
				Address: "0000:e8:00.0", Family: "402xx", DeviceID: "4944", Driver: "4xxx", NUMANode: -1, State: "up",
				Services: "dc", Resource: "dc", VFs: 1, Health: status.Unhealthy, Reason: "failed its heartbeat",
			},
			{
				Address: "0001:6b:00.0", Family: "4xxx", DeviceID: "4940", Driver: "4xxx", State: "down",
				Resource: "cy", TotalVFs: 16, Health: status.Healthy,
			},
		},
		VFs: []status.VF{
			vf("0000:6b:00.1", "0000:6b:00.0", status.StateListed, "cy", "vfio-pci", ""),
			vf("0000:6b:00.2", "0000:6b:00.0", status.StateListed, "cy", "vfio-pci", ""),
			vf("0000:6b:00.3", "0000:6b:00.0", status.StateUnhealthy, "cy", "vfio-pci",
				"it had a PCI error and is being recovered"),
			vf("0000:6b:00.4", "0000:6b:00.0", status.StateBinding, "", "", "waiting for vfio-pci to bind"),
			vf("0000:6b:00.5", "0000:6b:00.0", status.StateSkipped, "", "",
				"vfio-pci refuses C62x devices unless it is loaded with disable_denylist=1 (modprobe -r vfio-pci; "+
					"modprobe vfio-pci disable_denylist=1)"),
			vf("0000:e8:00.1", "0000:e8:00.0", status.StateListed, "dc", "vfio-pci", ""),
		},
		Processes: []status.Process{},
		Counters:  status.Counters{Binds: map[string]uint64{"bound": 4}},
	}
	s.VFs[0].Holder, s.VFs[0].Node, s.VFs[0].IOMMUGroup = "default/app-1", "/dev/vfio/12", ptr(12)
	return s
}

// newEvents returns the journal of the plugin.
func newEvents() []status.Event {
	list := []status.Event{
		{Kind: status.KindResync, Text: "the uevent socket overflowed"},
		{Kind: status.KindUevent, Action: "add", Path: "/devices/pci0000:6b/0000:6b:00.1", Device: "0000:6b:00.1",
			Text: "in cy"},
		{Kind: status.KindChange, Resource: "qat.intel.com/cy", Device: "0000:6b:00.1", Text: "added"},
		{Kind: status.KindList, Resource: "qat.intel.com/cy", Seconds: 0.000412, Text: "3 devices"},
		{Kind: status.KindAllocation, Resource: "qat.intel.com/cy", Devices: []string{"0000:6b:00.1", "0000:6b:00.2"},
			Err: "its device node is gone"},
		{Kind: status.KindDrift, Device: "0000:6b:00.2", Text: "the driver changed"},
	}
	for i := range list {
		list[i].Seq = uint64(i + 1)
		list[i].Time = now.Add(time.Duration(i-len(list)) * time.Minute)
	}
	return list
}

// newTelemetry returns the counters of two PFs: one with the telemetry of the device.
func newTelemetry() []status.Telemetry {
	return []status.Telemetry{
		{
			Address: "0000:6b:00.0",
			Time:    now,
			Device: &status.DeviceTelemetry{
				Utilization:   map[string]float64{"pke": 12.4, "ucs": 95.6},
				BandwidthIn:   1_234_000_000,
				BandwidthOut:  45_600_000,
				GetPutLatency: 0.0000123,
			},
			Firmware: []status.EngineCounters{
				{Engine: "AE0", Requests: 1_500_000, Responses: 1_499_999},
				{Engine: "AE1", Requests: 34_567, Responses: 34_561},
			},
			RAS: map[string]uint64{"correctable": 2},
		},
		{Address: "0000:e8:00.0", Time: now, Firmware: []status.EngineCounters{{Engine: "AE0", Requests: 7}}},
	}
}

// A fakePlugin answers as the plugin's status server does.
type fakePlugin struct {
	socket string
	now    func() time.Time

	onTelemetry func() // if it is not nil, it is called before telemetry is sent

	messages chan string   // of the stream, which ends when the channel is closed
	opened   chan string   // the query of each stream that stays open
	closed   chan struct{} // gets a value when a client has closed a stream

	mu        sync.Mutex // guards all following fields
	snapshot  *status.Snapshot
	events    []status.Event
	telemetry []status.Telemetry
	flags     map[string]string
	recording string
	cutOff    bool // the recording ends before its end
}

func (f *fakePlugin) change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func startPlugin(t *testing.T) *fakePlugin {
	t.Helper()
	f := &fakePlugin{
		socket:    filepath.Join(t.TempDir(), "status.sock"),
		now:       func() time.Time { return now },
		messages:  make(chan string),
		opened:    make(chan string, 10),
		closed:    make(chan struct{}, 10),
		snapshot:  newSnapshot(),
		events:    newEvents(),
		telemetry: newTelemetry(),
		recording: "{\"type\":\"header\"}\n",
	}
	l, err := net.Listen("unix", f.socket)
	must(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /statusz", f.serveStatus)
	mux.HandleFunc("GET /telemetry", func(w http.ResponseWriter, _ *http.Request) {
		f.change(func() {
			if f.onTelemetry != nil {
				f.onTelemetry()
			}
			_ = json.NewEncoder(w).Encode(f.telemetry)
		})
	})
	mux.HandleFunc("GET /flagz", func(w http.ResponseWriter, _ *http.Request) {
		f.change(func() { _ = json.NewEncoder(w).Encode(map[string]any{"flags": f.flags}) })
	})
	mux.HandleFunc("GET /debug/recording", f.serveRecording)
	mux.HandleFunc("GET /events", f.serveEvents)
	server := httptest.NewUnstartedServer(mux)
	must(t, server.Listener.Close())
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return f
}

func (f *fakePlugin) serveStatus(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.FormValue("format") == "text" {
		fmt.Fprintf(w, "qat_plugin %s\n", f.snapshot.Version)
		return
	}
	_ = json.NewEncoder(w).Encode(f.snapshot)
}

func (f *fakePlugin) serveRecording(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = io.WriteString(w, f.recording)
	if f.cutOff {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// message returns a message of a stream.
func message(kind string, v any) string {
	text, _ := json.Marshal(v)
	return fmt.Sprintf("event: %s\ndata: %s\n\n", kind, text)
}

func (f *fakePlugin) serveEvents(w http.ResponseWriter, r *http.Request) {
	types := strings.Split(r.FormValue("types"), ",")
	last, _ := strconv.Atoi(r.FormValue("last"))
	f.change(func() {
		if slices.Contains(types, status.MessageSnapshot) {
			_, _ = io.WriteString(w, message(status.MessageSnapshot, f.snapshot))
		}
		if slices.Contains(types, status.MessageEvent) {
			for _, e := range f.events[max(0, len(f.events)-last):] {
				_, _ = io.WriteString(w, message(status.MessageEvent, e))
			}
		}
	})
	if r.FormValue("follow") == "false" {
		return
	}
	w.(http.Flusher).Flush()
	f.opened <- r.URL.RawQuery
	for {
		select {
		case text, ok := <-f.messages:
			if !ok {
				return
			}
			_, _ = io.WriteString(w, text)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			f.closed <- struct{}{}
			return
		}
	}
}

// A result is what a run of qatctl printed, and its exit status.
type result struct {
	status         int
	stdout, stderr string
}

// qatctl runs qatctl at the socket of the plugin.
func (f *fakePlugin) qatctl(t *testing.T, args ...string) result {
	t.Helper()
	return qatctlAt(t, f.now, append([]string{"--socket", f.socket}, args...)...)
}

// qatctl runs qatctl with no environment variables.
func qatctl(t *testing.T, args ...string) result {
	t.Helper()
	return qatctlAt(t, func() time.Time { return now }, args...)
}

func qatctlAt(t *testing.T, clock func() time.Time, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &environment{
		stdout: &stdout,
		stderr: &stderr,
		getenv: func(string) string { return "" },
		now:    clock,
	})
	return result{code, stdout.String(), stderr.String()}
}

// ok fails the test unless qatctl ended with status 0 and printed nothing to standard error.
func (r result) ok(t *testing.T) result {
	t.Helper()
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("exit status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	return r
}

// lines returns the lines of standard output.
func (r result) lines() []string { return strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n") }

// line returns the line of standard output that contains a text.
func (r result) line(t *testing.T, text string) string {
	t.Helper()
	for _, line := range r.lines() {
		if strings.Contains(line, text) {
			return line
		}
	}
	t.Fatalf("no line contains %q:\n%s", text, r.stdout)
	return ""
}

// wantExit checks the exit status and a part of standard error.
func (r result) wantExit(t *testing.T, status int, text string) {
	t.Helper()
	if r.status != status || !strings.Contains(r.stderr, text) {
		t.Errorf("exit status %d, standard error %q; want %d and %q", r.status, r.stderr, status, text)
	}
}

// A running is a run of qatctl that goes on until it is interrupted.
type running struct {
	t         *testing.T
	lines     chan string // of standard output
	messages  chan string // lines of standard error
	interrupt func()
	ended     chan result
}

// start starts qatctl at the socket of the plugin.
func (f *fakePlugin) start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	reader, writer := io.Pipe()
	r := &running{
		t:         t,
		lines:     make(chan string, 1000),
		messages:  make(chan string, 1000),
		interrupt: func() { cancel(errInterrupted) },
		ended:     make(chan result, 1),
	}
	go func() { _, _ = io.Copy(&lineWriter{lines: r.lines}, reader) }()
	go func() {
		var stderr bytes.Buffer
		code := run(ctx, append([]string{"--socket", f.socket}, args...), &environment{
			stdout: writer,
			stderr: io.MultiWriter(&stderr, &lineWriter{lines: r.messages}),
			getenv: func(string) string { return "" },
			now:    f.now,
		})
		_ = writer.Close()
		r.ended <- result{status: code, stderr: stderr.String()}
	}()
	t.Cleanup(func() { cancel(errInterrupted) })
	return r
}

// lineWriter sends each line that is written to it.
type lineWriter struct {
	lines chan string
	rest  string
}

func (w *lineWriter) Write(text []byte) (int, error) {
	w.rest += string(text)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(text), nil
		}
		w.lines <- line
		w.rest = rest
	}
}

// timeout only keeps a broken test from hanging.
const timeout = 20 * time.Second

// next returns the next line of standard output.
func (r *running) next() string {
	r.t.Helper()
	select {
	case line := <-r.lines:
		return line
	case <-time.After(timeout):
		r.t.Fatal("qatctl prints no line")
		return ""
	}
}

// await waits for a line of standard output that contains a text.
func (r *running) await(text string) { r.t.Helper(); r.awaitIn(r.lines, text) }

// awaitMessage waits for a line of standard error that contains a text.
func (r *running) awaitMessage(text string) { r.t.Helper(); r.awaitIn(r.messages, text) }

func (r *running) awaitIn(from chan string, text string) {
	r.t.Helper()
	var lines []string
	for deadline := time.After(timeout); ; {
		select {
		case line := <-from:
			if lines = append(lines, line); strings.Contains(line, text) {
				return
			}
		case <-deadline:
			r.t.Fatalf("no line contains %q:\n%s", text, strings.Join(lines, "\n"))
		}
	}
}

// end returns the result when qatctl has ended.
func (r *running) end() result {
	r.t.Helper()
	select {
	case result := <-r.ended:
		return result
	case <-time.After(timeout):
		r.t.Fatal("qatctl does not end")
		return result{}
	}
}
