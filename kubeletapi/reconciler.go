// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"

	"qatplugin/internal/dirwatch"
	"qatplugin/internal/retry"
	"qatplugin/internal/unixsocket"
)

// reconciler keeps all sockets and registrations in line with the kubelet. It runs on the
// goroutine of [Manager.Run]. Whatever wakes it, it looks at the directory and does what
// is missing. So the order of events does not matter.
type reconciler struct {
	manager *Manager
	config  config
	log     klog.Logger

	endpoints   []*endpoint              // in the order in which their resources appeared
	withdrawing map[string]chan struct{} // by resource; closed when the resource may be served again
	withdrawals sync.WaitGroup
	stopping    chan struct{} // closed by stop

	watch      *dirwatch.Watch // nil if the directory cannot be watched
	watchError retry.ErrorLog
	rewatchAt  time.Time // when to try again to watch it
	compareAt  time.Time // when to check next that the watched directory was not replaced

	kubeletSock unixsocket.FileID // kubelet.sock as of the last look, zero if it is missing
	kubeletSeen bool              // there was a kubelet.sock before
	waitingFor  string            // the message that says which file is missing, once it is logged
}

func newReconciler(m *Manager, log klog.Logger) *reconciler {
	return &reconciler{
		manager:     m,
		config:      m.config,
		log:         log,
		withdrawing: map[string]chan struct{}{},
		stopping:    make(chan struct{}),
		watchError:  retry.ErrorLog{Log: log, Interval: m.config.repeatInterval},
	}
}

// run reconciles until ctx ends.
func (r *reconciler) run(ctx context.Context) {
	dirChanged := true
	for ctx.Err() == nil {
		next := r.reconcile(ctx, dirChanged)
		dirChanged = r.wait(ctx, next)
	}
}

// wait waits for an event, but not beyond deadline. It reports whether the directory may have
// changed.
func (r *reconciler) wait(ctx context.Context, deadline time.Time) (dirChanged bool) {
	expired := time.NewTimer(time.Until(deadline))
	defer expired.Stop()
	var events <-chan fsnotify.Event
	var failures <-chan error
	if r.watch != nil {
		events, failures = r.watch.Events, r.watch.Errors
	}
	select {
	case <-ctx.Done():
	case <-r.manager.wake:
	case <-expired.C:
	case ev := <-events:
		return r.handleEvent(ev)
	case err, ok := <-failures:
		if !ok {
			err = fsnotify.ErrClosed // events is closed, too
		}
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			r.dropWatch(err)
		}
		return true
	}
	return false
}

// handleEvent replaces the watch if ev is about the directory itself. It reports whether
// ev is about that, the kubelet's socket or one of ours, and not about any other file.
func (r *reconciler) handleEvent(ev fsnotify.Event) bool {
	ev.Name = filepath.Clean(ev.Name) // the watcher reports an entry of "/" as "//name"
	if r.watch.Moved(ev) {
		r.rewatch()
		return true
	}
	return ev.Name == filepath.Join(r.config.dir, kubeletSocket) ||
		slices.ContainsFunc(r.endpoints, func(e *endpoint) bool { return ev.Name == e.path })
}

