package follow

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
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

func TestADryWriterWritesNothingAndSaysWhat(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	var noted []string
	w := Writer{Root: dir, Dry: true, Note: func(file, value string) { noted = append(noted, file+"="+value) }}
	for _, file := range []string{"file", "none"} {
		if err := w.Write(file, "x"); err != nil {
			t.Errorf("a dry run fails: %v", err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "before" {
		t.Errorf("the file holds %q (%v), want what it held before", text, err)
	}
	if want := []string{"file=x", "none=x"}; !slices.Equal(noted, want) {
		t.Errorf("noted %q, want %q", noted, want)
	}
}
