package kubeletapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// cdiMark ends the names of our files, in the way of a transient spec (cdi.GenerateTransientSpecName).
	cdiMark = "_device-plugin.json"
	// cdiTemporary ends the names of files that are being written. CDI reads only .json and .yaml.
	cdiTemporary = ".tmp"
	// cdiAbandoned is the age from which on such a file is taken for one that a dead process left.
	cdiAbandoned = time.Minute
)

// cdiFile is the spec file of one class.
type cdiFile struct {
	path, vendor, class string
	replace             func(path string, text []byte) error // replaceFile, or a test's

	devices []*cdiDevice // what of ours is in the file now, ascending by name
	id      fileID       // of the file that we wrote or took over; zero for none
	known   bool         // the file was looked at once
}

func newCDIFile(c *cdiSpecs, class string) *cdiFile {
	return &cdiFile{path: filepath.Join(c.dir, c.vendor+"-"+class+cdiMark), vendor: c.vendor, class: class, replace: c.replace}
}

// holds tells whether the device is in the file as it should be.
func (f *cdiFile) holds(d *cdiDevice) bool {
	i, found := slices.BinarySearchFunc(f.devices, d, compareNames)
	return found && f.devices[i].same(d)
}

// verify forgets a file that is not there any more.
func (f *cdiFile) verify() {
	if id, _, err := identify(f.path); err != nil || id != f.id {
		f.devices, f.id = nil, fileID{}
	}
}

// write has the file hold exactly these devices. One that does already, and is still there, is left as it is. A file without devices would be
// no spec, and goes.
func (f *cdiFile) write(devices []*cdiDevice) error {
	id, _, err := identify(f.path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	if len(devices) == 0 {
		if !missing && f.known {
			if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		f.devices, f.id = nil, fileID{}
		return nil
	}
	if f.known && f.id != (fileID{}) && id == f.id && slices.Equal(f.devices, devices) {
		return nil
	}
	text := specText(f.vendor, f.class, devices)
	if !f.known {
		f.known = true
		if old, err := os.ReadFile(f.path); err == nil && bytes.Equal(old, text) {
			f.devices, f.id = devices, id // a former run wrote the same
			return nil
		}
	}
	if err := f.replace(f.path, text); err != nil {
		return err
	}
	if f.id, _, err = identify(f.path); err != nil {
		f.devices, f.id = nil, fileID{}
		return err
	}
	f.devices = devices
	return nil
}

// replaceFile writes the file beside the old one and puts it in its place at once: a reader finds the old text or the new one, whole. It
// is not synced to disk: after a crash of the machine no container is left that a spec could serve.
func replaceFile(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*"+cdiTemporary)
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
		err = temporary.Chmod(0o644) // runtimes without root read specs too
	}
	if closing := temporary.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// removeStale removes what a former run left of classes that there are no more, and what it was writing when it was killed. It tells whether
// that is done.
func (c *cdiSpecs) removeStale(wanted map[string][]*cdiDevice) bool {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return c.report(c.dir, err)
	}
	ok := true
	for _, e := range entries {
		path := filepath.Join(c.dir, e.Name())
		class, isSpec := strings.CutSuffix(strings.TrimPrefix(e.Name(), c.vendor+"-"), cdiMark)
		stale := false
		switch {
		case !e.Type().IsRegular():
		case isSpec && strings.HasPrefix(e.Name(), c.vendor+"-"):
			stale = len(wanted[class]) == 0 && kindOf(path) == c.vendor+"/"+class
		case strings.HasPrefix(e.Name(), "."+c.vendor+"-") && strings.Contains(e.Name(), cdiMark+".") && strings.HasSuffix(e.Name(), cdiTemporary):
			info, err := e.Info()
			stale = err == nil && time.Since(info.ModTime()) > cdiAbandoned // a younger one may be another instance's at work
		}
		if !stale {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			ok = c.report(path, err) && ok
			continue
		}
		c.log.V(1).Info("Removed a CDI spec that a former run left", "file", path)
	}
	return ok
}

// kindOf is the kind of the spec in the file, "" when it is none.
func kindOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var spec struct{ Kind string }
	if json.Unmarshal(text, &spec) != nil {
		return ""
	}
	return spec.Kind
}

// remedy says what a person can do about the error.
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "mount the directory writable, or serve without CDI"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "let the plugin write into the directory (user, mode, SELinux), or serve without CDI"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on the file system of the directory"
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EISDIR):
		return "something else is in the way: remove it, or choose another directory"
	}
	return fmt.Sprintf("see to what %q means here, or serve without CDI", err)
}
