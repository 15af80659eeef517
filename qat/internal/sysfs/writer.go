// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Writer writes attributes. Every change that the plugin makes to the host goes through one.
type Writer struct {
	root   string
	dryRun bool
}

// NewWriter returns a Writer for the sysfs mounted at root. In a dry run it only logs what it
// would write.
func NewWriter(root string, dryRun bool) *Writer {
	return &Writer{root: root, dryRun: dryRun}
}

// DryRun reports whether the Writer only logs what it would write.
func (w *Writer) DryRun() bool { return w.dryRun }

// Write writes a line to the attribute with the given path below the root. It never creates a file
// and never waits for the reader of a FIFO, so it is safe on a root that is not sysfs.
func (w *Writer) Write(name, value string) error {
	file := filepath.Join(w.root, name)
	if w.dryRun {
		klog.InfoS("Would write", "file", file, "value", value)
		return nil
	}
	klog.V(2).InfoS("Writing", "file", file, "value", value)
	fd, err := cwd.open(file, unix.O_WRONLY|unix.O_TRUNC|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value+"\n")); err != nil {
		return fmt.Errorf("write %q to %q: %w", value, file, err)
	}
	return nil
}
