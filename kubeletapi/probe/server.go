// SPDX-License-Identifier: Apache-2.0

// Package probe serves the health checks of a program to the kubelet's probes.
//
// The server is meant for a port that anybody in the cluster can reach. It limits the number,
// duration and size of connections. Idle connections cannot block the kubelet's probes.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// checkTimeout limits all checks of one request together. It is shorter
	// than the timeout of the probes in deployments/.
	checkTimeout = 3 * time.Second

	// If the server cannot listen on the address, it tries again after
	// listenFirst. The time doubles with each further failure up to listenMax.
	listenFirst = time.Second
	listenMax   = time.Minute

	// shutdownTimeout limits the requests in progress when the program ends.
	shutdownTimeout = time.Second

	// Anybody who can reach the address can open connections, which cost memory and file
	// descriptors. So a connection carries one request, as those of the kubelet's probes do.
	// The request must arrive within readTimeout and be answered within writeTimeout. If there
	// are more than maxConnections, the oldest one is closed. A probe ends long before it is
	// the oldest connection.
	readTimeout    = 5 * time.Second
	writeTimeout   = checkTimeout + 5*time.Second
	maxConnections = 64
	maxHeader      = 16 << 10 // bytes
)

// An Address is a [flag.Value] for the address of a server. The empty Address means no server.
type Address string

// String implements [flag.Value].
func (a *Address) String() string {
	if a == nil { // package flag compares defaults with it
		return ""
	}
	return string(*a)
}

// Set implements [flag.Value].
func (a *Address) Set(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil && text != "" {
		return errors.New("must be HOST:PORT or :PORT with a port from 0 (any free one) to 65535, or empty")
	}
	*a = Address(text)
	return nil
}

// A Check is one health check.
type Check struct {
	Name string                          // in lower case, like "registered"
	Run  func(ctx context.Context) error // returns what is wrong; must return when ctx ends
}

// Handler returns the handler of /livez and /readyz. /livez fails if the process should be
// restarted, and /readyz if it cannot do its work. Both answer with status 200 or 500 and the same
// text as Kubernetes components: "ok", or a line for each check with ?verbose and after a failure.
// The checks of a request have three seconds together.
func Handler(live, ready []Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", checks{"livez", live})
	mux.Handle("GET /readyz", checks{"readyz", ready})
	return mux
}

// checks is the handler of one path.
type checks struct {
	name string
	list []Check
}

// ServeHTTP runs the checks and answers with their results.
func (c checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	var text strings.Builder
	var failed []string
	for _, check := range c.list {
		if err := check.Run(ctx); err != nil {
			failed = append(failed, check.Name)
			fmt.Fprintf(&text, "[-]%s failed: %v\n", check.Name, err)
		} else {
			fmt.Fprintf(&text, "[+]%s ok\n", check.Name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case len(failed) > 0:
		klog.FromContext(ctx).V(2).Info("A health check failed", "path", "/"+c.name, "checks", failed)
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", text.String(), c.name)
	case r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", text.String(), c.name)
	default:
		fmt.Fprint(w, "ok")
	}
}

// newServer returns the server. The contexts of its requests end with ctx.
func newServer(ctx context.Context, handler http.Handler) *http.Server {
	var open connections
	server := &http.Server{
		Handler:        handler,
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       klog.NewStandardLogger("WARNING"), // not to standard error, which may block
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.add(c)
			case http.StateClosed:
				open.remove(c)
			}
		},
	}
	server.SetKeepAlivesEnabled(false)
	return server
}

// connections holds the open connections of a server.
type connections struct {
	mu   sync.Mutex
	list []net.Conn // in the order in which they were opened
}

// add adds a connection. If there are too many, it closes the oldest one.
func (s *connections) add(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list = append(s.list, c); len(s.list) > maxConnections {
		_ = s.list[0].Close() // the server notices, and reports StateClosed
		s.list = slices.Delete(s.list, 0, 1)
	}
}

// remove removes a connection that is closed.
func (s *connections) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(other net.Conn) bool { return other == c })
}

// Serve serves the handler at a TCP address, such as ":8081", until ctx ends, and then gives
// requests in progress up to a second. If it cannot listen on the address, it logs the error and
// tries again, first after a second and later after up to a minute.
func Serve(ctx context.Context, address string, handler http.Handler) {
	serve(ctx, address, handler, func(net.Addr) {})
}

// serve implements Serve. It calls opened with the address on which it listens.
func serve(ctx context.Context, address string, handler http.Handler, opened func(net.Addr)) {
	log := klog.FromContext(ctx)
	server := newServer(ctx, handler)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
	defer func() {
		if !stop() {
			<-ended // Serve returns as soon as Shutdown begins
		}
	}()
	for wait := listenFirst; ; wait = min(2*wait, listenMax) {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			log.Info("Serving /livez and /readyz", "address", listener.Addr().String())
			opened(listener.Addr())
			err = server.Serve(listener)
		}
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
			return
		}
		log.Error(err, "Cannot serve /livez and /readyz, retrying; the devices are served regardless",
			"address", address, "after", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
