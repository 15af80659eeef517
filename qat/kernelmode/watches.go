package kernelmode

import "qatplugin/qat/internal/follow"

// watches are the directories that are followed by inotify. Each look wants those that it reads; the others are let go.
type watches struct {
	*follow.Directories
	wanted map[string]bool // by the look under way
}

func newWatches() *watches {
	return &watches{Directories: follow.NewDirectories(), wanted: map[string]bool{}}
}

// want follows a directory, which need not be there.
func (w *watches) want(dir string, incarnation uint64) {
	w.wanted[dir] = true
	w.Want(dir, incarnation)
}

// settle lets go of what the look did not want.
func (w *watches) settle() {
	w.DropOthers(func(dir string) bool { return w.wanted[dir] })
	clear(w.wanted)
}
