// SPDX-License-Identifier: Apache-2.0

// Package probe serves the health checks of a program to the kubelet's probes.
//
// The server is meant for a port that anybody in the cluster can reach. It limits the number,
// duration and size of connections. Idle connections cannot block the kubelet's probes. A [Server]
// serves another handler with the same limits.
package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
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
	// descriptors. So a connection carries one request, as those of the kubelet's probes do, or
	// ends when it was idle for idleTimeout. A request must arrive within readTimeout and be
	// answered within writeTimeout. If there are more than maxConnections, the oldest one is
	// closed. A probe ends long before it is the oldest connection.
	readTimeout    = 5 * time.Second
	writeTimeout   = checkTimeout + 5*time.Second
	idleTimeout    = time.Minute
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

// A Server serves a handler with the limits that the package comment describes.
type Server struct {
	Handler http.Handler
	Serves  string // what the handler serves, for the log, such as "/livez and /readyz"

	// Listen opens the listener. It returns when ctx ends at the latest.
	Listen  func(ctx context.Context) (net.Listener, error)
	Address string // where Listen listens, for the log

	// KeepAlive allows a client to send further requests over its connection, which it may leave
	// idle for a minute.
	KeepAlive bool
}

// ListenTCP returns a function for Server.Listen that listens at a TCP address, such as ":8081".
func ListenTCP(address string) func(context.Context) (net.Listener, error) {
	return func(ctx context.Context) (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	}
}

// Run serves until ctx ends, and then gives requests in progress up to a second. If it cannot
// listen, it logs the error and tries again, first after a second and later after up to a minute.
//
// The context of each request ends with ctx. A handler that needs longer than the limits moves the
// deadlines of its connection with an [http.ResponseController].
func (s Server) Run(ctx context.Context) { s.run(ctx, func(net.Addr) {}) }

// Serve serves the handler of the probes at a TCP address, such as ":8081", as Server.Run does.
func Serve(ctx context.Context, address string, handler http.Handler) {
	probes(address, handler).Run(ctx)
}

func probes(address string, handler http.Handler) Server {
	return Server{Handler: handler, Serves: "/livez and /readyz", Listen: ListenTCP(address), Address: address}
}

// run implements Run. It calls opened with the address at which it listens.
func (s Server) run(ctx context.Context, opened func(net.Addr)) {
	log := klog.FromContext(ctx)
	server := s.newServer(ctx)
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
		listener, err := s.Listen(ctx)
		if err == nil {
			log.Info("Serving "+s.Serves, "address", listener.Addr().String())
			opened(listener.Addr())
			err = server.Serve(listener)
		}
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
			return
		}
		log.Error(err, "Cannot serve "+s.Serves+", retrying; the devices are served regardless",
			"address", s.Address, "after", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// newServer returns the server. The contexts of its requests end with ctx.
func (s Server) newServer(ctx context.Context) *http.Server {
	var open connections
	server := &http.Server{
		Handler:        s.Handler,
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
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
	server.SetKeepAlivesEnabled(s.KeepAlive)
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
