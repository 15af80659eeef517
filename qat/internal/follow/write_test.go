package follow

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteNeverWaitsForAReaderNorMakesAFile(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := Writer{Root: dir}
	if err := w.Write("fifo", "x"); !errors.Is(err, unix.ENXIO) {
		t.Errorf("writing to a FIFO that nobody reads: %v, want ENXIO", err)
	}
	if err := w.Write("none", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("writing to a file that is not there: %v, want that error", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "none")); err == nil {
		t.Errorf("writing to a file that is not there made it")
	}
}
