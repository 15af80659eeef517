// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// reconciler keeps all sockets and registrations in line with the kubelet. It runs on the
// goroutine of [Manager.Run]. Whatever wakes it, it looks at the directory and does what is
// missing. So the order of events does not matter, and a needless wake-up costs little.
type reconciler struct {
	*shared
	log klog.Logger

	endpoints   []*endpoint // in the order in which their resources appeared
	calls       inflight
	streams     context.Context // of all ListAndWatch calls; outlives the context of Run
	stopStreams context.CancelFunc

	watch      *dirWatch // nil if the directory cannot be watched
	watchError throttledError
	rewatchAt  time.Time // when to try again to watch it

	kubelet     fileID // kubelet.sock as of the last look, zero if it is missing
	kubeletSeen bool   // there was a kubelet.sock before
	waitingFor  string // the message that says which file is missing, once it is logged
}

func newReconciler(s *shared, log klog.Logger) *reconciler {
	streams, stopStreams := context.WithCancel(context.Background())
	return &reconciler{
		shared:      s,
		log:         log,
		streams:     streams,
		stopStreams: stopStreams,
		watchError:  throttledError{log: log, interval: s.config.repeatInterval},
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

// wait waits for an event, but not beyond deadline unless it is zero. It reports whether
// the directory may have changed.
func (r *reconciler) wait(ctx context.Context, deadline time.Time) (dirChanged bool) {
	var expired <-chan time.Time
	if !deadline.IsZero() {
		expired = time.After(time.Until(deadline))
	}
	var events <-chan fsnotify.Event
	var failures <-chan error
	if r.watch != nil {
		events, failures = r.watch.fs.Events, r.watch.fs.Errors
	}
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-expired:
	case ev, ok := <-events:
		if ok {
			return r.isRelevant(ev)
		}
		r.dropWatch(errors.New("the watcher is closed"))
		return true
	case err, ok := <-failures:
		if !ok || !errors.Is(err, fsnotify.ErrEventOverflow) {
			r.dropWatch(err)
		}
		return true
	}
	return false
}

// isRelevant reports whether ev is about the directory itself, the kubelet's socket or
// one of ours, and not about the kubelet's checkpoint or the sockets of other plugins.
func (r *reconciler) isRelevant(ev fsnotify.Event) bool {
	ev.Name = filepath.Clean(ev.Name) // the watcher reports an entry of "/" as "//name"
	if r.watch.moved(ev) {
		r.rewatch()
		return true
	}
	return ev.Name == filepath.Join(r.config.dir, kubeletSocket) ||
		slices.ContainsFunc(r.endpoints, func(e *endpoint) bool { return ev.Name == e.path })
}

// reconcile does what is missing. It returns when it must be called again at the latest, or the
// zero time if it need not be. dirChanged ends the back-off after failures to listen.
func (r *reconciler) reconcile(ctx context.Context, dirChanged bool) (next time.Time) {
	now := time.Now()
	if r.watch == nil {
		if !now.Before(r.rewatchAt) {
			r.rewatch()
			dirChanged = true
		}
		if r.watch == nil {
			next = r.rewatchAt
		}
	}
	// The kubelet deletes our sockets and then creates its own. So look at its socket
	// first: one of ours that exists after a new kubelet.sock was found is not deleted.
	r.findKubelet()
	r.addEndpoints()
	for _, e := range r.endpoints {
		at := e.reconcile(ctx, r.kubelet, now, dirChanged)
		if next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// findKubelet looks for the kubelet's socket.
func (r *reconciler) findKubelet() {
	path := filepath.Join(r.config.dir, kubeletSocket)
	id, isSocket, err := identify(path)
	if err != nil || !isSocket {
		r.kubelet = fileID{}
		message := "Waiting for the kubelet's socket"
		if _, _, err := identify(r.config.dir); err != nil {
			message, path = "Waiting for the kubelet's directory", r.config.dir
		}
		if message != r.waitingFor {
			r.waitingFor = message
			r.log.Info(message, "path", path)
		}
		return
	}
	r.waitingFor = ""
	if id == r.kubelet {
		return
	}
	if r.kubeletSeen {
		r.log.Info("The kubelet restarted, registering again", "socket", path, "resources", len(r.endpoints))
	}
	r.kubelet, r.kubeletSeen = id, true
}

// addEndpoints adds an endpoint for each resource that first appears in the newest Tree.
func (r *reconciler) addEndpoints() {
	for resource := range r.publisher.Tree().Resources() {
		name := resource.Name()
		if _, known := r.registrations.Load(name); known {
			continue
		}
		path, err := socketPath(r.config.dir, r.namespace, name)
		if err != nil {
			r.registrations.Store(name, (*registration)(nil))
			r.log.Error(err, "Cannot serve the resource", "resource", fullName(r.namespace, name))
			continue
		}
		s := r.newService(name)
		r.registrations.Store(name, s.registration)
		r.endpoints = append(r.endpoints, newEndpoint(s, path, r.config, &r.calls))
	}
}

func (r *reconciler) newService(resource string) *service {
	return &service{
		resource:     resource,
		name:         fullName(r.namespace, resource),
		plugin:       optionalInterfaces(r.plugin),
		publisher:    &r.publisher,
		registration: &registration{wake: r.wake},
		streamsCtx:   r.streams,
		log:          r.log,
	}
}

// rewatch replaces the watch with one of the directory as it is now.
func (r *reconciler) rewatch() {
	r.watch.close()
	var err error
	if r.watch, err = r.config.watchDir(r.config.dir); err != nil {
		r.dropWatch(err)
	} else if r.watchError.clear() {
		r.log.Info("Watching the kubelet's directory again", "directory", r.config.dir)
	}
}

// dropWatch removes the watch until pollInterval has passed.
func (r *reconciler) dropWatch(err error) {
	r.watch.close()
	r.watch = nil
	r.rewatchAt = time.Now().Add(r.config.pollInterval)
	r.watchError.report(err, "Cannot watch the kubelet's directory, polling it",
		"directory", r.config.dir, "interval", r.config.pollInterval)
}

// stop stops everything that run started. It waits until that and the plugin's Watch,
// which closes watched, have ended; the error names what does not end in time.
func (r *reconciler) stop(watched <-chan struct{}) error {
	timeout := time.After(r.config.stopTimeout)
	r.watch.close()
	for _, e := range r.endpoints {
		e.socket.remove() // first, so that the kubelet cannot connect again
	}
	select {
	case <-r.calls.drain():
	case <-time.After(r.config.stopTimeout / 2):
	}
	r.stopStreams()
	var servers sync.WaitGroup
	for _, e := range r.endpoints {
		servers.Go(e.stop)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		servers.Wait()
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
