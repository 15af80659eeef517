package kubeletapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errInUse says that another live process serves the socket.
var errInUse = errors.New("another process serves it")

const probeTimeout = time.Second // a unix socket answers or refuses at once; this only guards against the unknown

// fileID is what makes a socket file the same file at two looks. The zero value stands for no file.
type fileID struct {
	dev, ino uint64
	ctime    int64 // status change, ns: file systems give an inode number to the next file, at once
}

func (id fileID) isZero() bool { return id == fileID{} }

// sameFile leaves the ctime out. It is enough for a file that we hold open, whose inode cannot be given away; chmod changes only the ctime.
func (id fileID) sameFile(other fileID) bool { return id.dev == other.dev && id.ino == other.ino }

// identify looks at the path itself, not at what a link points to.
func identify(path string) (fileID, fs.FileMode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	id := fileID{dev: uint64(st.Dev), ino: st.Ino, ctime: st.Ctim.Nano()}
	var mode fs.FileMode
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		mode = fs.ModeSocket
	case unix.S_IFDIR:
		mode = fs.ModeDir
	}
	return id, mode, nil
}

// socket is a listening socket of ours and its file.
type socket struct {
	*net.UnixListener
	path string
	id   fileID
}

// listen makes the socket. A file that a dead process left there is removed; a live process's is not, which is errInUse.
func listen(path string) (*socket, error) {
	l, err := bind(path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, fmt.Errorf("listen on %q: %w", path, err)
		}
		l, err = bind(path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	id, _, err := identify(path)
	if err != nil {
		l.Close() // deleted already
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	return &socket{UnixListener: l, path: path, id: id}, nil
}

func bind(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			return nil, errno // net's words repeat the path
		}
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would delete whatever file has the name by then
	return l, nil
}

// removeStale removes the socket file that nobody serves.
func removeStale(path string) error {
	before, mode, err := identify(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case mode != fs.ModeSocket:
		return errors.New("there is a file that is not a socket")
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		conn.Close()
		return errInUse
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("%w (its answer: %w)", errInUse, err) // e.g. EAGAIN: alive, but its queue is full
	}
	// Another instance may have done the same and listen by now: then the file is no longer the one that was stale.
	if now, _, err := identify(path); err != nil || now != before {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// there tells whether the path still leads to this socket.
func (s *socket) there() bool {
	if s == nil {
		return false
	}
	id, _, err := identify(s.path)
	return err == nil && id.sameFile(s.id)
}

// remove removes the socket's file, if it is still ours, and stops listening.
func (s *socket) remove() {
	if s == nil {
		return
	}
	if s.there() {
		_ = os.Remove(s.path)
	}
	s.Close()
}
