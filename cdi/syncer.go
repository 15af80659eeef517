// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"qatplugin/devtree"
)

const maxFiles = 1000 // of a class

var errNameTaken = errors.New("a device with other container edits has this CDI name")

// syncer updates the spec files for each new Tree. It belongs to one goroutine.
type syncer struct {
	Config
	program string // name of this program, which mark writes to the lock files
	log     klog.Logger
	publish func(*devtree.Tree)
	disk    disk
	wake    func() // called from any goroutine when the directory changes

	tree    *devtree.Tree                 // of the last sync
	devices map[string]map[string]*device // of that Tree, by resource and ID
	own     map[string][]*file            // by class, ascending by number
	others  map[string][]*otherFile       // of other processes, likewise
	watch   *watch                        // nil if the directory is not watched
	adopted bool                          // files of earlier processes of this program are in own
	repairs int                           // number of files restored so far

	builder   *devtree.Builder // of the Trees to publish, which have CDI names
	published *devtree.Tree
}

// device is a device of the Tree with its entry.
type device struct {
	*devtree.Device
	entry *entry // nil if CDI cannot describe the device
	err   error  // why entry is nil; nil for a device without container edits

	built bool // syncer.builder has the device
	named bool // ... with its CDI name
}

func newSyncer(
	config Config, program string, log klog.Logger, publish func(*devtree.Tree), disk disk, wake func(),
) *syncer {
	return &syncer{
		Config:  config,
		program: program,
		log:     log,
		publish: publish,
		disk:    disk,
		wake:    wake,
		devices: map[string]map[string]*device{},
		own:     map[string][]*file{},
		builder: new(devtree.Tree).Edit(),
	}
}

// sync writes the entries of new and changed devices, publishes the Tree with the CDI
// names of the devices whose entries are on disk, and then removes the entries of gone
// devices. It returns the problems that it found.
func (s *syncer) sync(tree *devtree.Tree) problems {
	found := problems{}
	s.render(tree)
	wanted := s.byClass(found)
	s.openDir(len(wanted) > 0, found)
	s.scan(wanted, found)
	plans := map[string]*assignment{}
	for class, list := range wanted {
		plans[class] = s.assign(class, list, found)
	}
	for class, plan := range plans {
		for _, f := range s.own[class] {
			s.updateFile(f, union(plan.kept(f), plan.files[f]), found) // keeps the entries of gone devices
		}
	}
	s.publishTree()
	for class, list := range s.own {
		s.own[class] = slices.DeleteFunc(list, func(f *file) bool {
			var entries []*entry
			if plan := plans[class]; plan != nil {
				entries = plan.files[f]
			}
			return s.updateFile(f, entries, found) && len(entries) == 0 && s.disown(f, found)
		})
		if len(s.own[class]) == 0 {
			delete(s.own, class)
		}
	}
	return found
}

// close releases all locks, so that other processes can take over the files, and ends the watch. It
// removes the lock of a file that was never written.
func (s *syncer) close() {
	s.watch.close()
	for _, list := range s.own {
		for _, f := range list {
			if _, err := os.Lstat(f.path); errors.Is(err, fs.ErrNotExist) && f.lock.remove(f.path) == nil {
				continue // the removal wakes the other processes
			}
			f.lock.abandon()
		}
	}
}

// render makes the entries of the devices that have changed since the last sync.
func (s *syncer) render(tree *devtree.Tree) {
	for _, change := range devtree.Diff(s.tree, tree) {
		devices := s.devices[change.Resource]
		if devices == nil {
			devices = map[string]*device{}
			s.devices[change.Resource] = devices
		}
		if change.New == nil {
			delete(devices, change.Old.ID)
			s.builder.Remove(change.Resource, change.Old.ID)
			continue
		}
		d := &device{Device: change.New}
		d.entry, d.err = newEntry(s.classOf(change.Resource), change.New)
		if old := devices[d.ID]; old != nil && old.entry.equal(d.entry) {
			d.entry = old.entry // the change does not concern CDI, like one of health
		}
		devices[d.ID] = d
	}
	s.tree = tree
}

