// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi/kubelettest"
	"qatplugin/qat"
)

// A statusRig is a program that serves its status, with a look-alike host and a kubelet.
type statusRig struct {
	*running
	host    *lookalike.Host
	kubelet *kubelettest.Kubelet
	address string // of -http-address
	socket  string
}

// startStatus starts the program on a host without devices.
func startStatus(t *testing.T, args ...string) *statusRig {
	t.Helper()
	host, dir := lookalike.Start(t), t.TempDir()
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	t.Cleanup(kubelet.Stop)
	r := &statusRig{host: host, kubelet: kubelet, socket: filepath.Join(shortDir(t), "status.sock")}
	r.running = start(t, append([]string{"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir,
		"-pod-resources-socket=", "-http-address=127.0.0.1:0", "-status-socket", r.socket}, args...)...)
	r.address = r.log.Await(t, `"Serving the status" address="([0-9.:]+)"`)[1]
	r.log.Await(t, `"Serving the status" address="`+r.socket)
	return r
}

// shortDir returns a directory whose path is short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// client returns an HTTP client, of the socket if overSocket is set.
func (r *statusRig) client(overSocket bool) *http.Client {
	transport := &http.Transport{}
	r.t.Cleanup(transport.CloseIdleConnections)
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if overSocket {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", r.address)
	}
	return &http.Client{Transport: transport}
}

// do returns the answer to a request.
func do(t *testing.T, c *http.Client, method, path string) (code int, header http.Header, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://plugin"+path, nil)
	must(t, err)
	response, err := c.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, response.Header, string(text)
}

// awaitReady waits until /readyz passes. The kubelet can have the list before it has answered the
// registration.
func awaitReady(t *testing.T, c *http.Client) {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		code, _, body := do(t, c, "GET", "/readyz?verbose")
		if code == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: %d\n%s", code, body)
		}
	}
}

// snapshot returns the answer of /statusz.
func snapshot(t *testing.T, c *http.Client) *status.Snapshot {
	t.Helper()
	code, _, body := do(t, c, "GET", "/statusz?format=json")
	s := &status.Snapshot{}
	if err := json.Unmarshal([]byte(body), s); err != nil || code != 200 {
		t.Fatalf("/statusz: %d, %v\n%s", code, err, body)
	}
	return s
}

// A stream is an open request for /events.
type stream struct {
	t        *testing.T
	cancel   context.CancelFunc
	messages chan [2]string // type and data
	ended    chan struct{}
}

func openStream(t *testing.T, c *http.Client, query string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, "GET", "http://plugin/events"+query, nil)
	must(t, err)
	response, err := c.Do(request)
	must(t, err)
	if response.StatusCode != 200 {
		t.Fatalf("/events: %s", response.Status)
	}
	s := &stream{t: t, cancel: cancel, messages: make(chan [2]string, 10000), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		defer response.Body.Close()
		var kind string
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
			case "event":
				kind = value
			case "data":
				s.messages <- [2]string{kind, value}
			}
		}
	}()
	return s
}

func (s *stream) close() {
	s.cancel()
	<-s.ended
}

// await waits for a message of a type that is as wanted.
func await[T any](s *stream, kind string, wanted func(T) bool) T {
	s.t.Helper()
	for deadline := time.After(timeout); ; {
		select {
		case m := <-s.messages:
			var v T
			if m[0] != kind {
				continue
			}
			if err := json.Unmarshal([]byte(m[1]), &v); err != nil {
				s.t.Fatalf("%v in %s", err, m[1])
			}
			if wanted(v) {
				return v
			}
		case <-s.ended:
			s.t.Fatalf("the stream has ended without the %s", kind)
		case <-deadline:
			s.t.Fatalf("no such %s", kind)
		}
	}
}

var statusPaths = []string{
	"/livez", "/readyz", "/metrics", "/statusz", "/flagz", "/telemetry", "/events?follow=false", "/debug/recording",
	"/",
}

func TestStatusIsServedAtAddressAndSocket(t *testing.T) {
	r := startStatus(t)
	addVF(t, r.host)
	awaitVF(t, r.kubelet)
	awaitReady(t, r.client(true))
	for name, overSocket := range map[string]bool{"address": false, "socket": true} {
		c := r.client(overSocket)
		for _, path := range statusPaths {
			for method, want := range map[string]int{
				"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405,
			} {
				if code, _, body := do(t, c, method, path); code != want {
					t.Errorf("%s: %s %s: status %d, want %d:\n%s", name, method, path, code, want, body)
				}
			}
		}
		if code, _, _ := do(t, c, "GET", "/debug/pprof/"); code != 404 {
			t.Errorf("%s: profiles without -profiling: status %d, want 404", name, code)
		}
		if _, header, body := do(t, c, "GET", "/"); !strings.HasPrefix(header.Get("Content-Type"), "text/html") ||
			!strings.Contains(body, "<title>") {
			t.Errorf("%s: / is no page: %s", name, header.Get("Content-Type"))
		}
		if _, _, body := do(t, c, "GET", "/statusz"); !strings.Contains(body, "\n  "+resource+" ") {
			t.Errorf("%s: /statusz does not name the resource:\n%s", name, body)
		}
		if _, _, body := do(t, c, "GET", "/flagz"); !strings.Contains(body, "\nsysfs-root="+r.host.Sysfs()+"\n") {
			t.Errorf("%s: /flagz does not have the value of -sysfs-root:\n%s", name, body)
		}
	}
	info, err := os.Stat(r.socket)
	must(t, err)
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the mode of the socket is %v, want 0600", got)
	}
	r.stop()
	if _, err := os.Stat(r.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
	if _, err := net.Dial("tcp", r.address); err == nil {
		t.Error("the address is served after the program has ended")
	}
}

