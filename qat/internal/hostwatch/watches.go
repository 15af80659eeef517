// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

// A Watcher is an event source that reports changes of directory entries.
// [events.Watcher] implements it.
type Watcher interface {
	events.Source
	Watch(dir string) error
	Unwatch(dir string)
	Rewatch(dir string) error
}

// Watches are the directories that a mode wants inotify to watch. On sysfs inotify reports only
// what user space writes to attributes; devices and drivers that come and go are reported by
// uevents. On an ordinary directory tree (a look-alike host) it reports everything.
//
// All methods may be called from any goroutine. They do not wait for a device: the kernel looks up
// a path in sysfs or debugfs without the device lock.
type Watches struct {
	opened atomic.Pointer[Watcher] // opened by the source's goroutine, not adopted yet

	mu      sync.Mutex        // guards all following fields
	watcher Watcher           // nil: no inotify
	wanted  map[string]uint64 // directory → incarnation that is watched
	failed  map[string]bool   // wanted directories that could not be watched
}

// NewWatches returns Watches that use a Watcher (nil: none yet) and watch nothing so far.
func NewWatches(watcher Watcher) *Watches {
	return &Watches{watcher: watcher, wanted: map[string]uint64{}, failed: map[string]bool{}}
}

// opener turns the function that opens a Watcher into one that opens a source and keeps the
// Watcher for the next adopt. The result may be called from any goroutine.
func (w *Watches) opener(open func() (Watcher, error)) openFunc {
	return func() (events.Source, error) {
		watcher, err := open()
		if err != nil {
			return nil, err
		}
		w.opened.Store(&watcher)
		return watcher, nil
	}
}

// adopt switches to the most recently opened Watcher, if there is a new one.
// It watches nothing until directories are wanted again.
func (w *Watches) adopt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if watcher := w.opened.Swap(nil); watcher != nil {
		w.watcher = *watcher
		clear(w.wanted)
		clear(w.failed)
	}
}

// Want watches a directory, which need not exist yet. A different incarnation than before means
// that the directory was removed and made again, which leaves a watch on sysfs dead without
// notice, so the watch is renewed. Pass 0 for directories that do not need this.
func (w *Watches) Want(dir string, incarnation uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want(dir, incarnation)
}

func (w *Watches) want(dir string, incarnation uint64) {
	if w.watcher == nil {
		return
	}
	old, known := w.wanted[dir]
	if known && old == incarnation {
		return
	}
	w.wanted[dir] = incarnation
	watch := w.watcher.Watch
	if known {
		watch = w.watcher.Rewatch
	}
	if err := watch(dir); err != nil {
		// A Watcher that is closed is not logged here: it is closed at each stop of the plugin, and
		// sources.deliver logs a failure.
		if len(w.failed) == 0 && !errors.Is(err, os.ErrClosed) {
			klog.ErrorS(err, "Cannot watch a directory, auditing the host more often instead", "directory", dir)
		}
		w.failed[dir] = true
		return
	}
	delete(w.failed, dir)
}

// Drop stops watching a directory.
func (w *Watches) Drop(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(dir)
}

func (w *Watches) drop(dir string) {
	if _, known := w.wanted[dir]; known {
		delete(w.wanted, dir)
		delete(w.failed, dir)
		w.watcher.Unwatch(dir)
	}
}

// Set watches exactly these directories: directory → incarnation, as for Want.
func (w *Watches) Set(dirs map[string]uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir, incarnation := range dirs {
		w.want(dir, incarnation)
	}
	for dir := range w.wanted {
		if _, wanted := dirs[dir]; !wanted {
			w.drop(dir)
		}
	}
}

// mayMissEvents reports whether a wanted directory is not watched.
func (w *Watches) mayMissEvents() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.failed) > 0
}

// retry tries again to watch the directories that could not be watched.
func (w *Watches) retry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := range w.failed {
		if w.watcher.Rewatch(dir) == nil {
			delete(w.failed, dir)
		}
	}
}