// reconcile does one pass: it renews the watch of the directory, looks for kubelet.sock, and adds,
// reconciles and withdraws endpoints. It returns the time by which it must be called again.
// dirChanged ends the back-off after failures to listen.
func (r *reconciler) reconcile(ctx context.Context, dirChanged bool) (next time.Time) {
	now := time.Now()
	switch {
	case r.watch == nil && !now.Before(r.rewatchAt):
		r.rewatch()
		dirChanged = true
	case r.watch != nil && !now.Before(r.compareAt):
		r.compareAt = now.Add(r.config.compareInterval)
		if r.watch.Replaced() {
			r.log.Info("The kubelet's directory was replaced, watching the new one", "directory", r.config.dir)
			r.rewatch()
			dirChanged = true
		}
	}
	next = r.compareAt
	if r.watch == nil {
		next = r.rewatchAt
	}
	// The kubelet deletes our sockets and then creates its own. So look at its socket
	// first: one of ours that exists after a new kubelet.sock was found is not deleted.
	r.findKubelet()
	if at := r.withdrawOmitted(now); !at.IsZero() && at.Before(next) {
		next = at
	}
	r.addEndpoints()
	for _, e := range r.endpoints {
		at := e.reconcile(ctx, r.kubeletSock, now, dirChanged)
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// findKubelet looks for the kubelet's socket.
func (r *reconciler) findKubelet() {
	path := filepath.Join(r.config.dir, kubeletSocket)
	id, isSocket, err := unixsocket.Identify(path)
	found := err == nil && isSocket
	r.manager.mu.Lock()
	r.manager.kubeletFound = found
	r.manager.mu.Unlock()
	if !found {
		r.kubeletSock = unixsocket.FileID{}
		message := "Waiting for the kubelet's socket"
		if !dirwatch.Exists(r.config.dir) {
			message, path = "Waiting for the kubelet's directory", r.config.dir
		}
		if message != r.waitingFor {
			r.waitingFor = message
			r.log.Info(message, "path", path)
		}
		return
	}
	r.waitingFor = ""
	if id == r.kubeletSock {
		return
	}
	if r.kubeletSeen {
		r.log.Info("The kubelet restarted, registering again", "socket", path, "resources", len(r.endpoints))
	}
	r.kubeletSock, r.kubeletSeen = id, true
}

// addEndpoints adds an endpoint for each resource that first appears in the newest Tree.
func (r *reconciler) addEndpoints() {
	m := r.manager
	maps.DeleteFunc(r.withdrawing, func(_ string, done chan struct{}) bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	for resource := range m.publisher.Tree().Resources() {
		if _, known := m.registrations[resource.Name()]; known { // only this goroutine writes
			continue
		}
		if r.withdrawing[resource.Name()] != nil {
			continue // the end of the withdrawal wakes the reconciler
		}
		// The streams outlive the context of Run; see stop.
		streamsCtx, stopStreams := context.WithCancel(context.Background())
		s := &service{
			resource:     resource.Name(),
			name:         fullName(m.namespace, resource.Name()),
			plugin:       methodsOf(m.plugin),
			publisher:    &m.publisher,
			cdi:          m.cdiConfig(),
			registration: &registration{wake: m.wake},
			observers:    r.config.observers,
			streamsCtx:   streamsCtx,
			pace:         r.config.pace,
			log:          r.log,
		}
		path := filepath.Join(r.config.dir, socketName(r.config.dir, m.namespace, s.resource))
		r.endpoints = append(r.endpoints, newEndpoint(s, path, r.config, stopStreams))
		m.mu.Lock()
		m.registrations[s.resource] = s.registration
		m.mu.Unlock()
	}
}

// withdrawOmitted withdraws the resources that the Trees have omitted for omitTimeout. It returns
// when the next resource is due, or the zero time.
func (r *reconciler) withdrawOmitted(now time.Time) (next time.Time) {
	m := r.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	for resource, since := range m.omitted {
		if at := since.Add(r.config.omitTimeout); now.Before(at) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		delete(m.omitted, resource)
		delete(m.registrations, resource)
		i := slices.IndexFunc(r.endpoints, func(e *endpoint) bool { return e.service.resource == resource })
		r.withdraw(r.endpoints[i])
		r.endpoints = slices.Delete(r.endpoints, i, i+1)
	}
	return next
}

// withdraw stops an endpoint in the background. Its resource can be served again gracePeriod after
// the end of the streams.
func (r *reconciler) withdraw(e *endpoint) {
	r.log.Info("Withdrawing a resource that the plugin omits", "resource", e.service.name)
	e.abandonAttempt()
	done := make(chan struct{})
	r.withdrawing[e.service.resource] = done
	r.withdrawals.Go(func() {
		e.disconnect()
		e.stop()
		select { // see gracePeriod
		case <-time.After(r.config.gracePeriod):
		case <-r.stopping:
		}
		close(done)
		r.manager.wake.send()
	})
}

// rewatch replaces the watch with one of the directory as it is now.
func (r *reconciler) rewatch() {
	r.watch.Close()
	var err error
	r.compareAt = time.Now().Add(r.config.compareInterval)
	if r.watch, err = r.config.watchDir(r.config.dir); err != nil {
		r.dropWatch(err)
	} else if r.watchError.Clear() {
		r.log.Info("Watching the kubelet's directory again", "directory", r.config.dir)
	}
}

// dropWatch removes the watch until pollInterval has passed.
func (r *reconciler) dropWatch(err error) {
	r.watch.Close()
	r.watch = nil
	r.rewatchAt = time.Now().Add(r.config.pollInterval)
	r.watchError.Report(err, "Cannot watch the kubelet's directory, polling it",
		"directory", r.config.dir, "interval", r.config.pollInterval)
}

// stop stops everything that run started, and waits until it and the plugin's Watch have ended.
// watched is closed when Watch has returned. The error names what does not end in time.
func (r *reconciler) stop(watched <-chan struct{}) error {
	start := time.Now()
	r.watch.Close()
	close(r.stopping)
	var disconnecting sync.WaitGroup
	for _, e := range r.endpoints {
		disconnecting.Go(e.disconnect)
	}
	disconnecting.Wait()
	// Watch, the streams and the servers have the rest of stopTimeout, but at least half of it.
	timeout := time.After(max(r.config.stopTimeout-time.Since(start), r.config.stopTimeout/2))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		var servers sync.WaitGroup
		for _, e := range r.endpoints {
			servers.Go(e.stop)
		}
		servers.Wait()
		r.withdrawals.Wait()
	}()
	select {
	case <-stopped:
	case <-timeout:
		return errors.New("the plugin's Allocate, PostAllocate, PreferredAllocation or PreStartContainer " +
			"does not return")
	}
	select {
	case <-watched:
		return nil
	case <-timeout:
		return errors.New("the plugin's Watch does not return")
	}
}
