// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// problems are errors by their subject: the path of a file or directory, or the CDI
// name of a device.
type problems map[string]problem

type problem struct {
	err    error
	retry  bool // a file's error, which may pass; a device's error lasts until it changes
	logged time.Time
}

func (p problems) addFile(path string, err error)   { p[path] = problem{err: err, retry: true} }
func (p problems) addDevice(name string, err error) { p[name] = problem{err: err} }

// retryable reports whether a retry may help.
func (p problems) retryable() bool {
	for _, problem := range p {
		if problem.retry {
			return true
		}
	}
	return false
}

// log logs each problem that is not in before with the same error, or was logged
// repeatInterval ago, and the problems of before that are solved.
func (p problems) log(log klog.Logger, before problems, now time.Time) {
	for subject, problem := range p {
		old, known := before[subject]
		if known && old.err.Error() == problem.err.Error() && now.Sub(old.logged) < repeatInterval {
			problem.logged = old.logged
			p[subject] = problem
			continue
		}
		problem.logged = now
		p[subject] = problem
		if problem.retry {
			log.Error(problem.err, "Cannot update CDI specs, retrying; new and changed devices have no CDI names",
				"path", subject, "remedy", remedy(problem.err))
		} else {
			log.Error(problem.err, "Serving a device without its CDI name", "name", subject)
		}
	}
	for subject := range before {
		if _, still := p[subject]; !still {
			log.Info("CDI problem solved", "subject", subject)
		}
	}
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
	}
	return fmt.Sprintf("solve %q, or disable CDI", err)
}
