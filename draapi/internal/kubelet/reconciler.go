// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"

	"qatplugin/internal/dirwatch"
	"qatplugin/internal/retry"
	"qatplugin/internal/unixsocket"
)

const (
	listenFirst     = 2 * time.Millisecond // between attempts to create a socket
	listenMax       = 10 * time.Second
	compareInterval = 10 * time.Second // between looks at what causes no event
	pollInterval    = 2 * time.Second  // without a watch of a directory
	repeatInterval  = 10 * time.Minute // between log messages of an error that persists

	// While the kubelet has not registered the driver, the registration socket is recreated.
	announceFirst = 10 * time.Second
	announceMax   = 2 * time.Minute

	// staleAge is the age from which on a socket that refuses connections is removed. The process
	// that has created a younger one may not listen yet.
	staleAge = 10 * time.Second
)

// reconciler keeps both sockets in place. It runs on the goroutine of [Server.Run]. Each pass
// compares the directories with what should be there, whatever has caused the pass.
type reconciler struct {
	server        *Server
	registry, dra *endpoint
	registryDir   *directory
	pluginDir     *directory
	running       sync.WaitGroup // goroutines that serve a socket

	waitingFor string    // the directory that is missing, once that is logged; or ""
	staleAt    time.Time // when to look for stale sockets next
	announceAt time.Time // when to recreate the registration socket; zero if the kubelet is connected
	announce   retry.BackOff
}

func newReconciler(s *Server, registry, dra *grpc.Server) *reconciler {
	errorLog := func() retry.ErrorLog { return retry.ErrorLog{Log: s.config.Log, Interval: repeatInterval} }
	newEndpoint := func(path string, server *grpc.Server, prepare func()) *endpoint {
		return &endpoint{
			path:    path,
			server:  server,
			prepare: prepare,
			backOff: retry.BackOff{First: listenFirst, Limit: listenMax},
			errors:  errorLog(),
		}
	}
	return &reconciler{
		server:      s,
		registry:    newEndpoint(s.registryPath, registry, s.state.forget),
		dra:         newEndpoint(s.draPath, dra, func() {}),
		registryDir: &directory{path: s.registryDir, errors: errorLog()},
		pluginDir:   &directory{path: s.pluginDir, errors: errorLog()},
		announce:    retry.BackOff{First: announceFirst, Limit: announceMax},
	}
}

// run reconciles until ctx ends.
func (r *reconciler) run(ctx context.Context) {
	dirChanged := true
	for ctx.Err() == nil {
		next := r.reconcile(time.Now(), dirChanged)
		dirChanged = r.wait(ctx, next)
	}
}

// close ends the watches.
func (r *reconciler) close() {
	r.registryDir.watch.Close()
	r.pluginDir.watch.Close()
}

// wait waits for an event, but not beyond deadline. It reports whether a directory may have
// changed.
func (r *reconciler) wait(ctx context.Context, deadline time.Time) (dirChanged bool) {
	expired := time.NewTimer(time.Until(deadline))
	defer expired.Stop()
	registryEvents, registryErrors := r.registryDir.events()
	pluginEvents, pluginErrors := r.pluginDir.events()
	select {
	case <-ctx.Done():
	case <-r.server.state.wake:
	case <-expired.C:
	case ev := <-registryEvents:
		return r.registryDir.handleEvent(ev, r.registry.path)
	case ev := <-pluginEvents:
		return r.pluginDir.handleEvent(ev, r.dra.path)
	case err, ok := <-registryErrors:
		r.registryDir.handleError(err, ok)
		return true
	case err, ok := <-pluginErrors:
		r.pluginDir.handleError(err, ok)
		return true
	}
	return false
}

// reconcile does one pass. It returns the time by which it must be called again. dirChanged ends
// the back-off after failures to listen.
func (r *reconciler) reconcile(now time.Time, dirChanged bool) (next time.Time) {
	s := r.server
	next = earlier(r.registryDir.reconcile(now), r.pluginDir.reconcile(now))
	if !dirwatch.Exists(s.registryDir) {
		// The kubelet creates it. Without it, this is not the kubelet's directory.
		if r.waitingFor != s.registryDir {
			r.waitingFor = s.registryDir
			s.config.Log.Info("Waiting for the kubelet's directory", "path", s.registryDir)
		}
		s.state.setUnserved(fmt.Errorf("%s does not exist", s.registryDir))
		return next
	}
	r.waitingFor = ""
	if !now.Before(r.staleAt) {
		r.removeStale(now)
		r.staleAt = now.Add(compareInterval)
	}
	next = earlier(next, r.staleAt)

	err := os.MkdirAll(s.pluginDir, 0o750)
	if err == nil {
		_, err = r.listen(r.dra, now, dirChanged)
	}
	created := false
	if err == nil { // the kubelet connects as soon as it finds the registration socket
		created, err = r.listen(r.registry, now, dirChanged)
	}
	s.state.setUnserved(err)
	if err != nil {
		return earlier(next, r.retryAt(now))
	}
	return earlier(next, r.announceAgain(now, created))
}

// retryAt returns when to try again to create a socket.
func (r *reconciler) retryAt(now time.Time) time.Time {
	at := now.Add(listenMax)
	for _, e := range []*endpoint{r.registry, r.dra} {
		if e.retryAt.After(now) {
			at = earlier(at, e.retryAt)
		}
	}
	return at
}

