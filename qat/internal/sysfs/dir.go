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
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxAttribute = 4 << 10 // bytes; sysfs limits an attribute to a page
	maxFile      = 1 << 20 // bytes; real files are far smaller
)

// Dir is a handle to a directory. Everything read through one Dir belongs to the same incarnation
// of a device, even if another device now has the same name. After the device is gone, Read returns
// an error, but links and entries only appear to be absent. To detect that, compare the inode of
// the path after the reads.
type Dir struct {
	fd   int
	path string // as it was opened, for errors
}

// cwd is the current directory. Its methods accept paths.
var cwd = Dir{fd: unix.AT_FDCWD}

// OpenDir opens a directory, following symbolic links.
func OpenDir(name string) (Dir, error) {
	fd, err := cwd.open(name, unix.O_PATH|unix.O_DIRECTORY)
	return Dir{fd: fd, path: name}, err
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

// Inode returns the inode number of the file at a path, following symbolic links. See [Dir.Inode].
func Inode(name string) (uint64, error) { return cwd.Inode(name) }

// Read returns the text of an attribute without surrounding white space. An attribute of more than
// 4096 bytes is an error.
func (d Dir) Read(name string) (string, error) {
	text, err := d.read(name, maxAttribute)
	return strings.TrimSpace(text), err
}

// ReadStart reads the start of a file into buf with one read, and returns the part of buf that it
// filled. It does not allocate memory for the content.
func (d Dir) ReadStart(name string, buf []byte) ([]byte, error) {
	fd, err := d.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, buf) })
	_ = unix.Close(fd)
	if err != nil {
		return nil, d.pathError("read", name, err)
	}
	return buf[:n], nil
}

// ReadFile returns the text of a file without surrounding white space. The file need not be in
// sysfs. ReadFile does not wait for the writer of a FIFO. A file of more than 1 MiB is an error.
func ReadFile(name string) (string, error) {
	text, err := ReadText(name)
	return strings.TrimSpace(text), err
}

// ReadText is like ReadFile, but keeps surrounding white space, so that line numbers are correct.
func ReadText(name string) (string, error) { return cwd.read(name, maxFile) }

func (d Dir) read(name string, limit int) (string, error) {
	fd, err := d.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [maxAttribute + 1]byte
	text := buf[:0]
	for {
		text = slices.Grow(text, 1)
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, text[len(text):cap(text)]) })
		text = text[:len(text)+max(n, 0)]
		switch {
		case err != nil:
			return "", d.pathError("read", name, err)
		case len(text) > limit:
			return "", d.pathError("read", name, fmt.Errorf("%w: more than %d bytes", unix.EFBIG, limit))
		case n == 0 || limit == maxAttribute: // sysfs returns an attribute whole, debugfs may return pieces
			return string(text), nil
		}
	}
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
	return strings.Clone(path.Base(string(buf[:n]))), nil // without the rest of the target in memory
}

// Link returns the last component of the target of the symbolic link at a path. See [Dir.Link].
func Link(name string) (string, error) { return cwd.Link(name) }

// Exists reports whether an entry exists.
func (d Dir) Exists(name string) (bool, error) {
	switch err := unix.Faccessat(d.fd, name, unix.F_OK, 0); err {
	case nil:
		return true, nil
	case unix.ENOENT, unix.ENOTDIR:
		return false, nil
	default:
		return false, d.pathError("access", name, err)
	}
}

// Exists reports whether a path exists.
func Exists(name string) (bool, error) { return cwd.Exists(name) }

// Names returns the names in the directory itself (".") or in a directory below it, in no
// particular order.
func (d Dir) Names(sub string) ([]string, error) {
	fd, err := d.open(sub, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var buf [4 << 10]byte
	var names []string
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.ReadDirent(fd, buf[:]) })
		if err != nil {
			return nil, d.pathError("read", sub, err)
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// Names returns the names in a directory, in no particular order.
func Names(dir string) ([]string, error) { return cwd.Names(dir) }

func (d Dir) open(name string, flags int) (fd int, err error) {
	fd, err = ignoringEINTR(func() (int, error) { return unix.Openat(d.fd, name, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, d.pathError("open", name, err)
	}
	return fd, nil
}

func (d Dir) pathError(op, name string, err error) error {
	return &os.PathError{Op: op, Path: path.Join(d.path, name), Err: err}
}

func ignoringEINTR(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}

// IsAbsent reports whether an error means that a file, or the device that it belongs to, does not
// exist. The device may have gone between two steps.
func IsAbsent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// IsTransient reports whether an error does not concern the state of the file or its device: the
// process or the host lacks a resource, or the file cannot be read at the moment. The same read may
// succeed later.
func IsTransient(err error) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EIO, unix.EAGAIN, unix.EINTR, unix.EBUSY, unix.ETIMEDOUT:
		return true
	}
	return false
}
