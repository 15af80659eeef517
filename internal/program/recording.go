// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"
)

// writeRecordings writes what the recorder holds to the file at path at each signal, until ctx
// ends.
func writeRecordings(
	ctx context.Context, signals <-chan os.Signal, path string, write func(context.Context, io.Writer) error,
) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		if path == "" {
			klog.InfoS("Not writing the recording, because -status-socket is empty and the file would be beside it")
			continue
		}
		err := writeFile(path, func(w io.Writer) error { return write(ctx, w) })
		switch {
		case err == nil:
			klog.InfoS("Wrote the recording", "file", path)
		case errors.Is(err, fs.ErrNotExist):
			klog.ErrorS(err, "Cannot write the recording: create the directory, and restart the plugin", "file", path)
		default:
			klog.ErrorS(err, "Cannot write the recording", "file", path)
		}
	}
}

// writeFile replaces a file, which only its owner can read. After an error, the old one is still
// there.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	if err = errors.Join(write(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
