// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RealDir resolves an entry of bus/pci/devices to the directory of the device, because inotify
// reports the path that it was given. On sysfs the entry is a symbolic link to a path without
// links, so one step suffices. An entry that is a directory is returned as it is.
func RealDir(link string) (string, error) {
	target, err := os.Readlink(link)
	switch {
	case errors.Is(err, unix.EINVAL):
		return link, nil
	case err != nil:
		return "", err
	case filepath.IsAbs(target):
		return target, nil
	}
	return filepath.Join(filepath.Dir(link), target), nil
}

// ResolveRoot returns the absolute path of a root without symbolic links, as [Below] needs it. A
// root that cannot be resolved, such as one that does not exist yet, is only made absolute.
func ResolveRoot(root string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	if resolved, err := filepath.EvalSymlinks(root); err == nil {
		return resolved, nil
	}
	return root, nil
}

// Below returns the part of a path below a root, without a leading slash. It is empty for the root
// itself. ok is false for a path elsewhere. Below does not allocate.
func Below(path []byte, root string) (rest []byte, ok bool) {
	root = strings.TrimSuffix(root, "/") // "/" is the one clean path that ends in a slash
	if len(path) < len(root) || string(path[:len(root)]) != root {
		return nil, false
	}
	rest = path[len(root):]
	if len(rest) == 0 {
		return nil, true
	}
	return rest[1:], rest[0] == '/'
}

// Base returns the last component of a path. Base does not allocate.
func Base(path []byte) []byte {
	return path[bytes.LastIndexByte(path, '/')+1:]
}
