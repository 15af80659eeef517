package follow

import (
	"sync/atomic"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

// A Watcher is a source that tells of the entries of directories; [events.Watcher] is the one.
type Watcher interface {
	events.Source
	Watch(dir string) error
	Unwatch(dir string)
	Rewatch(dir string) error
}

// Directories are those that are followed by inotify. On sysfs they show what people write to attributes, and nothing else: devices
// and drivers are heard of by uevents. On an ordinary directory, a look-alike host, they show everything.
type Directories struct {
	next    atomic.Pointer[Watcher] // one that was opened and is yet to be taken over
	watcher Watcher                 // nil: there is no inotify
	have    map[string]uint64       // directory → the incarnation that is watched
	failed  map[string]bool         // directories that could not be watched
}

// NewDirectories follows nothing yet.
func NewDirectories() *Directories {
	return &Directories{have: map[string]uint64{}, failed: map[string]bool{}}
}

// Open makes of a Watcher's opener one for a [Listener]. What it opens is left for the next Adopt. It may be called from any goroutine.
func (d *Directories) Open(open func() (Watcher, error)) func() (events.Source, error) {
	return func() (events.Source, error) {
		w, err := open()
		if err != nil {
			return nil, err
		}
		d.next.Store(&w)
		return w, nil
	}
}

// Adopt goes on with the newest Watcher, if there is a new one; whatever is wanted again is then watched by that one.
func (d *Directories) Adopt() {
	if w := d.next.Swap(nil); w != nil {
		d.watcher = *w
		clear(d.have)
		clear(d.failed)
	}
}

// Want follows a directory, which need not be there yet. Another incarnation than before means that it went and came back under the same
// name, which leaves a watch on sysfs dead without a word; 0 stays 0 where the watch needs no telling.
func (d *Directories) Want(dir string, incarnation uint64) {
	if d.watcher == nil {
		return
	}
	old, there := d.have[dir]
	if there && old == incarnation {
		return
	}
	d.have[dir] = incarnation
	ask := d.watcher.Watch
	if there {
		ask = d.watcher.Rewatch
	}
	if err := ask(dir); err != nil {
		if len(d.failed) == 0 {
			klog.ErrorS(err, "Cannot watch a directory, looking at everything more often instead", "directory", dir)
		}
		d.failed[dir] = true
		return
	}
	delete(d.failed, dir)
}

// Drop follows a directory no longer.
func (d *Directories) Drop(dir string) {
	if _, there := d.have[dir]; there {
		delete(d.have, dir)
		delete(d.failed, dir)
		d.watcher.Unwatch(dir)
	}
}

// DropOthers follows only the directories for which keep says so.
func (d *Directories) DropOthers(keep func(dir string) bool) {
	for dir := range d.have {
		if !keep(dir) {
			d.Drop(dir)
		}
	}
}

// Limited tells whether some directory is wanted and not watched.
func (d *Directories) Limited() bool { return len(d.failed) > 0 }

// Retry asks again for the directories that could not be watched.
func (d *Directories) Retry() {
	for dir := range d.failed {
		if d.watcher.Rewatch(dir) == nil {
			delete(d.failed, dir)
		}
	}
}
