// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

const temporarySuffix = ".tmp" // of files being written; CDI reads only .json and .yaml

// disk holds the functions that change and watch files. Tests pass functions that fail.
type disk struct {
	replace func(path string, text []byte) error
	remove  func(path string) error
	watch   func(dir string, isRelevant func(fsnotify.Event) bool, wake func()) (*watch, error)
}

// file is a spec file that this process owns. It holds many devices of one class, which is cheaper
// than a file for each, because a runtime reads every file again when one changes. With 1024
// devices, on tmpfs and two AMD EPYC cores, this takes 14 ms with one file and 44 ms with one per
// device, for each file that changed (BenchmarkRuntimeReadsSpecs). Writing the larger file takes
// about 0.3 ms more (BenchmarkOneChange, BenchmarkFilePerDevice).
type file struct {
	path string
	n    int // number of the file within its class
	kind string
	disk disk
	lock *lock

	entries []*entry    // in the file now, ascending by name
	info    fs.FileInfo // of the file as written or read; nil if it must be written
	damaged bool        // another process changed or deleted the file, and it has not been restored yet
}

// read reads a file that another process left behind. If the file cannot be read or parsed, f has
// no entries.
func (f *file) read() {
	info, err := os.Lstat(f.path)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	text, err := readText(f.path)
	if err != nil {
		return
	}
	spec, err := parseSpec(text)
	if err != nil || spec.kind != f.kind {
		return
	}
	f.entries = spec.entries
	if bytes.Equal(text, specText(f.kind, spec.entries)) {
		f.info = info // write does not write the same text again
	}
}

// holds reports whether the entry, which may be nil, is in the file.
func (f *file) holds(e *entry) bool {
	if e == nil {
		return false
	}
	i, found := slices.BinarySearchFunc(f.entries, e, compareNames)
	return found && f.entries[i].equal(e)
}

// defines reports whether the file has an entry for the device.
func (f *file) defines(name string) bool {
	_, found := slices.BinarySearchFunc(f.entries, name, compareName)
	return found
}

// outcome is what file.write did.
type outcome int

const (
	unchanged outcome = iota
	changed           // the file holds other entries now
	repaired          // another process had changed or deleted the file
)

// write makes the file hold exactly these entries. CDI does not allow a spec file without devices:
// if there are no entries, write removes the file.
func (f *file) write(entries []*entry) (outcome, error) {
	now, err := f.check()
	if len(entries) == 0 {
		if err != nil || !now.Mode().IsRegular() {
			return unchanged, ignoreMissing(err)
		}
		if f.info == nil {
			if spec, err := readSpec(f.path); err != nil || spec.kind != f.kind {
				return unchanged, nil // another program put something else there
			}
		}
		if err := f.disk.remove(f.path); err != nil {
			return unchanged, err
		}
		f.entries, f.info, f.damaged = nil, nil, false
		return changed, nil
	}
	if f.info != nil && slices.EqualFunc(f.entries, entries, (*entry).equal) {
		return unchanged, nil
	}
	if err := f.disk.replace(f.path, specText(f.kind, entries)); err != nil {
		return unchanged, err
	}
	done := changed
	if f.damaged {
		done = repaired
	}
	f.entries, f.info, f.damaged = nil, nil, false
	if now, err = os.Lstat(f.path); err != nil {
		return unchanged, err
	}
	f.entries, f.info = entries, now
	return done, nil
}

// check returns the state of the file on disk. If another process changed or deleted the file,
// check discards the entries and marks the file as damaged.
func (f *file) check() (now fs.FileInfo, err error) {
	now, err = os.Lstat(f.path)
	if f.info != nil && (err != nil || !sameFile(f.info, now)) {
		f.entries, f.info, f.damaged = nil, nil, true
	}
	return now, err
}

// replaceFile replaces the file atomically: a reader gets the old text or the new one. It does
// not sync to disk, because no container that needs a spec survives a crash of the machine.
func replaceFile(path string, text []byte) (err error) {
	defer func() {
		// The error must not contain the random name of the temporary file: a persistent
		// error then has the same text each time.
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			err = &fs.PathError{Op: "replace", Path: path, Err: errno}
		}
	}()
	dir := filepath.Dir(path)
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*"+temporarySuffix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary.Name())
		}
	}()
	_, err = temporary.Write(text)
	// Runtimes that do not run as root read specs too.
	if err = errors.Join(err, temporary.Chmod(0o644), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// removeFile removes the file. A missing file is not an error.
func removeFile(path string) error { return ignoreMissing(os.Remove(path)) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
