// SPDX-License-Identifier: Apache-2.0

package dirwatch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// await waits for an event that satisfies f.
func await(t *testing.T, w *Watch, f func(fsnotify.Event) bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case ev := <-w.Events:
			if f(ev) {
				return
			}
		case err := <-w.Errors:
			t.Fatal(err)
		case <-timeout:
			t.Fatal("no event")
		}
	}
}

func TestMissingDirectoryShowsWhenItAppears(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "a", "b")
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if Exists(dir) || w.Replaced() {
		t.Errorf("Exists = %t, Replaced = %t before the directory exists", Exists(dir), w.Replaced())
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	await(t, w, w.Moved)
	if !Exists(dir) || !w.Replaced() {
		t.Errorf("Exists = %t, Replaced = %t after it was created", Exists(dir), w.Replaced())
	}
}

// An open file in the directory keeps its inode, so only the parent shows that it was removed.
func TestRemovedDirectoryMoves(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	open, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	await(t, w, func(ev fsnotify.Event) bool { return w.Moved(ev) && ev.Has(fsnotify.Remove) })
	if !w.Replaced() {
		t.Error("Replaced = false")
	}
}

func TestOtherDirectoryAtTheSamePathIsAReplacement(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	w, err := New(link)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.Replaced() {
		t.Error("Replaced = true")
	}
	if err := os.Symlink("two", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	if !w.Replaced() {
		t.Error("Replaced = false after the link leads elsewhere")
	}
}
