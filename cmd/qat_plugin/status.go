// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"qatplugin/internal/metrics"
	"qatplugin/internal/statuspage"
	"qatplugin/internal/statusserver"
	"qatplugin/internal/unixsocket"
	"qatplugin/kubeletapi/probe"
)

// journalLimit is the number of events that the journal keeps, of about 200 bytes each.
const journalLimit = 1000

// servesStatus reports whether the status is served at all.
func (o *options) servesStatus() bool { return o.httpAddress != "" || o.servesStatusSocket() }

// servesStatusSocket reports whether the directory of -status-socket exists.
func (o *options) servesStatusSocket() bool {
	if o.statusSocket == "" {
		return false
	}
	info, err := os.Stat(filepath.Dir(o.statusSocket))
	return err == nil && info.IsDir()
}

// servers returns the servers of the status. Each has a handler of its own, so that clients of the
// address cannot use up the limits of the socket.
func (o *options) servers(newHandler func() http.Handler) (list []probe.Server) {
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

// serveStatus serves v until ctx ends. It returns when the last request has ended.
func (o *options) serveStatus(ctx context.Context, v *view, meters *metrics.Metrics, live []probe.Check) {
	newHandler := func() http.Handler {
		return statusserver.New(statusserver.Config{
			Source:    v,
			Live:      live,
			Ready:     v.checks,
			Metrics:   meters.Handler(v),
			Page:      statuspage.Handler(),
			Flags:     o.values,
			Profiling: o.profiling,
		})
	}
	var running sync.WaitGroup
	for _, server := range o.servers(newHandler) {
		running.Go(func() { server.Run(ctx) })
	}
	running.Wait()
	v.holders.close()
}