// byClass returns the entries that each file must hold, ascending by name. If devices with
// different edits have the same name, the one of the first resource gets it.
func (s *syncer) byClass(found problems) map[string][]*entry {
	wanted := map[string][]*entry{}
	for r := range s.tree.Resources() {
		class, devices := s.classOf(r.Name()), s.devices[r.Name()]
		for listed := range r.Devices() {
			d := devices[listed.ID]
			if d.err != nil {
				found.addDevice(s.QualifiedName(r.Name(), d.ID), d.err)
			}
			if d.entry != nil {
				wanted[class] = append(wanted[class], d.entry)
			}
		}
	}
	for class, list := range wanted {
		if !slices.IsSortedFunc(list, compareNames) {
			slices.SortStableFunc(list, compareNames)
		}
		wanted[class] = slices.CompactFunc(list, func(a, b *entry) bool {
			if a.name == b.name && !a.equal(b) {
				found.addDevice(parser.QualifiedName(s.Vendor, class, a.name), errNameTaken)
			}
			return a.name == b.name
		})
	}
	return wanted
}

// openDir creates the directory if it is needed, and watches it if it exists.
func (s *syncer) openDir(needed bool, found problems) {
	if needed {
		if err := os.MkdirAll(s.Dir, 0o755); err != nil {
			found.addFile(s.Dir, err)
		}
	}
	info, err := os.Stat(s.Dir)
	if err == nil && s.watch.watches(info) {
		return
	}
	s.watch.close()
	s.watch = nil
	if err != nil {
		return // the first write to it creates it, or reports the error
	}
	if s.watch, err = s.disk.watch(s.Dir, s.isRelevant, s.wake); err != nil {
		found.addWatch(s.Dir, err)
	}
}

// scan checks the files of this process, and finds the files of others. It takes over the files of
// dead processes that define a wanted device. The first time, it also takes over all files that
// earlier processes of this program left behind, so that sync removes those that no device needs,
// and it removes abandoned temporary files.
func (s *syncer) scan(wanted map[string][]*entry, found problems) {
	for class, list := range s.own {
		for _, f := range list {
			_, _ = f.check() // write reports an error
		}
		s.own[class] = slices.DeleteFunc(list, func(f *file) bool { return !s.keepLock(f, found) })
	}
	others, err := s.readOthers(s.own, s.others)
	if err != nil {
		found.addFile(s.Dir, err)
		return
	}
	s.others = others
	for class, list := range others {
		isWanted := func(o *otherFile) bool {
			return slices.ContainsFunc(wanted[class], func(e *entry) bool { return o.defines(e.name) })
		}
		others[class] = slices.DeleteFunc(list, func(o *otherFile) bool {
			wanted := isWanted(o)
			return (wanted || !s.adopted) && s.takeOver(o, wanted, found)
		})
	}
	if !s.adopted {
		s.adopted = s.removeAbandoned(found)
	}
}

// keepLock reports whether this process still owns the file. If another process removed the lock
// file, keepLock tries to lock the file again.
func (s *syncer) keepLock(f *file, found problems) bool {
	if f.lock.holds(f.path) {
		return true
	}
	again, err := acquire(f.path)
	switch {
	case err == nil:
		f.lock.release()
		f.lock = again
		err = again.mark(s.program)
	case errors.Is(err, errOwned), errors.Is(err, fs.ErrNotExist):
		f.lock.release()
		return false
	}
	if err != nil {
		found.addFile(f.path, err)
	}
	return true
}

// takeOver takes over a file of a dead process, and reports whether this process owns it now. It
// does not take over a file that is not wanted and that belongs to another program: that program
// and its containers may be restarting.
func (s *syncer) takeOver(o *otherFile, wanted bool, found problems) bool {
	l, err := acquire(o.path)
	if errors.Is(err, errOwned) {
		return false
	}
	if err != nil {
		found.addFile(o.path, err)
		return false
	}
	if !wanted && l.previous != "" && l.previous != s.program {
		l.release()
		return false
	}
	f := s.newFile(o.class, o.n, l, found)
	f.read()
	s.log.V(1).Info("Took over the CDI spec of a process that ended", "path", f.path, "program", l.previous)
	return true
}

// newFile adds a file, whose lock is l, to the files of this process.
func (s *syncer) newFile(class string, n int, l *lock, found problems) *file {
	f := &file{path: s.specPath(class, n), n: n, kind: s.Vendor + "/" + class, disk: s.disk, lock: l}
	if err := l.mark(s.program); err != nil {
		found.addFile(f.path, err)
	}
	s.own[class] = append(s.own[class], f)
	slices.SortFunc(s.own[class], func(a, b *file) int { return a.n - b.n })
	return f
}

