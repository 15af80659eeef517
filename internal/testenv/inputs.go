// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Inputs makes the files below root inputs of the test, except those in hidden directories such as
// .git: when one of them changes, go test does not use a cached result. A test needs it if another
// program, such as go, reads the files for it, because go test records only what the test itself
// opens.
func Inputs(t testing.TB, root string) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return err // the walk opens each directory, which records the names, sizes and times of its files
	}); err != nil {
		t.Fatal(err)
	}
}
