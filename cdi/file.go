// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

const (
	suffix          = "_device-plugin.json" // of spec files; see cdi.GenerateTransientSpecName
	temporarySuffix = ".tmp"                // of files being written; CDI reads only .json and .yaml
)

// disk holds the functions that change files. Tests pass functions that fail.
type disk struct {
	replace func(path string, text []byte) error
	remove  func(path string) error
}

// file is the spec file of one class. One file per class is cheaper than one per device,
// because a runtime reads every file again when one changes. With 1024 devices, on tmpfs
// and two AMD EPYC cores, this takes 14 ms with one file and 44 ms with one per device, for
// each file that changed (BenchmarkRuntimeReadsSpecs). Writing the larger file takes about
// 0.3 ms more (BenchmarkOneChange, BenchmarkFilePerDevice).
type file struct {
	path, kind string
	disk       disk

	entries []*entry    // in the file now, ascending by name
	info    fs.FileInfo // of the file as written or taken over; nil if it is neither
}

// holds reports whether the entry, which may be nil, is in the file.
func (f *file) holds(e *entry) bool {
	if e == nil {
		return false
	}
	i, found := slices.BinarySearchFunc(f.entries, e, compareNames)
	return found && f.entries[i].equal(e)
}

// write makes the file hold exactly these entries, and reports whether the file has changed. CDI
// does not allow a spec file without devices: if there are no entries, write removes the file.
func (f *file) write(entries []*entry) (changed bool, err error) {
	now, err := os.Lstat(f.path)
	if err != nil || f.info == nil || !os.SameFile(now, f.info) || !now.ModTime().Equal(f.info.ModTime()) {
		f.entries, f.info = nil, nil // never written, or deleted or replaced by others
	}
	regular := err == nil && now.Mode().IsRegular()
	if len(entries) == 0 {
		if err == nil && !regular {
			return false, nil // not ours
		}
		return f.remove()
	}
	if f.info != nil && slices.Equal(f.entries, entries) {
		return false, nil
	}
	text := specText(f.kind, entries)
	if f.info == nil && regular {
		if old, err := os.ReadFile(f.path); err == nil && bytes.Equal(old, text) {
			f.entries, f.info = entries, now // a former run has written the same
			return false, nil
		}
	}
	if err := f.disk.replace(f.path, text); err != nil {
		return false, err
	}
	f.entries, f.info = nil, nil
	if now, err = os.Lstat(f.path); err != nil {
		return false, err
	}
	f.entries, f.info = entries, now
	return true, nil
}

// remove removes the file unless it is of another kind.
func (f *file) remove() (removed bool, err error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var spec struct{ Kind string }
	if json.Unmarshal(text, &spec) != nil || spec.Kind != f.kind {
		return false, nil
	}
	if err := f.disk.remove(f.path); err != nil {
		return false, err
	}
	f.entries, f.info = nil, nil
	return true, nil
}

// replaceFile replaces the file atomically: a reader gets the old text or the new one. It does
// not sync to disk, because no container that needs a spec survives a crash of the machine.
func replaceFile(path string, text []byte) (err error) {
	defer func() {
		// Without the random name of the temporary file, an error that persists has
		// the same text each time.
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			err = &fs.PathError{Op: "replace", Path: path, Err: errno}
		}
	}()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
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

// removeFile removes the file. That it is missing is not an error.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
