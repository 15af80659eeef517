// SPDX-License-Identifier: Apache-2.0

package statusclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve serves answers by path at a Unix socket, and returns its Client.
func serve(t *testing.T, answers map[string]http.HandlerFunc) *statusclient.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "status.sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	mux := http.NewServeMux()
	for path, answer := range answers {
		mux.HandleFunc("GET "+path, answer)
	}
	server := httptest.NewUnstartedServer(mux)
	must(t, server.Listener.Close())
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return statusclient.NewSocket(path)
}

func answer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func TestSnapshotAndFlags(t *testing.T) {
	want := &status.Snapshot{
		Time:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Version: "v1",
		VFs:     []status.VF{{Address: "0000:6b:00.1", State: status.StateListed}},
	}
	c := serve(t, map[string]http.HandlerFunc{
		"/statusz": func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("format") == "json" {
				_ = json.NewEncoder(w).Encode(want)
			} else {
				_, _ = io.WriteString(w, "text")
			}
		},
		"/flagz":           answer(`{"flags": {"sysfs-root": "/host/sys"}}`),
		"/telemetry":       answer(`[{"address": "0000:6b:00.0"}]`),
		"/debug/recording": answer("{}\n"),
	})
	got, err := c.Snapshot(t.Context())
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	text, err := c.Text(t.Context())
	if err != nil || string(text) != "text" {
		t.Errorf("Text returns %q, %v", text, err)
	}
	flags, err := c.Flags(t.Context())
	if err != nil || flags["sysfs-root"] != "/host/sys" {
		t.Errorf("Flags returns %q, %v", flags, err)
	}
	telemetry, err := c.Telemetry(t.Context())
	if err != nil || len(telemetry) != 1 || telemetry[0].Address != "0000:6b:00.0" {
		t.Errorf("Telemetry returns %v, %v", telemetry, err)
	}
	var recording bytes.Buffer
	if err := c.WriteRecording(t.Context(), &recording); err != nil || recording.String() != "{}\n" {
		t.Errorf("WriteRecording writes %q, %v", &recording, err)
	}
}

func TestErrorsNameWhatWasAsked(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "status.sock")
	_, err := statusclient.NewSocket(missing).Snapshot(t.Context())
	if !errors.Is(err, statusclient.ErrNotRunning) || !strings.Contains(err.Error(), missing) {
		t.Errorf("without a socket: %v, want ErrNotRunning and the path", err)
	}

	left := filepath.Join(t.TempDir(), "status.sock") // as after SIGKILL
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	if _, err := statusclient.NewSocket(left).Snapshot(t.Context()); !errors.Is(err, statusclient.ErrNotRunning) {
		t.Errorf("with a socket that nobody listens at: %v, want ErrNotRunning", err)
	}

	c := serve(t, map[string]http.HandlerFunc{
		"/statusz": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "too many clients", http.StatusServiceUnavailable)
		},
		"/flagz": answer("{"),
	})
	_, err = c.Snapshot(t.Context())
	want := "/statusz: 503 Service Unavailable: too many clients"
	if err == nil || !strings.HasSuffix(err.Error(), want) || errors.Is(err, statusclient.ErrNotRunning) {
		t.Errorf("error %v, want one that ends with %q", err, want)
	}
	if _, err = c.Flags(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v for an answer that is cut off", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	if _, err := c.Flags(ctx); err == nil || !strings.HasSuffix(err.Error(), "/flagz: interrupted") {
		t.Errorf("error %v, want the cause", err)
	}
}

