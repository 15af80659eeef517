// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveInMemory serves until the test ends. closed receives the time at which each
// connection was closed.
func serveInMemory(t *testing.T, s Server) (l *testenv.PipeListener, closed <-chan time.Time) {
	t.Helper()
	server := s.newServer(t.Context())
	times, connState := make(chan time.Time, 2*maxConnections), server.ConnState
	server.ConnState = func(c net.Conn, state http.ConnState) {
		connState(c, state)
		if state == http.StateClosed {
			times <- time.Now()
		}
	}
	l = testenv.NewPipeListener()
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(l); err != http.ErrServerClosed {
			t.Errorf("Serve = %v, want %v", err, http.ErrServerClosed)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	return l, times
}

// request is a request without the empty line that ends it.
const request = "GET /livez HTTP/1.1\r\nHost: plugin\r\n"

func passes(context.Context) error { return nil }

func healthyHandler() http.Handler {
	checks := []Check{{Name: "alive", Run: passes}}
	return Handler(checks, checks)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A connection costs memory and a file descriptor, so no client may keep one for long.
func TestNoClientKeepsAConnectionOpen(t *testing.T) {
	send := func(text string) func(net.Conn) { return func(c net.Conn) { _, _ = io.WriteString(c, text) } }
	sendAndRead := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	for name, tt := range map[string]struct {
		client func(c net.Conn)
		limit  time.Duration
	}{
		"sends nothing":             {func(net.Conn) {}, readTimeout},
		"stops within its request":  {send(request), readTimeout},
		"sends a byte each second":  {trickle, readTimeout + writeTimeout}, // it gets an answer
		"sends no body":             {sendAndRead(request + "Content-Length: 100\r\n\r\n"), readTimeout},
		"does not read the answer":  {send(request + "\r\n"), writeTimeout},
		"sends no second request":   {sendAndRead(request + "\r\n"), 0},
		"wants to keep it for more": {sendAndRead(request + "Connection: keep-alive\r\n\r\n"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, closed := serveInMemory(t, Server{Handler: healthyHandler()})
				opened, c := time.Now(), l.Dial()
				defer c.Close()
				go tt.client(c)
				select {
				case at := <-closed:
					if took := at.Sub(opened); took > tt.limit {
						t.Errorf("the connection was closed after %v, want %v at most", took, tt.limit)
					}
				case <-time.After(time.Hour):
					t.Error("the connection is still open after an hour")
				}
			})
		})
	}
}

// With KeepAlive, a client may send further requests, but not leave the connection idle for long.
func TestIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closed := serveInMemory(t, Server{Handler: healthyHandler(), KeepAlive: true})
		c := l.Dial()
		defer c.Close()
		answers := bufio.NewReader(c)
		var last time.Time
		for i := range 5 {
			if i > 0 {
				time.Sleep(idleTimeout - time.Second)
			}
			_, err := io.WriteString(c, request+"\r\n")
			must(t, err)
			response, err := http.ReadResponse(answers, nil)
			must(t, err)
			_, err = io.Copy(io.Discard, response.Body)
			must(t, err)
			last = time.Now()
		}
		if got := (<-closed).Sub(last); got != idleTimeout {
			t.Errorf("the connection was closed %v after the last answer, want %v", got, idleTimeout)
		}
	})
}

func trickle(c net.Conn) {
	for {
		if _, err := io.WriteString(c, "X"); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

// getInMemory sends a request on a connection of its own and returns the answer.
func getInMemory(t *testing.T, l *testenv.PipeListener, header string) *http.Response {
	t.Helper()
	c := l.Dial()
	t.Cleanup(func() { _ = c.Close() })
	go func() { _, _ = io.WriteString(c, request+header+"\r\n") }()
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	_ = response.Body.Close()
	return response
}

func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closed := serveInMemory(t, Server{Handler: healthyHandler()})
		oldest := l.Dial()
		defer oldest.Close()
		synctest.Wait() // the server knows it before the others
		for range maxConnections - 1 {
			defer l.Dial().Close()
		}
		synctest.Wait()
		if len(closed) > 0 {
			t.Fatal("a connection within the limit was closed")
		}
		dialed := time.Now()
		if response := getInMemory(t, l, ""); response.StatusCode != 200 || !response.Close {
			t.Errorf("beyond the limit: status %d, close %v; want 200, true", response.StatusCode, response.Close)
		}
		if _, err := oldest.Read(make([]byte, 1)); err != io.EOF || time.Since(dialed) > 0 {
			t.Errorf("the oldest connection: %v after %v, want it to be closed at once", err, time.Since(dialed))
		}
	})
}

