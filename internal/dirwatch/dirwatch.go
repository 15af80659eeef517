// SPDX-License-Identifier: Apache-2.0

// Package dirwatch watches a directory that need not exist yet, and that may be removed, renamed,
// mounted over and created again. It reports what inotify shows; the caller looks for itself what
// has changed.
package dirwatch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// A Watch watches the entries of a directory and the directory itself. When the directory or one
// above it appears or disappears, the Watch must be replaced.
type Watch struct {
	*fsnotify.Watcher
	dir string
	id  dirID // of the watched directory
}

// dirID identifies a directory. The zero value means no directory.
type dirID struct{ dev, ino uint64 }

// identify returns the ID of the directory that the path leads to, also through symbolic links.
func identify(path string) dirID {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return dirID{}
	}
	return dirID{dev: st.Dev, ino: st.Ino}
}

// Exists reports whether the path leads to a directory, also through symbolic links.
func Exists(path string) bool { return identify(path) != dirID{} }

// New watches dir and its parent. If dir does not exist, it watches the nearest existing directory
// above it and the parent of that. The caller must read Events and Errors, and call Close.
//
// New needs the parent because IN_DELETE_SELF only comes with the last reference to the directory
// (inotify(7)), and an open socket in it holds one.
func New(dir string) (*Watch, error) {
	id := identify(dir) // before the watch, so that Replaced detects a later replacement
	w, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_instances and the limit of open files)", err)
	}
	if err != nil {
		return nil, err
	}
	for at := dir; ; at = filepath.Dir(at) {
		err := w.Add(filepath.Dir(at)) // the parent first, so that no change of at is missed
		if err == nil {
			err = w.Add(at)
		}
		switch {
		case err == nil:
			return &Watch{Watcher: w, dir: dir, id: id}, nil
		case errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at):
			continue // a parent that was added shows when at appears
		case errors.Is(err, unix.ENOSPC):
			err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_watches)", err)
		}
		w.Close()
		return nil, fmt.Errorf("watch %q: %w", at, err)
	}
}

// Moved reports whether ev means that the directory or one above it has (dis)appeared.
func (w *Watch) Moved(ev fsnotify.Event) bool {
	if !ev.Has(fsnotify.Create) && !ev.Has(fsnotify.Remove) && !ev.Has(fsnotify.Rename) {
		return false
	}
	const separator = string(os.PathSeparator)
	return strings.HasPrefix(w.dir+separator, strings.TrimSuffix(ev.Name, separator)+separator)
}

// Replaced reports whether the path leads to a directory other than the watched one. inotify does
// not report that if a symbolic link in the path changed, a directory further up was renamed, or
// something was mounted.
func (w *Watch) Replaced() bool { return identify(w.dir) != w.id }

// Close closes the watcher and waits for its goroutine. w may be nil.
func (w *Watch) Close() {
	if w != nil {
		w.Watcher.Close()
	}
}
