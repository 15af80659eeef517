// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"qatplugin/internal/status"
	"qatplugin/internal/statuspage"
	"qatplugin/internal/statusserver"
	"qatplugin/internal/unixsocket"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

// A Server is what [Serve] serves and reports.
type Server struct {
	Options     *Options // Options.QAT is the configuration of Plugin
	Plugin      *qat.Plugin
	Live, Ready []probe.Check
	Started     time.Time // of the process
	Version     string
	Controller  string // the program in Kubernetes Events, such as "qat.intel.com/device-plugin"

	// AddFront adds the state of the front to a snapshot. It must not block.
	AddFront func(*status.Snapshot)

	// Holders returns what holds the VFs, by address, for the field Holder of a status.VF. It may
	// be nil. It is not called for Kubernetes Events.
	Holders func(context.Context) map[string]string

	// Metrics returns a handler that serves the metrics. If it is nil, no status is served.
	Metrics func(status.Source) http.Handler
}

// Serve serves the health checks and the status, writes a recording at each SIGUSR1 and reports
// Kubernetes Events, each if the flags enable it, until ctx ends or stop is called. SIGUSR1
// has its effect when Serve returns. stop waits until the last request has ended.
func Serve(ctx context.Context, s Server) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	o, running := s.Options, new(sync.WaitGroup)
	if o.healthAddress != "" {
		running.Go(func() { probe.Serve(ctx, o.healthAddress, probe.Handler(s.Live, s.Ready)) })
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	running.Go(func() {
		defer signal.Stop(signals)
		writeRecordings(ctx, signals, o.recordingPath(), s.Plugin.WriteRecording)
	})
	if s.Metrics != nil {
		running.Go(func() { s.serveStatus(ctx) })
	}
	if o.KubernetesEvents {
		v := &view{server: s}
		running.Go(func() { reportEvents(ctx, v, os.Getenv) })
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// serveStatus serves the status until ctx ends. It returns when the last request has ended.
func (s Server) serveStatus(ctx context.Context) {
	v := &view{server: s, forReaders: true}
	newHandler := func() http.Handler {
		return statusserver.New(statusserver.Config{
			Source:    v,
			Live:      s.Live,
			Ready:     s.Ready,
			Metrics:   s.Metrics(v),
			Page:      statuspage.Handler(),
			Flags:     s.Options.values,
			Profiling: s.Options.profiling,
		})
	}
	var running sync.WaitGroup
	for _, server := range s.Options.servers(newHandler) {
		running.Go(func() { server.Run(ctx) })
	}
	running.Wait()
}

// servers returns the servers of the status. Each has a handler of its own, so that clients of the
// address cannot use up the limits of the socket.
func (o *Options) servers(newHandler func() http.Handler) (list []probe.Server) {
	if o.httpAddress != "" {
		list = append(list, probe.Server{
			Handler:   newHandler(),
			Serves:    "the status",
			Listen:    probe.ListenTCP(o.httpAddress),
			Address:   o.httpAddress,
			KeepAlive: true,
		})
	}
	if o.servesStatusSocket() {
		list = append(list, probe.Server{
			Handler:   newHandler(),
			Serves:    "the status",
			Listen:    func(context.Context) (net.Listener, error) { return listenStatus(o.statusSocket) },
			Address:   o.statusSocket,
			KeepAlive: true,
		})
	}
	return list
}

// A statusSocket removes its file when it is closed.
type statusSocket struct{ *unixsocket.Socket }

// listenStatus creates the status socket, to which only the user of the plugin can connect.
func listenStatus(path string) (net.Listener, error) {
	s, err := unixsocket.Listen(path, 0o600)
	if err != nil {
		return nil, err
	}
	return statusSocket{s}, nil
}

// Close implements [net.Listener].
func (s statusSocket) Close() error {
	s.Remove()
	return nil
}
