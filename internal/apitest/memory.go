// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"

	"k8s.io/client-go/rest"
)

// Config returns a configuration for clients of the server, without a network.
func (s *Server) Config() *rest.Config {
	return &rest.Config{Host: "http://apiserver.invalid", Transport: &memory{s}}
}

// memory is a transport that calls the server.
type memory struct{ server *Server }

// RoundTrip implements [http.RoundTripper].
func (m *memory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.server.mu.Lock()
	down := m.server.down
	m.server.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	ctx, cancel := context.WithCancel(r.Context())
	body, pipe := io.Pipe()
	w := &answer{header: http.Header{}, body: pipe, started: make(chan struct{})}
	broken := make(chan struct{})
	go func() {
		defer func() {
			_ = r.Body.Close()
			switch failure := recover(); failure {
			case nil:
				w.WriteHeader(http.StatusOK)
				_ = pipe.Close()
			case http.ErrAbortHandler:
				_ = pipe.CloseWithError(syscall.ECONNRESET)
				close(broken)
			default:
				panic(failure)
			}
		}()
		m.server.ServeHTTP(w, r.WithContext(ctx))
	}()
	select {
	case <-w.started:
		return &http.Response{
			Status:     http.StatusText(w.code),
			StatusCode: w.code,
			Proto:      "HTTP/1.1",
			ProtoMajor: 1,
			ProtoMinor: 1,
			Header:     w.sent,
			Body:       &responseBody{ReadCloser: body, cancel: cancel},
			Request:    r,
		}, nil
	case <-broken:
		cancel()
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	case <-r.Context().Done():
		cancel()
		_ = body.Close()
		return nil, r.Context().Err()
	}
}

// An answer is the [http.ResponseWriter] of a request in memory.
type answer struct {
	header  http.Header
	body    *io.PipeWriter
	started chan struct{} // closed when code and sent are set
	once    sync.Once
	code    int
	sent    http.Header
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) {
	a.once.Do(func() {
		a.code, a.sent = code, a.header.Clone()
		close(a.started)
	})
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// Flush implements [http.Flusher]. Nothing is buffered.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }

// A responseBody cancels the request when the client closes it.
type responseBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *responseBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}
