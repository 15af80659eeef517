package kernelmode

import (
	"k8s.io/klog/v2"

	"qatplugin/qat"
)

// watches are the directories that are followed by inotify. Each look wants those that it reads; the others are let go.
type watches struct {
	watcher qat.Watcher       // nil: there is no inotify
	have    map[string]uint64 // directory → the incarnation that is watched
	wanted  map[string]bool   // by the look under way
	limited bool              // a directory could not be watched
}

func newWatches() *watches { return &watches{have: map[string]uint64{}, wanted: map[string]bool{}} }

// adopt goes on with a new watcher; the next look asks it for everything.
func (w *watches) adopt(watcher qat.Watcher) {
	w.watcher, w.limited = watcher, false
	clear(w.have)
}

// want follows a directory, which need not be there. Another incarnation than before means that it went and came back under the same
// name, which leaves a watch on sysfs dead without a word.
func (w *watches) want(dir string, incarnation uint64) {
	if w.watcher == nil {
		return
	}
	w.wanted[dir] = true
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

// settle lets go of what the look did not want.
func (w *watches) settle() {
	for dir := range w.have {
		if !w.wanted[dir] {
			delete(w.have, dir)
			w.watcher.Unwatch(dir)
		}
	}
	clear(w.wanted)
}
