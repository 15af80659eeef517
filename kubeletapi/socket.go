// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// errInUse is returned for a socket that another live process serves.
var errInUse = errors.New("another process serves it")

// fileID identifies a file across lookups of its path. The zero value means no file.
type fileID struct {
	dev, ino uint64
	created  unix.StatxTimestamp // a new file may have the inode number of a removed one
}

// identify returns the ID of the file at path, without following a symbolic link, and
// reports whether it is a socket.
//
// If the file system does not record creation times, identify uses the time of the last change of
// the inode instead. A chmod then looks like a new file.
func identify(path string) (id fileID, isSocket bool, err error) {
	var st unix.Statx_t
	const mask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_CTIME | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, mask, &st); err != nil {
		return fileID{}, false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	id = fileID{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, created: st.Ctime}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.created = st.Btime
	}
	return id, st.Mode&unix.S_IFMT == unix.S_IFSOCK, nil
}

// socket is a listening socket and its file.
type socket struct {
	*net.UnixListener
	path string
	id   fileID
}

// listen creates a socket at path. It replaces a socket of a dead process. If a live
// process serves the socket, the error is errInUse.
func listen(path string) (*socket, error) {
	address := &net.UnixAddr{Net: "unix", Name: path}
	l, err := net.ListenUnix("unix", address)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeStale(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
		l, err = net.ListenUnix("unix", address)
	}
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would delete any file that has the path by then
	id, _, err := identify(path)
	if err != nil { // somebody has deleted it already
		l.Close()
		return nil, err
	}
	return &socket{UnixListener: l, path: path, id: id}, nil
}

// removeStale removes the socket at path if no process serves it.
func removeStale(path string) error {
	before, isSocket, err := identify(path)
	if err != nil {
		return err
	}
	if !isSocket {
		return errors.New("the file exists and is not a socket")
	}
	conn, err := net.Dial("unix", path) // does not wait: a full backlog is EAGAIN
	if err == nil {
		conn.Close()
		return errInUse
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w (connecting to it: %w)", errInUse, err)
	}
	// Another instance may have replaced the stale socket with its own meanwhile.
	if now, _, err := identify(path); err != nil || now != before {
		return err
	}
	return os.Remove(path)
}

// exists reports whether the path still leads to s. A nil socket does not exist.
func (s *socket) exists() bool {
	if s == nil {
		return false
	}
	id, _, err := identify(s.path)
	// Our socket keeps its inode in use, so the inode number is not reused.
	return err == nil && id.dev == s.id.dev && id.ino == s.id.ino
}

// remove removes the file of s, unless another file has replaced it, and closes s.
func (s *socket) remove() {
	if s == nil {
		return
	}
	if s.exists() {
		_ = os.Remove(s.path)
	}
	s.Close()
}
