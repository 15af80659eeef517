// SPDX-License-Identifier: Apache-2.0

package nodelock

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Front is one of the two kinds of programs that exclude each other. Its value is the offset of
// the byte of the lock file that its instances lock.
type Front int64

const (
	DevicePlugin Front = 1
	DRADriver    Front = 2
)

// claimByte is locked exclusively while a process looks at the byte of the other front and then
// locks that of its own. Without it, two fronts that start at the same time could both find the
// other byte free.
const claimByte = 0

// claimTimeout limits how long acquire waits for another process that holds claimByte, which takes
// microseconds unless that process is frozen.
const claimTimeout = time.Second

// other returns the other front and what the log calls it.
func (f Front) other() (Front, string) {
	if f == DevicePlugin {
		return DRADriver, "DRA driver"
	}
	return DevicePlugin, "device plugin"
}

// errHeld is wrapped by the errors that mean that the other front serves the devices.
var errHeld = errors.New("it must end first")

// acquire locks the byte of the front in the file at path, which it creates if necessary. The lock
// ends when the file is closed, at the latest with the process. The error wraps errHeld if an
// instance of the other front has the lock.
func acquire(path string, front Front) (io.Closer, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := claim(file, front); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func claim(file *os.File, front Front) error {
	err := lock(file, unix.F_WRLCK, claimByte)
	for deadline := time.Now().Add(claimTimeout); errors.Is(err, unix.EAGAIN) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
		err = lock(file, unix.F_WRLCK, claimByte)
	}
	if errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("another process has been starting for %v, see /proc/locks for %s: %w",
			claimTimeout, file.Name(), errHeld)
	}
	if err != nil {
		return err
	}
	if err := checkFree(file, front); err != nil {
		return err
	}
	if err := lock(file, unix.F_RDLCK, front); err != nil {
		return err
	}
	return lock(file, unix.F_UNLCK, claimByte)
}

// look returns the error that acquire would return, and locks nothing.
func look(path string, front Front) error {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(filepath.Dir(path)) // without the file, the lock is free
		return err
	}
	if err != nil {
		return err
	}
	defer file.Close()
	return checkFree(file, front)
}

// checkFree returns an error that wraps errHeld if an instance of the other front has its lock.
func checkFree(file *os.File, front Front) error {
	other, name := front.other()
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: int64(other), Len: 1}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return &fs.PathError{Op: "read the locks of", Path: file.Name(), Err: err}
	}
	if l.Type != unix.F_UNLCK {
		return fmt.Errorf("the %s has locked %s: %w", name, file.Name(), errHeld)
	}
	return nil
}

// lock locks or unlocks one byte and does not wait.
func lock(file *os.File, kind int16, offset Front) error {
	l := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: int64(offset), Len: 1}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		if errors.Is(err, syscall.EACCES) {
			err = unix.EAGAIN // POSIX allows both for a lock that is held (fcntl(2))
		}
		return &fs.PathError{Op: "lock", Path: file.Name(), Err: err}
	}
	return nil
}
