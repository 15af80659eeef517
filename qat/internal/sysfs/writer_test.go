// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

func content(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}

func TestWriteReplacesAnAttribute(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	write(t, filepath.Join(dir, "sub/file"), "a longer value\n")
	w := NewWriter(dir, false)
	must(t, w.Write("sub/file", "vfio-pci"))
	if got := content(t, filepath.Join(dir, "sub/file")); got != "vfio-pci\n" || w.DryRun() {
		t.Errorf("the file holds %q, dry run %v; want just the line", got, w.DryRun())
	}
}

func TestWriteCreatesNoFileAndDoesNotBlock(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	w := NewWriter(dir, false)
	if err := w.Write("fifo", "x"); !errors.Is(err, unix.ENXIO) {
		t.Errorf("Write to a FIFO without a reader: %v, want ENXIO", err)
	}
	file := filepath.Join(dir, "none")
	if err := w.Write("none", "x"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("Write to a missing file: %v, want that it does not exist, and its name", err)
	}
	if exists, _ := Exists(file); exists {
		t.Error("Write created a file")
	}
}

func TestFailedWriteNamesFileAndValue(t *testing.T) {
	err := NewWriter("/dev", false).Write("full", "0000:6b:00.1")
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `"0000:6b:00.1" to "/dev/full"`) {
		t.Errorf("Write to /dev/full: %v, want ENOSPC, the value and the file", err)
	}
}

func TestDryRunOnlyLogs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "before")
	var log bytes.Buffer
	state := klog.CaptureState()
	defer state.Restore()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &log)
	w := NewWriter(dir, true)
	for _, name := range []string{"file", "none"} {
		if err := w.Write(name, "vfio-pci"); err != nil {
			t.Errorf("a dry run fails: %v", err)
		}
	}
	klog.Flush()
	created, _ := Exists(filepath.Join(dir, "none"))
	if got := content(t, file); got != "before" || !w.DryRun() || created {
		t.Errorf("the file holds %q, dry run %v; want that nothing is written", got, w.DryRun())
	}
	if want := `"Would write" file="` + file + `" value="vfio-pci"`; !strings.Contains(log.String(), want) {
		t.Errorf("logged %q, want %q", log.String(), want)
	}
}
