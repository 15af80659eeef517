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
	limited bool              // a directory could not be watched
}

// adopt goes on with a new watcher; whatever is read again is watched again.
func (w *watches) adopt(watcher Watcher) {
	w.watcher, w.limited = watcher, false
	clear(w.have)
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
	var err error
	if there {
		err = w.watcher.Rewatch(dir)
	} else {
		err = w.watcher.Watch(dir)
	}
	if err == nil {
		return
	}
	if !w.limited {
		klog.ErrorS(err, "Cannot watch a directory, looking at everything more often instead", "directory", dir)
	}
	w.limited = true
}

// drop stops watching the directories of a function that has gone.
func (w *watches) drop(h *host, f *Function) {
	for _, dir := range []string{f.Dir, filepath.Join(f.Dir, "qat"), filepath.Join(h.sysfs, f.debugfs())} {
		if _, there := w.have[dir]; there {
			delete(w.have, dir)
			w.watcher.Unwatch(dir)
		}
	}
}
