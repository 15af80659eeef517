// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"qatplugin/devtree"
)

// abandonedAge is the age at which a temporary file counts as left behind by a killed
// process. A younger one may belong to another instance.
const abandonedAge = time.Minute

var errNameTaken = errors.New("a device with other container edits has this CDI name")

// syncer brings the spec files in line with one Tree after the other. It belongs to
// one goroutine.
type syncer struct {
	Config
	log     klog.Logger
	publish func(*devtree.Tree)
	disk    disk

	tree    *devtree.Tree                 // of the last sync
	devices map[string]map[string]*device // of that Tree, by resource and ID
	files   map[string]*file              // by class
	adopted bool                          // files of former runs are in files

	builder   *devtree.Builder // of the Trees to publish, which have CDI names
	published *devtree.Tree
}

// device is a device of the Tree with its entry.
type device struct {
	*devtree.Device
	entry *entry // nil if CDI cannot describe the device
	err   error  // why not; nil if there is nothing to describe

	built bool // syncer.builder has the device
	named bool // ... with its CDI name
}

func newSyncer(config Config, log klog.Logger, publish func(*devtree.Tree), disk disk) *syncer {
	return &syncer{
		Config:  config,
		log:     log,
		publish: publish,
		disk:    disk,
		devices: map[string]map[string]*device{},
		files:   map[string]*file{},
		builder: new(devtree.Tree).Edit(),
	}
}

// sync writes the entries of new and changed devices, publishes the Tree with the CDI
// names of the devices whose entries are on disk, and then removes the entries of gone
// devices. It returns what could not be done.
func (s *syncer) sync(tree *devtree.Tree) problems {
	found := problems{}
	s.render(tree)
	wanted := s.byClass(found)
	for class, list := range wanted {
		f := s.file(class)
		s.updateFile(f, union(f.entries, list), found) // keeps the entries of gone devices
	}
	s.publishTree()
	s.adopt(found)
	for class, f := range s.files {
		if s.updateFile(f, wanted[class], found) && len(wanted[class]) == 0 {
			delete(s.files, class)
		}
	}
	return found
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

// file returns the file of the class.
func (s *syncer) file(class string) *file {
	f := s.files[class]
	if f == nil {
		f = &file{
			path: filepath.Join(s.Dir, s.Vendor+"-"+class+suffix),
			kind: s.Vendor + "/" + class,
			disk: s.disk,
		}
		s.files[class] = f
	}
	return f
}

// updateFile makes the file hold exactly these entries, and reports whether it does.
func (s *syncer) updateFile(f *file, list []*entry, found problems) bool {
	changed, err := f.write(list)
	if err != nil {
		found.addFile(f.path, err)
	}
	if changed {
		s.log.V(2).Info("CDI specs changed", "path", f.path, "devices", len(list))
	}
	return err == nil
}

// publishTree publishes the Tree with the CDI names of the devices whose entries are on
// disk, unless it equals the one published last.
func (s *syncer) publishTree() {
	for r := range s.tree.Resources() {
		if err := s.builder.Keep(r.Name()); err != nil {
			s.log.Error(err, "Skipping a resource", "resource", r.Name())
			continue
		}
		class, devices := s.classOf(r.Name()), s.devices[r.Name()]
		f := s.files[class]
		for listed := range r.Devices() {
			d := devices[listed.ID]
			onDisk := f != nil && f.holds(d.entry)
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

// adopt finds the files of former runs, so that sync removes those that no device
// needs, and removes abandoned temporary files. It runs until it has succeeded once.
func (s *syncer) adopt(found problems) {
	if s.adopted {
		return
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		found.addFile(s.Dir, err)
		return
	}
	s.adopted = true
	for _, e := range entries {
		if name, ours := strings.CutPrefix(e.Name(), s.Vendor+"-"); ours {
			if class, isSpec := strings.CutSuffix(name, suffix); isSpec {
				s.file(class)
			}
			continue
		}
		// The vendor has no characters that are special in a pattern.
		isTemporary, _ := filepath.Match("."+s.Vendor+"-*"+suffix+".*"+temporarySuffix, e.Name())
		info, err := e.Info()
		if !isTemporary || err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < abandonedAge {
			continue
		}
		path := filepath.Join(s.Dir, e.Name())
		if err := s.disk.remove(path); err != nil {
			found.addFile(path, err)
			s.adopted = false
		}
	}
}