// announceAgain recreates the registration socket when that is due. It returns when it must be
// called again.
func (r *reconciler) announceAgain(now time.Time, created bool) time.Time {
	s := r.server
	if created {
		r.announceAt = now.Add(r.announce.Next())
		return r.announceAt
	}
	if s.state.status().Err == nil {
		r.announce.Reset()
		r.announceAt = time.Time{}
		return now.Add(compareInterval)
	}
	if r.announceAt.IsZero() {
		r.announceAt = now.Add(r.announce.Next())
	}
	if now.Before(r.announceAt) {
		return r.announceAt
	}
	s.config.Log.V(2).Info("Recreating the registration socket, because the kubelet is not connected",
		"socket", s.registryPath)
	r.registry.socket.Remove()
	_, err := r.listen(r.registry, now, true)
	s.state.setUnserved(err)
	r.announceAt = now.Add(r.announce.Next())
	return r.announceAt
}

// listen creates the socket of the endpoint if it is missing. It returns the last error while the
// next attempt is not due.
func (r *reconciler) listen(e *endpoint, now time.Time, dirChanged bool) (created bool, err error) {
	if e.socket.Exists() {
		return false, nil
	}
	if !dirChanged && now.Before(e.retryAt) {
		return false, e.err
	}
	e.prepare()
	socket, err := unixsocket.Listen(e.path, 0o600)
	if e.err = err; err != nil {
		e.retryAt = now.Add(e.backOff.Next())
		e.errors.Report(err, "Cannot serve the kubelet, trying again", "socket", e.path)
		return false, err
	}
	if e.socket != nil {
		e.socket.Close() // without its file, no client can connect to it
	}
	e.socket, e.retryAt = socket, time.Time{}
	e.backOff.Reset()
	e.errors.Clear()
	log := r.server.config.Log
	log.V(1).Info("Serving the kubelet", "socket", e.path)
	r.running.Go(func() {
		err := e.server.Serve(socket)
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			log.Error(err, "Stopped serving the kubelet", "socket", e.path)
		}
	})
	return true, nil
}

// endpoint is a socket and its server. The server outlives its sockets and keeps their
// connections, so deleting the file does not disturb a connected kubelet.
type endpoint struct {
	path    string
	server  *grpc.Server
	prepare func()             // called before the socket is created
	socket  *unixsocket.Socket // nil before the first
	retryAt time.Time          // not to try again before; zero if socket was created
	err     error              // of the last attempt
	backOff retry.BackOff
	errors  retry.ErrorLog
}

// uuid matches the UID of a pod.
var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// removeStale removes sockets that earlier instances of the driver have left behind. The kubelet
// tries to connect to them forever.
func (r *reconciler) removeStale(now time.Time) {
	s := r.server
	for _, dir := range []struct{ path, prefix, suffix string }{
		{s.registryDir, s.config.Driver, "-reg.sock"},
		{s.pluginDir, "dra", ".sock"},
	} {
		entries, err := os.ReadDir(dir.path)
		if err != nil {
			continue // listen reports it
		}
		for _, e := range entries {
			uid, isOurs := strings.CutPrefix(e.Name(), dir.prefix)
			uid, isSocket := strings.CutSuffix(uid, dir.suffix)
			if !isOurs || !isSocket || uid != "" && !uuid.MatchString(strings.TrimPrefix(uid, "-")) {
				continue
			}
			path := filepath.Join(dir.path, e.Name())
			info, err := e.Info()
			if err != nil || path == s.registryPath || path == s.draPath || now.Sub(info.ModTime()) < staleAge {
				continue
			}
			if unixsocket.RemoveStale(path) == nil {
				s.config.Log.Info("Removed the socket of an earlier instance", "socket", path)
			}
		}
	}
}

// directory is a watched directory.
type directory struct {
	path      string
	watch     *dirwatch.Watch // nil if the directory cannot be watched
	rewatchAt time.Time       // when to try again to watch it
	compareAt time.Time       // when to check next that the watched directory was not replaced
	errors    retry.ErrorLog
}

// events returns the channels of the watch. They are nil without a watch.
func (d *directory) events() (<-chan fsnotify.Event, <-chan error) {
	if d.watch == nil {
		return nil, nil
	}
	return d.watch.Events, d.watch.Errors
}

// reconcile renews the watch if necessary. It returns when it must be called again.
func (d *directory) reconcile(now time.Time) time.Time {
	switch {
	case d.watch == nil && !now.Before(d.rewatchAt):
		d.rewatch(now)
	case d.watch != nil && !now.Before(d.compareAt):
		d.compareAt = now.Add(compareInterval)
		if d.watch.Replaced() {
			d.rewatch(now)
		}
	}
	if d.watch == nil {
		return d.rewatchAt
	}
	return d.compareAt
}

// handleEvent replaces the watch if ev is about the directory itself. It reports whether ev is
// about that or about the socket.
func (d *directory) handleEvent(ev fsnotify.Event, socket string) bool {
	if d.watch.Moved(ev) {
		d.rewatch(time.Now())
		return true
	}
	return filepath.Clean(ev.Name) == socket
}

// handleError ends a watch that has failed. An overflow of its queue is not a failure.
func (d *directory) handleError(err error, ok bool) {
	if !ok {
		err = fsnotify.ErrClosed // events is closed, too
	}
	if !errors.Is(err, fsnotify.ErrEventOverflow) {
		d.drop(err)
	}
}

// rewatch replaces the watch with one of the directory that is now at the path.
func (d *directory) rewatch(now time.Time) {
	d.watch.Close()
	var err error
	d.compareAt = now.Add(compareInterval)
	if d.watch, err = dirwatch.New(d.path); err != nil {
		d.drop(err)
	} else if d.errors.Clear() {
		d.errors.Log.Info("Watching the kubelet's directory again", "directory", d.path)
	}
}

// drop removes the watch until pollInterval has passed.
func (d *directory) drop(err error) {
	d.watch.Close()
	d.watch = nil
	d.rewatchAt = time.Now().Add(pollInterval)
	d.errors.Report(err, "Cannot watch the kubelet's directory, polling it",
		"directory", d.path, "interval", pollInterval)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
