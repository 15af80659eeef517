package qat

import (
	"path/filepath"

	"qatplugin/qat/internal/follow"
)

// A Watcher is a source that tells of the entries of directories; [qatplugin/events.Watcher] is the one.
type Watcher = follow.Watcher

// watchStanding asks for the directories that are followed whatever devices there are.
func watchStanding(d *follow.Directories, h *host) {
	for _, dir := range []string{"bus/pci/devices", "bus/pci/drivers", "kernel/debug"} {
		d.Want(filepath.Join(h.sysfs, dir), 0)
	}
	if h.dpdkDriver == driverUIO {
		d.Want(h.dev, 0)
	} else {
		d.Want(filepath.Join(h.dev, "vfio"), 0)
		if h.vfio != vfioGroup {
			d.Want(filepath.Join(h.dev, "vfio/devices"), 0)
		}
	}
}

// unwatch drops the directories of a function that has gone.
func unwatch(d *follow.Directories, h *host, f *Function) {
	for _, dir := range []string{f.Dir, filepath.Join(f.Dir, "qat"), filepath.Join(h.sysfs, f.debugfs())} {
		d.Drop(dir)
	}
}