// assign assigns the wanted entries of a class to the files of this process. It creates a file for
// new entries if this process has none.
func (s *syncer) assign(class string, wanted []*entry, found problems) *assignment {
	plan := assign(wanted, s.own[class], s.others[class])
	for o, n := range plan.others {
		found.addRefused(o.path, n)
	}
	if len(plan.new) > 0 && len(s.own[class]) == 0 {
		s.createFile(class, found)
	}
	if own := s.own[class]; len(own) > 0 {
		plan.place(own[0])
	}
	return &plan
}

// createFile adds a file of the class, at the first path that no other file uses.
func (s *syncer) createFile(class string, found problems) {
	for n := 1; ; n++ {
		path := s.specPath(class, n)
		isTaken := func(o *otherFile) bool { return o.n == n }
		if slices.ContainsFunc(s.others[class], isTaken) || s.isForeign(path, class) {
			continue
		}
		l, err := acquire(path)
		if errors.Is(err, errOwned) && n < maxFiles {
			continue
		}
		if err != nil {
			found.addFile(path, err)
			return
		}
		s.newFile(class, n, l, found)
		return
	}
}

// isForeign reports whether the path has a spec of another kind, as when vendor a-b has class c and
// vendor a has class b-c.
func (s *syncer) isForeign(path, class string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	spec, err := readSpec(path)
	return err == nil && spec.kind != s.Vendor+"/"+class
}

// disown removes the lock of a file that has been removed, and reports whether that succeeded.
func (s *syncer) disown(f *file, found problems) bool {
	if err := f.lock.remove(f.path); err != nil {
		found.addFile(f.path, err)
		return false
	}
	return true
}

// updateFile makes the file hold exactly these entries, and reports whether that succeeded.
func (s *syncer) updateFile(f *file, list []*entry, found problems) bool {
	done, err := f.write(list)
	if err != nil {
		found.addFile(f.path, err)
	}
	switch done {
	case changed:
		s.log.V(2).Info("CDI specs changed", "path", f.path, "devices", len(list))
	case repaired:
		s.repairs++
		s.log.Info("Restored a CDI spec that another process had changed or deleted",
			"path", f.path, "devices", len(list))
	}
	return err == nil
}

// publishTree publishes the Tree with the CDI names of the devices whose entries are on
// disk, unless it equals the one published last.
func (s *syncer) publishTree() {
	for r := range s.published.Resources() {
		if s.tree.Resource(r.Name()) == nil {
			s.builder.Drop(r.Name())
			delete(s.devices, r.Name())
		}
	}
	for r := range s.tree.Resources() {
		if err := s.builder.Keep(r.Name()); err != nil {
			s.log.Error(err, "Skipping a resource", "resource", r.Name())
			continue
		}
		class, devices := s.classOf(r.Name()), s.devices[r.Name()]
		for listed := range r.Devices() {
			d := devices[listed.ID]
			onDisk := slices.ContainsFunc(s.own[class], func(f *file) bool { return f.holds(d.entry) })
			if d.built && d.named == onDisk {
				continue
			}
			out := *d.Device
			if onDisk {
				out.CDINames = append(slices.Clone(out.CDINames), s.QualifiedName(r.Name(), d.ID))
			}
			if err := s.builder.Put(r.Name(), &out); err != nil {
				s.log.Error(err, "Skipping a device", "resource", r.Name(), "device", d.ID)
				continue
			}
			d.built, d.named = true, onDisk
		}
	}
	if tree := s.builder.Build(); tree != s.published {
		s.published = tree
		s.publish(tree)
	}
}

// removeAbandoned removes temporary files that killed processes left behind, and reports whether
// none is left.
func (s *syncer) removeAbandoned(found problems) bool {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) // scan has reported other errors
	}
	done := true
	for _, e := range entries {
		if !s.isAbandoned(e) {
			continue
		}
		path := filepath.Join(s.Dir, e.Name())
		if err := s.disk.remove(path); err != nil {
			found.addFile(path, err)
			done = false
		}
	}
	return done
}