func TestRecordingThatIsCutOffIsAnError(t *testing.T) {
	c := serve(t, map[string]http.HandlerFunc{
		"/debug/recording": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "{}\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler) // as if the plugin were killed
		},
	})
	if err := c.WriteRecording(t.Context(), io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestURLs(t *testing.T) {
	for address, want := range map[string]string{
		"localhost:8080":        "http://localhost:8080",
		"http://[::1]:8080/":    "http://[::1]:8080",
		"https://example.com/x": "https://example.com/x",
		"ftp://example.com":     "",
		"http://":               "",
		"http://a b":            "",
	} {
		c, err := statusclient.NewURL(address)
		if (err == nil) != (want != "") || err == nil && c.String() != want {
			t.Errorf("NewURL(%q): %v, %v; want %q", address, c, err, want)
		}
	}
	server := httptest.NewServer(answer(`{"flags": {"v": "2"}}`))
	c, err := statusclient.NewURL(server.URL)
	must(t, err)
	if flags, err := c.Flags(t.Context()); err != nil || flags["v"] != "2" {
		t.Errorf("Flags returns %q, %v", flags, err)
	}
	server.Close()
	if _, err := c.Flags(t.Context()); !errors.Is(err, statusclient.ErrNotRunning) {
		t.Errorf("from a server that has ended: %v, want ErrNotRunning", err)
	}
}

func TestEventsReturnsTheLastOnes(t *testing.T) {
	c := serve(t, map[string]http.HandlerFunc{
		"/events": func(w http.ResponseWriter, r *http.Request) {
			if got := r.URL.RawQuery; got != "follow=false&last=2&types=event" {
				t.Errorf("the query is %s", got)
			}
			for i := range 3 {
				fmt.Fprintf(w, "event: event\nid: %d\ndata: {\"seq\":%[1]d}\n\n", i+1)
			}
		},
	})
	list, err := c.Events(t.Context(), 2)
	must(t, err)
	if len(list) != 2 || list[0].Seq != 2 || list[1].Seq != 3 {
		t.Errorf("got %v, want the events 2 and 3", list)
	}
}

func TestFollow(t *testing.T) {
	const stream = ": keep-alive\n\nevent: snapshot\ndata: {\"version\":\ndata: \"v1\"}\n\n" +
		"event: unknown\r\ndata:{}\r\n\r\n\nevent: event\nid: 7\ndata: {\"seq\": 7}\n\nevent: event\ndata: cut off"
	ended := make(chan struct{})
	c := serve(t, map[string]http.HandlerFunc{
		"/events": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, stream)
			if r.FormValue("last") == "1" {
				return
			}
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(ended)
		},
	})
	var got []string
	record := func(m *statusclient.Message) error {
		got = append(got, m.Type+" "+string(m.Data))
		return nil
	}
	want := []string{"snapshot {\"version\":\n\"v1\"}", "unknown {}", `event {"seq": 7}`}
	if err := c.Follow(t.Context(), []string{"event"}, 1, record); err != io.EOF {
		t.Errorf("error %v at the end of the stream, want EOF", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}

	ctx, cancel := context.WithCancel(t.Context())
	err := c.Follow(ctx, []string{"event"}, 2, func(m *statusclient.Message) error {
		if m.Type == status.MessageEvent {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v after the context was canceled", err)
	}
	<-ended
	stop := errors.New("enough")
	if err := c.Follow(t.Context(), nil, 1, func(*statusclient.Message) error { return stop }); err != stop {
		t.Errorf("error %v, want that of the function", err)
	}
}

// A server that is no plugin may send anything. It must not fill the memory.
func TestLengthOfAnswersIsLimited(t *testing.T) {
	const limit = 16 << 20
	endless := func(line string) http.HandlerFunc {
		part := strings.Repeat(line, 1<<20/len(line))
		return func(w http.ResponseWriter, _ *http.Request) {
			for range 2 * limit / len(part) {
				if _, err := io.WriteString(w, part); err != nil {
					return
				}
			}
		}
	}
	c := serve(t, map[string]http.HandlerFunc{
		"/statusz":   endless(" "),
		"/telemetry": endless(" "),
		"/flagz":     endless(" "),
	})
	for name, ask := range map[string]func() error{
		"Snapshot":  func() error { _, err := c.Snapshot(t.Context()); return err },
		"Text":      func() error { _, err := c.Text(t.Context()); return err },
		"Flags":     func() error { _, err := c.Flags(t.Context()); return err },
		"Telemetry": func() error { _, err := c.Telemetry(t.Context()); return err },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), "the answer is longer than 16 MiB") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for name, line := range map[string]string{"line": "x", "event": "data: " + strings.Repeat("x", 1000) + "\n"} {
		c := serve(t, map[string]http.HandlerFunc{"/events": endless(line)})
		err := c.Follow(t.Context(), nil, 0, func(*statusclient.Message) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "the answer is longer than 16 MiB") {
			t.Errorf("an endless %s: error %v", name, err)
		}
	}
}

func TestEventsKeepsTheLastOnes(t *testing.T) {
	c := serve(t, map[string]http.HandlerFunc{"/events": func(w http.ResponseWriter, _ *http.Request) {
		for n := range 10_000 {
			fmt.Fprintf(w, "event: event\ndata: {\"seq\": %d}\n\n", n)
		}
	}})
	list, err := c.Events(t.Context(), 2)
	must(t, err)
	if len(list) != 2 || list[0].Seq != 9_998 || list[1].Seq != 9_999 || cap(list) > 100 {
		t.Errorf("%d events with room for %d: %+v", len(list), cap(list), list)
	}
}
