// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const lockSuffix = ".lock"

// errOwned reports that a running process owns a spec file.
var errOwned = errors.New("another process owns the spec file")

// lock marks a spec file as owned by this process. It is a flock(2) on a file beside the spec file:
// a lock belongs to an inode, and each change of the spec file creates another inode.
//
// The kernel releases the lock when the process ends for any reason. Unlike a file with a process
// ID, a lock also works between containers with different PID namespaces.
type lock struct {
	file *os.File

	// previous is the program that last owned the spec file, or "" if that is not known.
	previous string
}

// lockPath returns the path of the lock of a spec file. Runtimes ignore it: they read only .json
// and .yaml.
func lockPath(spec string) string {
	return filepath.Join(filepath.Dir(spec), "."+filepath.Base(spec)+lockSuffix)
}

// acquire locks the spec file. It returns errOwned if another process, or another Writer of this
// one, holds the lock.
func acquire(spec string) (*lock, error) {
	for range 10 {
		file, err := os.OpenFile(lockPath(spec), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			_ = file.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, errOwned
			}
			return nil, &fs.PathError{Op: "lock", Path: lockPath(spec), Err: err}
		}
		l := &lock{file: file}
		if !l.holds(spec) { // the owner removed the file before this process locked it
			_ = file.Close()
			continue
		}
		previous, _ := io.ReadAll(io.LimitReader(file, 256))
		l.previous = strings.TrimSpace(string(previous))
		return l, nil
	}
	return nil, errOwned
}

// holds reports whether l is still the lock of the spec file. It returns false if another process
// removed or replaced the lock file.
func (l *lock) holds(spec string) bool {
	mine, err := l.file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(lockPath(spec))
	return err == nil && os.SameFile(mine, now)
}

// mark writes the name of the program to the lock file.
func (l *lock) mark(program string) error {
	if l.previous == program {
		return nil
	}
	text := program + "\n"
	if _, err := l.file.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return l.file.Truncate(int64(len(text)))
}

// remove removes the lock file and releases the lock. The spec file must not exist.
func (l *lock) remove(spec string) error {
	if l.holds(spec) {
		if err := removeFile(lockPath(spec)); err != nil {
			return err
		}
	}
	l.release()
	return nil
}

// release releases the lock. The lock file stays, with the name of the program.
func (l *lock) release() { _ = l.file.Close() }

// abandon releases the lock like release. It also wakes the Writers of other processes, which watch
// the directory, by changing the times of the lock file.
func (l *lock) abandon() {
	_ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN)
	now := time.Now()
	_ = os.Chtimes(l.file.Name(), now, now)
	l.release()
}

// specPath returns the path of the n-th spec file of a class, from 1. There is more than one if
// several processes have devices of the class.
func (c *Config) specPath(class string, n int) string {
	if n == 1 {
		return filepath.Join(c.Dir, c.Vendor+"-"+class+"_device-plugin.json")
	}
	return filepath.Join(c.Dir, fmt.Sprintf("%s-%s_device-plugin-%d.json", c.Vendor, class, n))
}
