// SPDX-License-Identifier: Apache-2.0

package kubeletapi

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

// dirWatch watches the entries of a directory and the directory itself. When the
// directory or one above it appears or disappears, the dirWatch must be replaced.
type dirWatch struct {
	fs  *fsnotify.Watcher
	dir string
	id  dirID // of the watched directory
}

// dirID identifies a directory. The zero value means no directory.
type dirID struct{ dev, ino uint64 }

// identifyDir returns the ID of the directory that the path leads to, also through symbolic links.
func identifyDir(path string) dirID {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return dirID{}
	}
	return dirID{dev: st.Dev, ino: st.Ino}
}

// watchDir watches dir and its parent. If dir does not exist, it watches the nearest
// existing directory above it and the parent of that.
//
// It needs the parent because IN_DELETE_SELF only comes with the last reference to the
// directory (inotify(7)), and an open socket of ours in it holds one.
func watchDir(dir string) (*dirWatch, error) {
	id := identifyDir(dir) // before the watch, so that replaced detects a later replacement
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
			return &dirWatch{fs: w, dir: dir, id: id}, nil
		case errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at):
			continue // a parent that was added shows when at appears
		case errors.Is(err, unix.ENOSPC):
			err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_watches)", err)
		}
		w.Close()
		return nil, fmt.Errorf("watch %q: %w", at, err)
	}
}

// moved reports whether ev means that the directory or one above it has (dis)appeared.
func (d *dirWatch) moved(ev fsnotify.Event) bool {
	if !ev.Has(fsnotify.Create) && !ev.Has(fsnotify.Remove) && !ev.Has(fsnotify.Rename) {
		return false
	}
	const separator = string(os.PathSeparator)
	return strings.HasPrefix(d.dir+separator, strings.TrimSuffix(ev.Name, separator)+separator)
}

// replaced reports whether the path leads to a directory other than the watched one. inotify does
// not report that if a symbolic link in the path changed, a directory further up was renamed, or
// something was mounted.
func (d *dirWatch) replaced() bool { return identifyDir(d.dir) != d.id }

// close closes the watcher and waits for its goroutine. d may be nil.
func (d *dirWatch) close() {
	if d != nil {
		d.fs.Close()
	}
}
