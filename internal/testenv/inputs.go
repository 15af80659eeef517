package testenv

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Inputs makes the files below root (without those of git) inputs of the test, so that `go test` does not answer from its cache when one
// of them changed. It is for a test that lets another program, such as go, read them: the cache sees only what the test itself opens.
func Inputs(t testing.TB, root string) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return err // the walk opens each directory, and with it the names, sizes and times of its files are known
	}); err != nil {
		t.Fatal(err)
	}
}
