package qat

import (
	"path/filepath"

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

// watches are the directories that the plugin follows by inotify. On sysfs they show what people write to attributes, and nothing
// else: devices and drivers are heard of by uevents. On an ordinary directory, a look-alike host, they show everything.
type watches struct {
	watcher Watcher           // nil: there is no inotify
	have    map[string]uint64 // directory → the incarnation that is watched
	failed  map[string]bool   // directories that could not be watched
}

func newWatches() *watches {
	return &watches{have: map[string]uint64{}, failed: map[string]bool{}}
}

// adopt goes on with a new watcher; whatever is read again is watched again.
func (w *watches) adopt(watcher Watcher) {
	w.watcher = watcher
	clear(w.have)
	clear(w.failed)
}

// standing asks for the directories that are followed whatever devices there are.
func (w *watches) standing(h *host) {
	for _, dir := range []string{"bus/pci/devices", "bus/pci/drivers", "kernel/debug"} {
		w.ensure(filepath.Join(h.sysfs, dir), 0)
	}
	if h.dpdkDriver == driverUIO {
		w.ensure(h.dev, 0)
	} else {
		w.ensure(filepath.Join(h.dev, "vfio"), 0)
		if h.vfio != vfioGroup {
			w.ensure(filepath.Join(h.dev, "vfio/devices"), 0)
		}
	}
}

// ensure watches a directory of a device. Another incarnation than before means that it went and came back under the same name,
// which leaves a watch on sysfs dead without a word.
func (w *watches) ensure(dir string, incarnation uint64) {
	if w.watcher == nil {
		return
	}
	old, there := w.have[dir]
	if there && old == incarnation {
		return
	}
	w.have[dir] = incarnation
	ask := w.watcher.Watch
	if there {
		ask = w.watcher.Rewatch
	}
	if err := ask(dir); err != nil {
		if len(w.failed) == 0 {
			klog.ErrorS(err, "Cannot watch a directory, looking at everything more often instead", "directory", dir)
		}
		w.failed[dir] = true
	}
}

// limited tells whether some directory is not watched.
func (w *watches) limited() bool { return len(w.failed) > 0 }

// retry asks again for the directories that could not be watched.
func (w *watches) retry() {
	for dir := range w.failed {
		if w.watcher.Rewatch(dir) == nil {
			delete(w.failed, dir)
		}
	}
}

// drop stops watching the directories of a function that has gone.
func (w *watches) drop(h *host, f *Function) {
	for _, dir := range []string{f.Dir, filepath.Join(f.Dir, "qat"), filepath.Join(h.sysfs, f.debugfs())} {
		if _, there := w.have[dir]; there {
			delete(w.have, dir)
			delete(w.failed, dir)
			w.watcher.Unwatch(dir)
		}
	}
}
