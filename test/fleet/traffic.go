// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

// A request is one that a node sent to the API server.
type request struct {
	node int
	verb string // "get node" for the node, otherwise the verb of the API for slices: "list", "watch", "create"
	code int    // HTTP status; 0 if there was no answer, inFlight before there is one
	at   time.Time
}

const inFlight = -1

// write reports whether the request changes slices.
func (r *request) write() bool { return r.verb == "create" || r.verb == "update" || r.verb == "delete" }

// traffic records what all nodes send and receive.
type traffic struct {
	sent, received atomic.Int64 // bytes on the connections, with TLS

	mu       sync.Mutex // guards all following fields
	requests []request
}

// mark is a time in the records.
type mark struct {
	requests       int
	sent, received int64
}

func (t *traffic) mark() mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return mark{len(t.requests), t.sent.Load(), t.received.Load()}
}

// since returns the requests after a mark.
func (t *traffic) since(m mark) []request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]request(nil), t.requests[m.requests:]...)
}

// record adds a node's requests to the records. The dialer also keeps the node from sharing a
// connection with the others: client-go shares connections between equal configurations.
func (t *traffic) record(node int, config *rest.Config) {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second} // as in client-go
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countedConn{c, t}, nil
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &recorder{node, t, next} })
}

// countedConn counts the bytes of a connection.
type countedConn struct {
	net.Conn
	t *traffic
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.t.received.Add(int64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.t.sent.Add(int64(n))
	return n, err
}

// recorder records the requests of a node.
type recorder struct {
	node int
	t    *traffic
	next http.RoundTripper
}

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	i := r.t.begin(request{node: r.node, verb: verbOf(q), code: inFlight, at: time.Now()})
	response, err := r.next.RoundTrip(q)
	code := 0
	if err == nil {
		code = response.StatusCode
	}
	r.t.end(i, code)
	return response, err
}

// begin adds a request to the records.
func (t *traffic) begin(r request) (index int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, r)
	return len(t.requests) - 1
}

// end adds the answer to the record of a request.
func (t *traffic) end(index, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests[index].code = code
}

func verbOf(q *http.Request) string {
	_, resource, slices := strings.Cut(q.URL.Path, "/resourceslices")
	switch {
	case !slices && strings.Contains(q.URL.Path, "/nodes/"):
		return "get node"
	case !slices:
		return "other"
	case q.Method == http.MethodPost:
		return "create"
	case q.Method == http.MethodPut:
		return "update"
	case q.Method == http.MethodDelete:
		return "delete"
	case q.URL.Query().Get("watch") != "":
		return "watch"
	case resource != "":
		return "get"
	}
	return "list"
}
