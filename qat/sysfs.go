package qat

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAttribute is more than any attribute read here holds; sysfs itself ends at one page.
const maxAttribute = 4096 // bytes

// directory is an open directory of sysfs. Everything read through one belongs to the same incarnation of a device: after the device
// has gone, reads fail, even when another one has come under the same name.
type directory struct {
	fd   int
	path string // as it was opened, for messages
}

func openDirectory(name string) (directory, error) {
	for {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			return directory{fd: fd, path: name}, nil
		}
		if err != unix.EINTR {
			return directory{}, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func (d directory) close() { _ = unix.Close(d.fd) }

// inode tells one incarnation of the directory (".") or of one below it from the next: kernfs numbers them ever upwards
// (fs/kernfs/dir.c).
func (d directory) inode(name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, 0); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path.Join(d.path, name), Err: err}
	}
	return st.Ino, nil
}

// read is the text of an attribute without white space around it.
func (d directory) read(name string) (string, error) {
	var buf [maxAttribute]byte
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	for err == unix.EINTR {
		fd, err = unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path.Join(d.path, name), Err: err}
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf[:])
	for err == unix.EINTR {
		n, err = unix.Read(fd, buf[:])
	}
	if err != nil {
		return "", &os.PathError{Op: "read", Path: path.Join(d.path, name), Err: err}
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// link is the last component of what a symbolic link points to; "" without an error when there is no such link.
func (d directory) link(name string) (string, error) {
	var buf [maxAttribute]byte
	n, err := unix.Readlinkat(d.fd, name, buf[:])
	switch {
	case err == unix.ENOENT:
		return "", nil
	case err != nil:
		return "", &os.PathError{Op: "readlink", Path: path.Join(d.path, name), Err: err}
	}
	return path.Base(string(buf[:n])), nil
}

// exists tells whether an entry is there.
func (d directory) exists(name string) (bool, error) {
	err := unix.Faccessat(d.fd, name, unix.F_OK, 0)
	switch {
	case err == nil:
		return true, nil
	case err == unix.ENOENT, err == unix.ENOTDIR:
		return false, nil
	}
	return false, &os.PathError{Op: "access", Path: path.Join(d.path, name), Err: err}
}

// names lists the entries of the directory itself (sub ".") or of one below it.
func (d directory) names(sub string) ([]string, error) {
	fd, err := unix.Openat(d.fd, sub, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path.Join(d.path, sub), Err: err}
	}
	f := os.NewFile(uintptr(fd), path.Join(d.path, sub))
	defer f.Close()
	return f.Readdirnames(-1)
}

// absent tells whether an error only says that the thing, or the device that owned it, is not there: it went away between two steps.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// exists tells whether a path is there.
func exists(name string) bool {
	return unix.Access(name, unix.F_OK) == nil
}

// realDirectory resolves a link in bus/pci/devices by one step, which is all there is on sysfs: inotify must be given the place
// itself, as it knows an inode by one name only.
func realDirectory(link string) (string, error) {
	target, err := os.Readlink(link)
	if errors.Is(err, unix.EINVAL) {
		return link, nil // a directory, as some look-alike hosts have it
	}
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(target) {
		return target, nil
	}
	return filepath.Join(filepath.Dir(link), target), nil
}