// TestOldestConnectionMakesRoom opens connections with unfinished requests.
func TestOldestConnectionMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closed := serveInMemory(t, Server{Handler: healthyHandler()})
		begin := func() net.Conn {
			c := l.Dial()
			t.Cleanup(func() { _ = c.Close() })
			_, err := io.WriteString(c, request)
			must(t, err)
			return c
		}
		oldest := begin()
		for range maxConnections {
			begin()
		}
		synctest.Wait()
		if n := len(closed); n != 1 {
			t.Errorf("%d connections were closed, want 1", n)
		}
		if _, err := oldest.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("reading from the oldest connection: %v, want EOF", err)
		}
	})
}

func TestCheckThatTimesOutIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := Check{Name: "stuck", Run: func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("it does not respond")
		}}
		l, closed := serveInMemory(t, Server{Handler: Handler([]Check{stuck}, nil)})
		if status := getInMemory(t, l, "").StatusCode; status != 500 {
			t.Errorf("status %d, want 500", status)
		}
		<-closed
	})
}

// TestServerLogsThroughKlog checks that messages of package net/http, such as a failure to accept
// connections, go to klog.
func TestServerLogsThroughKlog(t *testing.T) {
	var direct, structured bytes.Buffer
	log.SetOutput(&direct)
	klog.LogToStderr(false)
	klog.SetOutput(&structured)
	t.Cleanup(func() {
		klog.SetOutput(io.Discard)
		klog.LogToStderr(true)
		log.SetOutput(os.Stderr)
	})
	synctest.Test(t, func(t *testing.T) {
		l, closed := serveInMemory(t, Server{
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on fire") }),
		})
		c := l.Dial()
		defer c.Close()
		_, err := io.WriteString(c, request+"\r\n")
		must(t, err)
		<-closed
	})
	klog.Flush()
	if direct.Len() > 0 || !strings.Contains(structured.String(), "on fire") {
		t.Errorf("written directly: %s\nthrough klog: %s", &direct, &structured)
	}
}

func TestHeaderSizeIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closed := serveInMemory(t, Server{Handler: healthyHandler()})
		for size, want := range map[int]int{
			maxHeader / 2: http.StatusOK,
			2 * maxHeader: http.StatusRequestHeaderFieldsTooLarge,
		} {
			if status := getInMemory(t, l, "X: "+strings.Repeat("x", size)+"\r\n").StatusCode; status != want {
				t.Errorf("a header of %d bytes: status %d, want %d", size, status, want)
			}
			<-closed
		}
	})
}

// When the program ends, the context of a request in progress ends, and the request is still
// answered. Connections without a request are closed.
func TestShutdownWaitsForRequestsInProgress(t *testing.T) {
	started, answered := make(chan struct{}), atomic.Bool{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		time.Sleep(shutdownTimeout / 10) // Shutdown must wait for the request
		w.WriteHeader(http.StatusInternalServerError)
		answered.Store(true)
	})
	ctx, cancel := context.WithCancel(t.Context())
	opened, ended := make(chan net.Addr, 1), make(chan struct{})
	go func() {
		defer close(ended)
		probes("127.0.0.1:0", handler).run(ctx, func(a net.Addr) { opened <- a })
	}()
	address := (<-opened).String()
	silent, err := net.Dial("tcp", address)
	must(t, err)
	defer silent.Close()
	status := make(chan int, 1)
	go func() {
		got, _ := get(t, "http://"+address+"/livez")
		status <- got
	}()
	<-started
	cancel()
	<-ended
	if !answered.Load() {
		t.Error("run returned before a request in progress was answered")
	}
	if got := <-status; got != 500 {
		t.Errorf("status %d, want 500", got)
	}
	wantClosed(t, silent)
}

// wantClosed fails the test unless the server has closed the connection.
func wantClosed(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(shutdownTimeout/2))) // far more than it takes
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("reading from a connection without a request: %v, want EOF", err)
	}
}

func TestHealthAddressInUseIsTriedAgain(t *testing.T) {
	lines := make(chan string, 100)
	log := funcr.New(func(_, line string) { lines <- line }, funcr.Options{})
	synctest.Test(t, func(t *testing.T) {
		other, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), log))
		opened, ended := make(chan net.Addr, 1), make(chan struct{})
		go func() {
			defer close(ended)
			probes(other.Addr().String(), http.NotFoundHandler()).run(ctx, func(a net.Addr) { opened <- a })
		}()
		time.Sleep(10 * time.Minute)
		var waits []string
		for len(lines) > 0 {
			if _, wait, ok := strings.Cut(<-lines, `"after"=`); ok {
				waits = append(waits, wait)
			}
		}
		waits = slices.Compact(waits) // the longest wait is repeated
		if diff := cmp.Diff([]string{`"1s"`, `"2s"`, `"4s"`, `"8s"`, `"16s"`, `"32s"`, `"1m0s"`}, waits); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
		must(t, other.Close())
		if a := <-opened; a.String() != other.Addr().String() {
			t.Errorf("serves %v, want %v", a, other.Addr())
		}
		cancel()
		<-ended
	})
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return response.StatusCode, string(text)
}
