// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// watch watches a directory.
type watch struct {
	info  os.FileInfo // of the directory
	moved atomic.Bool // the directory has been removed or renamed

	watcher *fsnotify.Watcher
	running sync.WaitGroup
}

// watchDir watches dir, which must exist. It calls wake, from a goroutine of its own, after a
// relevant event and after a loss of events.
func watchDir(dir string, isRelevant func(fsnotify.Event) bool, wake func()) (*watch, error) {
	watcher, err := fsnotify.NewWatcher()
	if errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_instances and the limit of open files)", err)
	}
	if err != nil {
		return nil, err
	}
	err = watcher.Add(dir)
	info, statErr := os.Stat(dir)
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_watches)", err)
	}
	if err = errors.Join(err, statErr); err != nil {
		_ = watcher.Close()
		return nil, err
	}
	w := &watch{info: info, watcher: watcher}
	w.running.Go(func() {
		for {
			select {
			case event, ok := <-watcher.Events:
				if !ok {
					return
				}
				if event.Name == dir && (event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename)) {
					w.moved.Store(true)
				}
				if w.moved.Load() || isRelevant(event) {
					wake()
				}
			case _, ok := <-watcher.Errors: // events were lost
				if !ok {
					return
				}
				wake()
			}
		}
	})
	return w, nil
}

// watches reports whether w watches the directory that now describes.
func (w *watch) watches(now os.FileInfo) bool {
	return w != nil && !w.moved.Load() && os.SameFile(w.info, now)
}

// close ends the watch and waits for its goroutine. w may be nil.
func (w *watch) close() {
	if w == nil {
		return
	}
	_ = w.watcher.Close()
	w.running.Wait()
}

// isRelevant reports whether an event may mean that a spec file of the vendor changed or lost its
// owner. It ignores temporary files, which come and go with each change, and the write that follows
// the locking of a lock file.
func (c *Config) isRelevant(event fsnotify.Event) bool {
	name := filepath.Base(event.Name)
	if _, _, ok := c.parseSpecName(name); ok {
		return true
	}
	spec, isLock := strings.CutSuffix(strings.TrimPrefix(name, "."), lockSuffix)
	if _, _, ok := c.parseSpecName(spec); !ok || !isLock {
		return false
	}
	return event.Has(fsnotify.Chmod) || event.Has(fsnotify.Remove)
}
