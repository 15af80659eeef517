// SPDX-License-Identifier: Apache-2.0

package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

var (
	// ErrWatchLimit means that the kernel grants no further inotify watch.
	ErrWatchLimit = errors.New("no inotify watch left (fs.inotify.max_user_watches)")
	// ErrInstanceLimit means that the kernel grants no further inotify instance.
	ErrInstanceLimit = errors.New("no inotify instance (fs.inotify.max_user_instances) or file descriptor left")
)

// Watcher reports changes in directories through inotify. It is a Source.
//
// It reports Create, Write and Delete of the entries of each watched directory, and
// Create and Delete of the watched directory itself. Create of a watched directory means:
// read it again. Changes of permissions and times are not reported.
//
// Some changes cause no inotify event:
//   - On sysfs, only writes from user space do. A directory that the kernel removes and
//     creates again keeps a dead watch. Call [Watcher.Rewatch] when another source,
//     such as a uevent, reports that it is back, and after a Resync of that source.
//   - A directory does not report that it disappears when an ancestor is renamed, when
//     a file in it is still open, or when a file system is mounted over it or
//     unmounted. Rewatch helps here too.
//
// Paths are absolute and contain no symbolic links. fsnotify knows a directory by one
// path only; watching it by a second path is an error. All methods may be called from
// any goroutine, also from the sink.
type Watcher struct {
	inotify   *fsnotify.Watcher
	started   atomic.Bool
	collector sync.WaitGroup // runs collectErrors
	wake      chan struct{}  // holds a token while handleWake has something to do

	mu     sync.Mutex // guards set and closed; never held while the sink is called
	set    *watchSet
	closed bool

	errMu    sync.Mutex // guards lost and failures; see collectErrors
	lost     error      // why events were lost, until Run reports it
	failures int        // failed reads since the last event

	// The fields below belong to Run.
	event Event
	out   []change // to be delivered
}

// NewWatcher returns a Watcher without watches. The error wraps [ErrInstanceLimit] if
// there are too many inotify instances.
func NewWatcher() (*Watcher, error) {
	inotify, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		err = fmt.Errorf("%w: %w", ErrInstanceLimit, err)
	}
	if err != nil {
		return nil, fmt.Errorf("create watcher: %w", err)
	}
	return newWatcher(inotify, inotify), nil
}

func newWatcher(inotify *fsnotify.Watcher, watches inotifyWatches) *Watcher {
	w := &Watcher{inotify: inotify, wake: make(chan struct{}, 1), set: newWatchSet(watches)}
	w.collector.Go(w.collectErrors)
	return w
}

// Watch starts to report changes of dir's entries, and of dir itself. The kernel queues
// them from now on: read dir after Watch returns, and no change is missed. dir need not
// exist; whenever it appears, the Watcher reports Create of dir. A second call for the
// same dir changes nothing.
//
// After an error ([ErrWatchLimit], or a problem with the path) the Watcher keeps an
// absolute dir. It tries again whenever it releases a watch, and on each call of Watch
// and Rewatch; when it succeeds, it reports Create of dir. If a watch is needed later, as
// when dir appears, and cannot be set, a Resync names the reason, as does [Watcher.Err].
func (w *Watcher) Watch(dir string) error { return w.watch(dir, false) }

// Rewatch is like Watch, but replaces the watches on dir and on the watched directories
// below it. Read dir after Rewatch returns; the Watcher reports Create of each watched
// directory below it.
func (w *Watcher) Rewatch(dir string) error { return w.watch(dir, true) }

func (w *Watcher) watch(dir string, renew bool) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("watch %q: not an absolute path", dir)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("watch %q: %w", dir, os.ErrClosed)
	}
	defer w.wakeIfPending()
	return w.set.add(filepath.Clean(dir), renew)
}

// Unwatch stops reporting changes of dir and releases the watches that only dir needs.
// Events that are queued already may still arrive.
func (w *Watcher) Unwatch(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		defer w.wakeIfPending()
		w.set.remove(filepath.Clean(dir))
	}
}

