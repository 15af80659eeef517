// SPDX-License-Identifier: Apache-2.0

// Package sysfs reads and writes the files of sysfs and debugfs.
//
// A path in sysfs can name one device now and another a moment later. A [Dir] is a handle to the
// directory of one device: everything read through it belongs to that device.
package sysfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxAttribute = 4 << 10  // bytes; sysfs limits an attribute to a page
	maxFile      = 64 << 10 // bytes; debugfs has no limit, its files read here are far smaller
)

// Dir is a handle to a directory. Everything read through one Dir belongs to the same incarnation
// of a device: once the device is gone, reads fail, even if another device has the same name.
type Dir struct {
	fd   int
	path string // as it was opened, for errors
}

// OpenDir opens a directory, following symbolic links.
func OpenDir(name string) (Dir, error) {
	fd, err := openat(unix.AT_FDCWD, name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return Dir{fd: -1}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return Dir{fd: fd, path: name}, nil
}

// Close closes the handle. It must be called once.
func (d Dir) Close() { _ = unix.Close(d.fd) }

// Inode returns the inode number of the directory itself (".") or of an entry. The number
// identifies an incarnation, because kernfs numbers its objects in ascending order
// (fs/kernfs/dir.c, __kernfs_new_node).
func (d Dir) Inode(name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, 0); err != nil {
		return 0, d.pathError("stat", name, err)
	}
	return st.Ino, nil
}

// Read returns the text of an attribute without surrounding white space. An attribute of more than
// 4096 bytes is an error.
func (d Dir) Read(name string) (string, error) {
	fd, err := openat(d.fd, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", d.pathError("open", name, err)
	}
	defer unix.Close(fd)
	var buf [maxAttribute + 1]byte
	n, err := read(fd, buf[:]) // sysfs returns an attribute whole
	switch {
	case err != nil:
		return "", d.pathError("read", name, err)
	case n > maxAttribute:
		return "", d.pathError("read", name, errTooLarge(maxAttribute))
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// Link returns the last component of a symbolic link's target. It returns "" and no error if the
// link does not exist.
func (d Dir) Link(name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(d.fd, name, buf[:])
	switch {
	case err == unix.ENOENT:
		return "", nil
	case err != nil:
		return "", d.pathError("readlink", name, err)
	}
	return path.Base(string(buf[:n])), nil
}

// Exists reports whether an entry exists.
func (d Dir) Exists(name string) (bool, error) {
	err := unix.Faccessat(d.fd, name, unix.F_OK, 0)
	switch err {
	case nil:
		return true, nil
	case unix.ENOENT, unix.ENOTDIR:
		return false, nil
	}
	return false, d.pathError("access", name, err)
}

// Names returns the names in the directory itself (".") or in a directory below it, in no
// particular order.
func (d Dir) Names(sub string) ([]string, error) {
	fd, err := openat(d.fd, sub, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, d.pathError("open", sub, err)
	}
	f := os.NewFile(uintptr(fd), path.Join(d.path, sub))
	defer f.Close()
	return f.Readdirnames(-1)
}

func (d Dir) pathError(op, name string, err error) error {
	return &os.PathError{Op: op, Path: path.Join(d.path, name), Err: err}
}

// ReadFile returns the text of a file, such as one of debugfs, without surrounding white space. A
// file of more than 64 KiB is an error.
func ReadFile(name string) (string, error) {
	fd, err := openat(unix.AT_FDCWD, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var text []byte
	var buf [maxAttribute]byte
	for { // debugfs may return a file in pieces
		n, err := read(fd, buf[:])
		text = append(text, buf[:max(n, 0)]...)
		switch {
		case err != nil:
			return "", &os.PathError{Op: "read", Path: name, Err: err}
		case len(text) > maxFile:
			return "", &os.PathError{Op: "read", Path: name, Err: errTooLarge(maxFile)}
		case n == 0:
			return strings.TrimSpace(string(text)), nil
		}
	}
}

func errTooLarge(limit int) error {
	return fmt.Errorf("%w: more than %d bytes", unix.EFBIG, limit)
}

func openat(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func read(fd int, buf []byte) (n int, err error) {
	for {
		n, err = unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// IsAbsent reports whether an error only says that a file, or the device that it belongs to, does
// not exist: it may have gone between two steps.
func IsAbsent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}