// Anybody who can reach the address can use up its limits.
func TestClientsOfTheAddressLeaveTheSocketAlone(t *testing.T) {
	r := startStatus(t)
	defer r.stop()
	for {
		request, err := http.NewRequestWithContext(t.Context(), "GET", "http://plugin/events?types=event", nil)
		must(t, err)
		response, err := r.client(false).Do(request)
		must(t, err)
		defer response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			break
		}
	}
	openStream(t, r.client(true), "").close()
}

func TestProfilesAreServedWithTheFlag(t *testing.T) {
	r := startStatus(t, "-profiling")
	defer r.stop()
	code, _, body := do(t, r.client(true), "GET", "/debug/pprof/goroutine?debug=1")
	if code != 200 || !strings.Contains(body, "goroutine profile: total") {
		t.Errorf("%d %s", code, body)
	}
}

func TestAddedVFIsInTheEventsAndTheStatus(t *testing.T) {
	r := startStatus(t)
	defer r.stop()
	s := openStream(t, r.client(false), "")
	defer s.close()
	await(s, status.MessageSnapshot, func(got status.Snapshot) bool { return len(got.VFs) == 0 })
	addVF(t, r.host)
	isListed := func(f status.VF) bool { return f.Address == vf && f.State == status.StateListed }
	u := await(s, status.MessageUpdate, func(u status.Update) bool { return slices.ContainsFunc(u.VFs, isListed) })
	if !slices.ContainsFunc(u.Resources, func(r status.Resource) bool { return r.Name == resource }) {
		t.Errorf("the resources of the update are %+v", u.Resources)
	}
	await(s, status.MessageUpdate, func(u status.Update) bool {
		return slices.ContainsFunc(u.Resources, func(r status.Resource) bool {
			return r.Name == resource && r.Phase == status.PhaseWatching && r.Lists > 0 && r.LastList != nil
		})
	})
	got := snapshot(t, r.client(true))
	want := []status.VF{{
		Address: vf, PF: pf, Family: "4xxx", DeviceID: "4941", Driver: "vfio-pci", NUMANode: got.VFs[0].NUMANode,
		IOMMUGroup: got.VFs[0].IOMMUGroup, Node: got.VFs[0].Node, State: status.StateListed, Resource: "cy",
	}}
	if diff := cmp.Diff(want, got.VFs); diff != "" {
		t.Errorf("VFs of /statusz (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(got.VFs[0].Node, "/dev/vfio/") || got.Mode != "dpdk" || got.Version != version {
		t.Errorf("snapshot %+v", got)
	}
	must(t, r.host.RemoveVF(vf))
	await(s, status.MessageUpdate, func(u status.Update) bool { return slices.Contains(u.Removed, vf) })
}

func TestStatusOfModeKernel(t *testing.T) {
	r := startStatus(t, "-mode=kernel", "-adf-ctl=true")
	defer r.stop()
	if got := snapshot(t, r.client(true)); got.Mode != "kernel" || got.Processes == nil || len(got.Loops) != 1 {
		t.Errorf("snapshot %+v", got)
	}
	code, _, body := do(t, r.client(true), "GET", "/debug/recording")
	if want := "Cannot write the recording: mode kernel has no recorder\n"; code != 500 || body != want {
		t.Errorf("/debug/recording: %d %q, want 500 %q", code, body, want)
	}
	s := openStream(t, r.client(true), "")
	defer s.close()
	await(s, status.MessageSnapshot, func(s status.Snapshot) bool { return s.Mode == "kernel" })
}

func TestMetricsAreValid(t *testing.T) {
	r := startStatus(t)
	defer r.stop()
	addVF(t, r.host)
	awaitVF(t, r.kubelet)
	must(t, r.host.RemoveVF(vf)) // a change after the first list
	await := func(n int) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := r.kubelet.WaitList(ctx, resource, func(l kubelettest.List) bool { return len(l.Devices) == n })
		must(t, err)
	}
	await(0)
	must(t, r.host.AddVF(lookalike.VF{Address: vf, PF: pf}))
	await(1)
	c, missing := r.client(false), ""
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		code, _, text := do(t, c, "GET", "/metrics")
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		if err != nil || code != 200 {
			t.Fatalf("status %d, %v", code, err)
		}
		missing = ""
		for _, name := range []string{
			"qat_plugin_build_info", "qat_plugin_event_to_list_seconds", "go_goroutines", "process_open_fds",
		} {
			if families[name] == nil {
				missing = name
			}
		}
		lists := families["qat_plugin_lists_sent_total"].GetMetric()
		if len(lists) != 1 || lists[0].GetCounter().GetValue() < 3 {
			missing = "three lists in qat_plugin_lists_sent_total"
		}
		if missing == "" { // it may be counted after the kubelet has the list
			return
		}
	}
	t.Errorf("no %s", missing)
}

