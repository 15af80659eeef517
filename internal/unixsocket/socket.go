// SPDX-License-Identifier: Apache-2.0

// Package unixsocket creates Unix sockets at paths that several processes may use. It replaces the
// socket of a process that was killed, and leaves alone one that a live process serves. A Socket
// removes its file only if that is still its own.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned for a socket that another live process serves.
var ErrInUse = errors.New("another process serves it")

// A FileID identifies a file across lookups of its path. The zero value means no file.
type FileID struct {
	dev, ino uint64
	created  unix.StatxTimestamp // a new file may have the inode number of a removed one
}

// Identify returns the ID of the file at path, without following a symbolic link, and
// reports whether it is a socket.
//
// If the file system does not record creation times, Identify uses the time of the last change of
// the inode instead. A chmod then looks like a new file.
func Identify(path string) (id FileID, isSocket bool, err error) {
	var st unix.Statx_t
	const mask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_CTIME | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, mask, &st); err != nil {
		return FileID{}, false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	id = FileID{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, created: st.Ctime}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.created = st.Btime
	}
	return id, st.Mode&unix.S_IFMT == unix.S_IFSOCK, nil
}

// A Socket is a listening socket and its file.
type Socket struct {
	*net.UnixListener
	path string
	id   FileID
}

// Listen creates a socket at path, whose permissions are perm as far as the umask allows them. It
// replaces a socket of a dead process. If a live process serves the socket, the error is ErrInUse.
func Listen(path string, perm fs.FileMode) (*Socket, error) {
	l, err := listen(path, perm)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := RemoveStale(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
		l, err = listen(path, perm)
	}
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would delete any file that has the path by then
	id, _, err := Identify(path)
	if err != nil { // somebody has deleted it already
		l.Close()
		return nil, err
	}
	return &Socket{UnixListener: l, path: path, id: id}, nil
}

// listen creates a socket and its file. The kernel gives the file the permissions of the socket's
// inode (net/unix/af_unix.c, unix_bind_bsd), so they apply from the start.
func listen(path string, perm fs.FileMode) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(perm.Perm())) }), err)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// RemoveStale removes the socket at path if no process serves it. The error is ErrInUse if a live
// process does. A process that has created its socket and does not listen yet looks dead, which
// lasts for microseconds.
func RemoveStale(path string) error {
	before, isSocket, err := Identify(path)
	if err != nil {
		return err
	}
	if !isSocket {
		return errors.New("the file exists and is not a socket")
	}
	conn, err := net.Dial("unix", path) // does not wait: a full backlog is EAGAIN
	if err == nil {
		conn.Close()
		return ErrInUse
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w (connecting to it: %w)", ErrInUse, err)
	}
	// Another instance may have replaced the stale socket with its own meanwhile.
	if now, _, err := Identify(path); err != nil || now != before {
		return err
	}
	return os.Remove(path)
}

// Exists reports whether the path still leads to s. A nil Socket does not exist.
func (s *Socket) Exists() bool {
	if s == nil {
		return false
	}
	id, _, err := Identify(s.path)
	// Our socket keeps its inode in use, so the inode number is not reused.
	return err == nil && id.dev == s.id.dev && id.ino == s.id.ino
}

// Remove removes the file of s, unless another file has replaced it, and closes s. It may be
// called for a nil Socket.
func (s *Socket) Remove() {
	if s == nil {
		return
	}
	if s.Exists() {
		_ = os.Remove(s.path)
	}
	s.Close()
}
