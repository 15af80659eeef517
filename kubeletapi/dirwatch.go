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

// dirWatch watches a directory's entries, and whether the directory itself goes or comes. It is never repaired: when a
// directory on the way comes or goes, a new one is made. All methods do with a nil dirWatch, which watches nothing.
type dirWatch struct {
	fs  *fsnotify.Watcher
	dir string
}

// watchDir watches dir and its parent, or while dir does not exist, the nearest directory above it that does, and that one's parent.
//
// The parent is watched because a directory that is removed while a socket of ours in it is open sends nothing itself (inotify(7)
// sends IN_DELETE_SELF only when the last user is gone).
func watchDir(dir string) (*dirWatch, error) {
	w, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_instances, and the limit of open files)", err)
	}
	if err != nil {
		return nil, err
	}
	d := &dirWatch{fs: w, dir: dir}
	for at := dir; ; at = filepath.Dir(at) {
		err := w.Add(filepath.Dir(at)) // the parent first: what happens to at from here on is heard
		if err == nil {
			err = w.Add(at)
		}
		switch {
		case err == nil:
			return d, nil
		case errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at):
			continue // and what was added stays: to hear of at is what is wanted
		case errors.Is(err, unix.ENOSPC):
			err = fmt.Errorf("%w (see sysctl fs.inotify.max_user_watches)", err)
		}
		w.Close()
		return nil, fmt.Errorf("watch %q: %w", at, err)
	}
}

// channels are nil for a nil dirWatch: nothing ever comes.
func (d *dirWatch) channels() (<-chan fsnotify.Event, <-chan error) {
	if d == nil {
		return nil, nil
	}
	return d.fs.Events, d.fs.Errors
}

// moved tells whether the event says that the directory, or one above it, came or went. The watch is then of no use any more.
func (d *dirWatch) moved(ev fsnotify.Event) bool {
	if !ev.Has(fsnotify.Create) && !ev.Has(fsnotify.Remove) && !ev.Has(fsnotify.Rename) {
		return false
	}
	return ev.Name == d.dir || strings.HasPrefix(d.dir, strings.TrimSuffix(ev.Name, string(os.PathSeparator))+string(os.PathSeparator))
}

func (d *dirWatch) close() {
	if d == nil {
		return
	}
	d.fs.Close() // waits for its goroutine
}
