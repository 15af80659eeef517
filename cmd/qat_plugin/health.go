package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

const (
	// checkPatience is what all checks of one request may take together. It is less than the probes of deployments/ wait.
	checkPatience = 3 * time.Second
	// An address that cannot be listened to is tried again after listenFirst, then after twice as long each time up to listenMax.
	listenFirst = time.Second
	listenMax   = time.Minute
	// hangUp is what requests under way get at the end.
	hangUp = time.Second

	// Whoever reaches the address can make connections, and pays with memory and file descriptors that the devices are served with. So each
	// carries one request, as the kubelet's probes do; it has readPatience to arrive and its answer, from then on, answerPatience to leave. More
	// than maxConnections at once are closed unheard.
	readPatience   = 5 * time.Second
	answerPatience = checkPatience + 5*time.Second
	maxConnections = 64
	maxHeader      = 16 << 10 // bytes
)

// A check is one thing that must be well. Its error says what is not.
type check struct {
	name string
	run  func(ctx context.Context) error
}

// vitals are what a mode of the plugin answers for.
type vitals interface {
	CheckEventLoop(ctx context.Context) error
	CheckFirstLook(ctx context.Context) error
	CheckKernelHeard(ctx context.Context) error
}

// healthHandler serves /livez, whether the process is worth keeping, and /readyz, whether the kubelet holds the truth. Both answer 200 or 500,
// with the text that Kubernetes' own programs give: "ok", and with ?verbose or on failure a line for each check.
func healthHandler(v vitals, registered func(context.Context) error) http.Handler {
	loop := check{"event-loop", v.CheckEventLoop}
	mux := http.NewServeMux()
	mux.Handle("GET /livez", checks{"livez", []check{loop}})
	mux.Handle("GET /readyz", checks{"readyz", []check{loop, {"first-look", v.CheckFirstLook}, {"kernel-heard", v.CheckKernelHeard}, {"registered", registered}}})
	return mux
}

type checks struct {
	name string
	list []check
}

func (c checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkPatience)
	defer cancel()
	var text strings.Builder
	var failed []string
	for _, check := range c.list {
		if err := check.run(ctx); err != nil {
			failed = append(failed, check.name)
			fmt.Fprintf(&text, "[-]%s failed: %v\n", check.name, err)
		} else {
			fmt.Fprintf(&text, "[+]%s ok\n", check.name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if len(failed) > 0 {
		klog.V(2).InfoS("A health check failed", "path", "/"+c.name, "checks", failed)
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", text.String(), c.name)
		return
	}
	if !r.URL.Query().Has("verbose") {
		fmt.Fprint(w, "ok")
		return
	}
	fmt.Fprintf(w, "%s%s check passed\n", text.String(), c.name)
}

// newHealthServer makes the server, whose requests end with ctx.
func newHealthServer(ctx context.Context, handler http.Handler) *http.Server {
	var connections atomic.Int32
	server := &http.Server{
		Handler: handler, ReadTimeout: readPatience, WriteTimeout: answerPatience, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if connections.Add(1) > maxConnections {
					_ = c.Close() // to which the server comes, and then tells of its end
				}
			case http.StateClosed:
				connections.Add(-1)
			}
		},
	}
	server.SetKeepAlivesEnabled(false)
	return server
}

// serveHealth serves the handler at the address until ctx ends, and returns when what is under way then is answered, or hangUp is over. An address
// that cannot be had is logged and tried again: devices are served all the same. opened is told the address that is served; it may be nil.
func serveHealth(ctx context.Context, address string, handler http.Handler, opened func(net.Addr)) {
	server := newHealthServer(ctx, handler)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangUp)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
	defer func() {
		if !stop() {
			<-ended // Serve returns when Shutdown begins
		}
	}()
	for wait := listenFirst; ; wait = min(2*wait, listenMax) {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			klog.InfoS("Serving /livez and /readyz", "address", listener.Addr().String())
			if opened != nil {
				opened(listener.Addr())
			}
			err = server.Serve(listener)
		}
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
			return
		}
		klog.ErrorS(err, "Cannot serve /livez and /readyz, trying again; the devices are served all the same", "address", address, "after", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
