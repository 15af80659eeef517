// SPDX-License-Identifier: Apache-2.0

package unixsocket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "live.sock")
	l, err := Listen(path, 0o777)
	must(t, err)
	defer l.Close()
	if _, err := Listen(path, 0o777); !errors.Is(err, ErrInUse) {
		t.Errorf("Listen on a served socket = %v, want ErrInUse", err)
	}
	if !l.Exists() {
		t.Error("the served socket is gone")
	}
	if err := os.Chmod(path, 0o700); err != nil || !l.Exists() {
		t.Errorf("chmod = %v, and then the socket exists: %t, want true", err, l.Exists())
	}
	if _, err := Listen(filepath.Join(dir, "missing", "x.sock"), 0o777); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Listen in a missing directory = %v, want ErrNotExist", err)
	}
	must(t, os.Remove(path))
	other, err := net.Listen("unix", path)
	must(t, err)
	defer other.Close()
	if l.Exists() {
		t.Error("the socket of another process is taken for ours")
	}
	l.Remove()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket of another process was removed: %v", err)
	}
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stale.sock")
	dead, err := Listen(path, 0o777)
	must(t, err)
	must(t, dead.Close()) // its file stays, as if the process was killed
	l, err := Listen(path, 0o777)
	must(t, err)
	conn, err := net.Dial("unix", path)
	must(t, err)
	conn.Close()
	l.Remove()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v, want ErrNotExist", err)
	}
	(*Socket)(nil).Remove()
}

func TestFileIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	if _, err := Listen(path, 0o777); err == nil {
		t.Error("a file was replaced by a socket")
	}
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Errorf("the file contains %q, %v", text, err)
	}
}

func TestSocketHasItsPermissionsFromTheStart(t *testing.T) {
	for _, perm := range []fs.FileMode{0o600, 0o640} {
		path := filepath.Join(t.TempDir(), "private.sock")
		l, err := listen(path, perm) // nothing changes the mode after it
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		if got := info.Mode().Perm(); got != perm {
			t.Errorf("the permissions are %v, want %v", got, perm)
		}
		must(t, l.Close())
	}
}

// TestFileIDDistinguishesNewFileFromRemovedOne checks that a new file and a removed one have
// different IDs, although many file systems give both the same inode number.
func TestFileIDDistinguishesNewFileFromRemovedOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	create := func() FileID {
		must(t, os.WriteFile(path, nil, 0o600))
		id, _, err := Identify(path)
		must(t, err)
		return id
	}
	before := create()
	must(t, os.Chmod(path, 0o644))
	if id, _, err := Identify(path); err != nil || id != before {
		t.Errorf("the ID changed with the mode: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for must(t, os.Remove(path)); create() == before; must(t, os.Remove(path)) { // its clock is coarse
		if time.Now().After(deadline) {
			t.Fatal("a new file has the ID of the removed one")
		}
	}
}

// TestSocketWithFullBacklogIsInUse checks that the socket of a process that does not
// accept connections is left alone.
func TestSocketWithFullBacklogIsInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "busy.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	must(t, unix.Listen(fd, 0))
	for full := false; !full; {
		conn, err := net.Dial("unix", path)
		if full = err != nil; !full {
			defer conn.Close()
		}
	}
	if _, err := Listen(path, 0o777); !errors.Is(err, ErrInUse) {
		t.Errorf("Listen = %v, want ErrInUse", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket was removed: %v", err)
	}
}