// Clients leave nothing behind.
func TestProgramIsAsBeforeWhenClientsHaveLeft(t *testing.T) {
	r := startStatus(t)
	defer r.stop()
	addVF(t, r.host)
	awaitVF(t, r.kubelet)
	visit := func() {
		var streams []*stream
		c := r.client(true)
		for range 10 {
			streams = append(streams, openStream(t, c, ""))
		}
		for _, s := range streams {
			await(s, status.MessageSnapshot, func(status.Snapshot) bool { return true })
		}
		for range 50 {
			snapshot(t, c)
		}
		for _, s := range streams {
			s.close()
		}
		c.CloseIdleConnections()
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	start := runtime.NumGoroutine()
	settle := func() {
		t.Helper()
		n := 0
		for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if n = runtime.NumGoroutine(); n <= start {
				return
			}
		}
		t.Fatalf("%d goroutines after the clients have left, %d before", n, start)
	}
	visit() // what is allocated once
	settle()
	before := heap()
	for range 5 {
		visit()
		settle()
	}
	const most = 1 << 20 // of noise; a snapshot of each request would be several times that
	if after := heap(); after > before+most {
		t.Errorf("the heap is %d bytes, %d before", after, before)
	}
}

func TestSignalWritesTheRecording(t *testing.T) {
	r := startStatus(t)
	defer r.stop()
	addVF(t, r.host)
	awaitVF(t, r.kubelet)
	must(t, syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	file := filepath.Join(filepath.Dir(r.socket), "recording.ndjson")
	r.log.Await(t, `"Wrote the recording" file="`+file+`"`)
	recording, err := os.Open(file)
	must(t, err)
	defer recording.Close()
	if info, err := recording.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of the recording is %v, want 0600 (%v)", info.Mode(), err)
	}
	replayed, err := qat.Replay(recording)
	if err != nil || len(replayed.Recordings) != 1 {
		t.Fatalf("%d recordings, %v; want one that can be replayed", len(replayed.Recordings), err)
	}
	_, _, body := do(t, r.client(true), "GET", "/debug/recording")
	if replayed, err = qat.Replay(strings.NewReader(body)); err != nil || len(replayed.Recordings) != 1 {
		t.Errorf("/debug/recording cannot be replayed: %v", err)
	}
}

func TestRecordingThatCannotBeWrittenIsExplained(t *testing.T) {
	for _, tt := range []struct{ socket, size, want string }{
		{filepath.Join(t.TempDir(), "missing", "x.sock"), "2048",
			`"Cannot write the recording: create the directory, and restart the plugin"`},
		{"", "2048", `"Not writing the recording, because -status-socket is empty`},
		{filepath.Join(shortDir(t), "x.sock"), "0", `"Cannot write the recording" err="the recorder is switched off"`},
	} {
		p := start(t, "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", t.TempDir(),
			"-status-socket", tt.socket, "-recorder-size", tt.size)
		p.log.Await(t, `"Waiting for the kubelet`) // it receives signals by then
		must(t, syscall.Kill(os.Getpid(), syscall.SIGUSR1))
		p.log.Await(t, tt.want)
		p.stop()
	}
}

func TestNothingIsServedByDefault(t *testing.T) {
	// The directory of the default socket is missing on a machine for tests.
	for name, socket := range map[string]string{
		"default":   "/run/qat_plugin/status.sock",
		"directory": filepath.Join(t.TempDir(), "missing", "status.sock"),
		"empty":     "",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(filepath.Dir(socket)); socket != "" && err == nil {
				testenv.Skip(t, filepath.Dir(socket)+" exists, so the plugin would serve its socket there")
			}
			p := start(t, "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", t.TempDir(),
				"-status-socket", socket, "-v=1")
			p.log.Await(t, `"Waiting for the kubelet`)
			if socket != "" {
				p.log.Await(t, `"Not serving the status socket, because its directory does not exist" socket="`+socket)
			}
			p.stop()
			if lines := p.log.Lines(`"Serving`); len(lines) > 0 {
				t.Errorf("served without flags: %q", lines)
			}
		})
	}
}

func TestSocketOfAnotherPlugin(t *testing.T) {
	path := filepath.Join(shortDir(t), "status.sock")
	other, err := net.Listen("unix", path)
	must(t, err)
	other.(*net.UnixListener).SetUnlinkOnClose(false)
	args := []string{
		"-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", t.TempDir(), "-status-socket", path,
	}
	p := start(t, args...)
	p.log.Await(t, `"Cannot serve the status, retrying; the devices are served regardless" `+
		`err="listen on `+path+`: another process serves it" address="`+path)
	must(t, other.Close()) // as if it was killed: the file stays
	p.log.Await(t, `"Serving the status" address="`+path)
	p.stop()
}
