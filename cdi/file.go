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

// disk changes files. That of some tests fails.
type disk struct {
	replace func(path string, text []byte) error
	remove  func(path string) error
}

// file is the spec file of one class.
type file struct {
	path, kind string
	disk       disk

	specs []*spec     // in the file now, ascending by name
	info  fs.FileInfo // of the file as written or taken over; nil if it is neither
}

// holds reports whether the spec, which may be nil, is in the file.
func (f *file) holds(s *spec) bool {
	if s == nil {
		return false
	}
	i, found := slices.BinarySearchFunc(f.specs, s, compareNames)
	return found && f.specs[i].equal(s)
}

// write makes the file hold exactly these specs, and reports whether the file has
// changed. CDI does not allow a spec file without devices: if there are no specs,
// write removes the file.
func (f *file) write(specs []*spec) (changed bool, err error) {
	now, err := os.Lstat(f.path)
	if err != nil || f.info == nil || !os.SameFile(now, f.info) || !now.ModTime().Equal(f.info.ModTime()) {
		f.specs, f.info = nil, nil // never written, or deleted or replaced by others
	}
	regular := err == nil && now.Mode().IsRegular()
	if len(specs) == 0 {
		if err == nil && !regular {
			return false, nil // not ours
		}
		return f.remove()
	}
	if f.info != nil && slices.Equal(f.specs, specs) {
		return false, nil
	}
	text := specText(f.kind, specs)
	if f.info == nil && regular {
		if old, err := os.ReadFile(f.path); err == nil && bytes.Equal(old, text) {
			f.specs, f.info = specs, now // a former run has written the same
			return false, nil
		}
	}
	if err := f.disk.replace(f.path, text); err != nil {
		return false, err
	}
	f.specs, f.info = nil, nil
	if now, err = os.Lstat(f.path); err != nil {
		return false, err
	}
	f.specs, f.info = specs, now
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
	f.specs, f.info = nil, nil
	return true, nil
}

// replaceFile replaces the file atomically: a reader gets the old text or the new
// one. It does not sync to disk, because no container that needs a spec survives a
// crash of the machine.
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
	if err == nil {
		err = temporary.Chmod(0o644) // runtimes that do not run as root read specs too
	}
	if closing := temporary.Close(); err == nil {
		err = closing
	}
	if err != nil {
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