// Err reports the directories that cannot be watched at present: the reason for the
// first one, and their number. It returns nil if there are none.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.set.err()
}

// Run passes events to sink until ctx ends. See [Source] for its error.
func (w *Watcher) Run(ctx context.Context, sink Sink) error {
	if !w.started.CompareAndSwap(false, true) {
		return errors.New("run watcher: called twice")
	}
	defer w.Close()
	for ctx.Err() == nil {
		var err error
		select {
		case <-ctx.Done():
		case e, open := <-w.inotify.Events:
			if open {
				w.handle(e, sink)
			} else if ctx.Err() == nil {
				err = os.ErrClosed
			}
		case <-w.wake:
			err = w.handleWake(sink)
		}
		if err != nil {
			return fmt.Errorf("watch directories: %w", err)
		}
	}
	return nil
}

// handle evaluates one event of fsnotify. Its path is a watched directory or an entry of one.
func (w *Watcher) handle(e fsnotify.Event, sink Sink) {
	now := time.Now()
	action, ok := actionOf(e.Op)
	if !ok {
		return
	}
	c := change{action, filepath.Clean(e.Name)} // an entry of "/" is reported as "//entry"
	w.mu.Lock()
	if !w.closed && w.set.apply(c) {
		w.out = append(w.out, c)
	}
	w.mu.Unlock()
	w.deliver(sink, now, nil)

	w.errMu.Lock()
	w.failures = 0
	w.errMu.Unlock()
}

func actionOf(op fsnotify.Op) (Action, bool) {
	switch {
	case op.Has(fsnotify.Create):
		return Create, true
	case op.Has(fsnotify.Remove), op.Has(fsnotify.Rename): // Rename is about the old path
		return Delete, true
	case op.Has(fsnotify.Write):
		return Write, true
	}
	return 0, false
}

// handleWake reports what collectErrors and calls of other methods left for Run. Run
// ends with the returned error.
func (w *Watcher) handleWake(sink Sink) error {
	now := time.Now()
	w.errMu.Lock()
	lost, failures := w.lost, w.failures
	w.lost = nil
	w.errMu.Unlock()
	if failures >= maxFailures {
		return lost
	}

	w.mu.Lock()
	if lost != nil && !w.closed {
		w.set.refresh("/")
	}
	w.mu.Unlock()
	w.deliver(sink, now, lost)
	return nil
}

// deliver passes w.out and the pending changes to the sink. If events were lost or a
// directory could not be watched, it sends a Resync instead, which covers them all.
func (w *Watcher) deliver(sink Sink, at time.Time, lost error) {
	w.mu.Lock()
	out, failed := w.set.takePending(w.out)
	w.mu.Unlock()
	w.out = out[:0]
	if lost = cmp.Or(lost, failed); lost != nil {
		sink.Resync("inotify: " + lost.Error())
		return
	}
	for _, c := range out {
		w.event = Event{Origin: Inotify, Action: c.action, Path: append(w.event.Path[:0], c.path...), Time: at}
		sink.Event(&w.event)
	}
}

// wakeIfPending wakes Run to report changes of directories that a call came across.
func (w *Watcher) wakeIfPending() {
	if len(w.set.pending) > 0 {
		w.signal()
	}
}

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// collectErrors receives the errors of fsnotify. It must not lock w.mu: fsnotify sends
// one of its errors (for a directory that is renamed and then removed) while it holds
// the lock that its Add needs, and watchSet calls Add with w.mu held.
func (w *Watcher) collectErrors() {
	for err := range w.inotify.Errors {
		if errors.Is(err, unix.EINVAL) {
			continue // fsnotify removed a watch after the kernel did
		}
		w.errMu.Lock()
		w.lost = err
		if !errors.Is(err, fsnotify.ErrEventOverflow) {
			w.failures++
		}
		w.errMu.Unlock()
		w.signal()
	}
}

// Close releases all watches and ends Run. It may be called more than once.
func (w *Watcher) Close() error {
	// Add and Remove of fsnotify use its descriptor number even after Close, when it
	// may belong to another file. The lock keeps them away.
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.inotify.Close()
	w.collector.Wait()
	return err
}
