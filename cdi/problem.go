// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"maps"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// problems are errors by their subject: the path of a file or directory, or the CDI
// name of a device.
type problems map[string]problem

type problem struct {
	err     error
	message string // log message; it states the consequence
	key     string // log key of the subject
	more    []any  // further log keys and values

	retry bool // a write may succeed later
	poll  bool // no event reports that the problem is solved
}

func (p problems) addFile(path string, err error) {
	p[path] = problem{
		err:     err,
		message: "Cannot update CDI specs, retrying; new and changed devices have no CDI names",
		key:     "path",
		more:    []any{"remedy", remedy(err)},
		retry:   true,
	}
}

// addWatch adds the error of watching the directory.
func (p problems) addWatch(dir string, err error) {
	p["watch of "+dir] = problem{
		err:     err,
		message: "Cannot watch the CDI directory, reading it periodically",
		key:     "subject",
		poll:    true,
	}
}

// addRefused adds a problem with n devices that a file of another process defines.
func (p problems) addRefused(path string, n int) {
	p[path] = problem{
		err:     errOwned,
		message: "Serving devices without CDI names while another process defines them",
		key:     "path",
		more:    []any{"devices", n, "remedy", "end the other process, or give it another CDI class"},
		poll:    true,
	}
}

// addDevice adds an error that lasts until the device changes.
func (p problems) addDevice(name string, err error) {
	p[name] = problem{err: err, message: "Serving a device without its CDI name", key: "name"}
}

// retryable reports whether a retry may help.
func (p problems) retryable() bool { return p.has(func(p problem) bool { return p.retry }) }

// polled reports whether no event reports the end of one of the problems.
func (p problems) polled() bool { return p.has(func(p problem) bool { return p.poll }) }

func (p problems) has(property func(problem) bool) bool {
	for _, problem := range p {
		if property(problem) {
			return true
		}
	}
	return false
}

// problemLog logs problems by cause: the same subject with the same cause is logged once in
// repeatInterval, even if it is solved and occurs again meanwhile.
type problemLog struct {
	log    klog.Logger
	logged map[problemKey]time.Time
	open   map[string]bool // subjects of logged problems that are not solved
}

type problemKey struct{ subject, cause string }

func newProblemLog(log klog.Logger) *problemLog {
	return &problemLog{log: log, logged: map[problemKey]time.Time{}, open: map[string]bool{}}
}

func (l *problemLog) write(found problems, now time.Time) {
	maps.DeleteFunc(l.logged, func(_ problemKey, at time.Time) bool { return now.Sub(at) >= repeatInterval })
	for subject, problem := range found {
		key := problemKey{subject, cause(problem.err)}
		if _, recent := l.logged[key]; recent {
			continue
		}
		l.logged[key], l.open[subject] = now, true
		l.log.Error(problem.err, problem.message, append([]any{problem.key, subject}, problem.more...)...)
	}
	for subject := range l.open {
		if _, still := found[subject]; !still {
			delete(l.open, subject)
			l.log.Info("CDI problem solved", "subject", subject)
		}
	}
}

// cause returns what an error has in common with those of other attempts, whose texts may name
// other temporary files.
func cause(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// remedy returns what an operator can do about an error of a file.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "mount the directory writable, or disable CDI"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "allow the plugin to write to the directory (user, mode, SELinux), or disable CDI"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space on the file system of the directory"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EEXIST), errors.Is(err, syscall.EISDIR):
		return "another file is in the way: remove it, or choose another directory"
	case errors.Is(err, syscall.ENOENT):
		return "create the directory; if it was deleted while it was mounted into the container, restart the plugin"
	}
	return fmt.Sprintf("solve %q, or disable CDI", err)
}
