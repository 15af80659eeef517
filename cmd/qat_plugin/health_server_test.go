package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory, so that time can be the test's own.
type pipes struct {
	server chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.server:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.server <- server
	return client
}

// servePipes serves health, in the test's own time. ended gets the time at which a connection ended.
func servePipes(t *testing.T, handler http.Handler) (p *pipes, ended <-chan time.Time) {
	t.Helper()
	server := newHealthServer(t.Context(), handler)
	ends, tell := make(chan time.Time, 2*maxConnections), server.ConnState
	server.ConnState = func(c net.Conn, state http.ConnState) {
		tell(c, state)
		if state == http.StateClosed {
			ends <- time.Now()
		}
	}
	p = &pipes{make(chan net.Conn), make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(p); err != http.ErrServerClosed {
			t.Errorf("Serve ended with %v", err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	return p, ends
}

const request = "GET /livez HTTP/1.1\r\nHost: plugin\r\n"

func wellHandler() http.Handler {
	return healthHandler(patient{}, func(context.Context) error { return nil })
}

// A connection costs memory and a file descriptor. None may be kept for long, whatever its client does.
func TestNoClientKeepsAConnectionForLong(t *testing.T) {
	for name, client := range map[string]func(c net.Conn){
		"that says nothing":         func(net.Conn) {},
		"that stops in its request": func(c net.Conn) { _, _ = io.WriteString(c, request) },
		"that spells": func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "X"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
		"that owes a body": func(c net.Conn) {
			_, _ = io.WriteString(c, request+"Content-Length: 100\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
		"that does not read the answer": func(c net.Conn) { _, _ = io.WriteString(c, request+"\r\n") },
		"that asks no more": func(c net.Conn) {
			_, _ = io.WriteString(c, request+"\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, ended := servePipes(t, wellHandler())
				started, c := time.Now(), p.dial()
				defer c.Close()
				go client(c)
				select {
				case at := <-ended:
					if took := at.Sub(started); took > readTimeout+writeTimeout {
						t.Errorf("the connection ended after %v, want %v at most", took, readTimeout+writeTimeout)
					}
				case <-time.After(time.Hour):
					t.Error("the connection is kept for an hour")
				}
			})
		})
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ended := servePipes(t, wellHandler())
		for range maxConnections {
			defer p.dial().Close()
		}
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatal("a connection was closed though there is room")
		}
		one := p.dial()
		defer one.Close()
		started := time.Now()
		if _, err := one.Read(make([]byte, 1)); err != io.EOF || time.Since(started) > 0 {
			t.Errorf("one connection too many: %v after %v, want the end at once", err, time.Since(started))
		}
		<-ended
		for range maxConnections {
			<-ended // as they say nothing
		}
		next := p.dial()
		defer next.Close()
		if _, err := io.WriteString(next, request+"\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(next), nil)
		if err != nil {
			t.Fatalf("when there is room again: %v", err)
		}
		defer response.Body.Close()
		if response.StatusCode != 200 || !response.Close {
			t.Errorf("status %d, to be closed: %v; want 200, true", response.StatusCode, response.Close)
		}
	})
}

func TestACheckThatTakesAllItMayIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ended := servePipes(t, healthHandler(patient{stuck: true}, func(context.Context) error { return nil }))
		c := p.dial()
		defer c.Close()
		if _, err := io.WriteString(c, request+"\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != 500 {
			t.Errorf("status %d, want 500", response.StatusCode)
		}
		<-ended
	})
}

func TestALongHeaderIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ended := servePipes(t, wellHandler())
		c := p.dial()
		defer c.Close()
		go func() { _, _ = io.WriteString(c, request+"X: "+strings.Repeat("x", 2*maxHeader)+"\r\n\r\n") }()
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d, want %d", response.StatusCode, http.StatusRequestHeaderFieldsTooLarge)
		}
		<-ended
	})
}

// At the end a check that waits, as for an event loop that has ended, waits no longer, and who asked is answered; who says nothing is cut off.
func TestTheEndAnswersWhatIsUnderWayAndWaitsForIt(t *testing.T) {
	begun, answered := make(chan struct{}), atomic.Bool{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		time.Sleep(shutdownTimeout / 10) // which the end must wait for
		w.WriteHeader(http.StatusInternalServerError)
		answered.Store(true)
	})
	ctx, cancel := context.WithCancel(t.Context())
	opened, ended := make(chan net.Addr, 1), make(chan struct{})
	go func() {
		defer close(ended)
		serveHealth(ctx, "127.0.0.1:0", handler, func(a net.Addr) { opened <- a })
	}()
	address := (<-opened).String()
	silent, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	status := make(chan int)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get("http://" + address + "/livez")
		if err != nil {
			t.Error(err)
			close(status)
			return
		}
		defer response.Body.Close()
		status <- response.StatusCode
	}()
	<-begun
	cancel()
	<-ended
	if !answered.Load() {
		t.Error("serving ended before the request that was under way")
	}
	if got := <-status; got != 500 {
		t.Errorf("status %d, want 500", got)
	}
	mustHaveEnded(t, silent)
}

// mustHaveEnded fails when the server has not closed the connection by now.
func mustHaveEnded(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(shutdownTimeout / 2)); err != nil { // of the test, which needs microseconds
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection that says nothing: %v, want its end", err)
	}
}
