// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFilesOfFormerRunsAreTakenOverOrRemoved(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "")
	s.mustSync(t, with(t, with(t, nil, "yellow", color("1")), "blue", color("1")))
	taken := stat(t, specPath(dir, "yellow"))
	s.close()

	yellow, blue := filepath.Base(specPath(dir, "yellow")), filepath.Base(specPath(dir, "blue"))
	abandoned := "." + yellow + ".1.tmp"
	foreign := ".other.example.com-a_device-plugin.json.1.tmp"
	others := map[string]string{
		vendor + "-green_device-plugin.json":        `{"kind":"other.example.com/green","devices":[]}`,
		vendor + "-green.json":                      `{"kind":"` + vendor + `/green"}`,
		"x." + vendor + "-g_device-plugin.json":     `{"kind":"` + vendor + `/g"}`,
		"." + vendor + "-hidden_device-plugin.json": `{"kind":"` + vendor + `/hidden"}`,
		vendor + "-torn_device-plugin.json":         `{"kind":`,
		"." + blue + ".2.tmp":                       "being written by another instance",
		foreign:                                     "temporary file of another vendor",
		"readme.txt":                                "",
	}
	for name, text := range others {
		writeFile(t, filepath.Join(dir, name), text)
	}
	writeFile(t, filepath.Join(dir, abandoned), "")
	directory := "." + blue + ".3.tmp" // not a file of ours either
	if err := os.Mkdir(filepath.Join(dir, directory), 0o755); err != nil {
		t.Fatal(err)
	}
	hourAgo := time.Now().Add(-time.Hour)
	for _, name := range []string{abandoned, foreign, directory, "readme.txt"} {
		if err := os.Chtimes(filepath.Join(dir, name), hourAgo, hourAgo); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "linked")
	writeFile(t, elsewhere, `{"kind":"`+vendor+`/linked"}`)
	link := filepath.Base(specPath(dir, "linked"))
	if err := os.Symlink(elsewhere, filepath.Join(dir, link)); err != nil {
		t.Fatal(err)
	}

	s = startSyncer(dir, "")
	s.mustSync(t, with(t, nil, "yellow", color("1"))) // without blue
	want := slices.Sorted(maps.Keys(others))
	want = append(want, yellow, link, directory)
	slices.Sort(want)
	if diff := cmp.Diff(want, fileNames(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for name, text := range others {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s is now %q (%v)", name, got, err)
		}
	}
	if now := stat(t, specPath(dir, "yellow")); !os.SameFile(now, taken) {
		t.Error("a file with the right specs was written again")
	}
}

func TestFileOfAFormerRunWithOtherSpecsIsReplaced(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.mustSync(t, with(t, nil, "yellow", color("1"), color("2")))
	s.close()
	startSyncer(dir, "vf").mustSync(t, with(t, nil, "yellow", color("2"), color("3")))
	if diff := cmp.Diff([]string{vendor + "/vf=2", vendor + "/vf=3"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}

// The search for files of former runs is repeated until it succeeds, and then never.
func TestFormerRunsAreLookedForOnce(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "cdi")
	writeFile(t, dir, "a file in place of the directory")
	s := startSyncer(dir, "")
	if found := s.sync(nil); !found.retryable() {
		t.Errorf("found %v", found)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stale := `{"kind":"` + vendor + `/green"}`
	writeFile(t, specPath(dir, "green"), stale)
	s.mustSync(t, nil)
	if left := fileNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	writeFile(t, specPath(dir, "green"), stale) // of another instance, then
	s.mustSync(t, nil)
	if left := fileNames(t, dir); len(left) != 1 {
		t.Errorf("files %q, want that of the other instance", left)
	}
}

func TestFailedRemovalOfAFileIsRepeated(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "")
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	path := specPath(dir, "yellow")
	s.removeErr = syscall.EROFS
	for range 2 {
		if found := s.sync(nil); !errors.Is(found[path].err, syscall.EROFS) || !found.retryable() {
			t.Errorf("found %v", found)
		}
	}
	s.removeErr = nil
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "a file in place of the directory")
	if found := s.sync(nil); !errors.Is(found[path].err, syscall.ENOTDIR) || !found.retryable() {
		t.Errorf("found %v", found)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	s.mustSync(t, nil)
	if left := fileNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestFailedRemovalOfAnAbandonedFileIsRepeated(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "."+filepath.Base(specPath(dir, "vf"))+".1.tmp")
	writeFile(t, path, "")
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	s := startSyncer(dir, "vf")
	s.removeErr = syscall.EROFS
	for range 2 {
		if found := s.sync(nil); !errors.Is(found[path].err, syscall.EROFS) || !found.retryable() {
			t.Errorf("found %v", found)
		}
	}
	s.removeErr = nil
	s.mustSync(t, nil)
	if left := fileNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestRemovalOfAMissingFileIsNoError(t *testing.T) {
	if err := removeFile(filepath.Join(t.TempDir(), "missing")); err != nil {
		t.Error(err)
	}
}

// Reading a pipe would block.
func TestFileThatIsNotRegularIsNotRead(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "")
	path := specPath(dir, "yellow")
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	if diff := cmp.Diff([]string{vendor + "/yellow=1"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
	if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	s.mustSync(t, nil)
	if mode := stat(t, path).Mode(); mode.Type() != os.ModeNamedPipe {
		t.Errorf("the pipe is now %v", mode)
	}
}

func TestFileThatOthersHaveReplacedIsWrittenAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(path string) error
	}{
		{"another file", func(path string) error {
			if err := os.WriteFile(path+".new", []byte(`{"kind":"x"}`), 0o644); err != nil {
				return err
			}
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return errors.Join(os.Chtimes(path+".new", info.ModTime(), info.ModTime()), os.Rename(path+".new", path))
		}},
		{"changed in place", func(path string) error {
			later := time.Now().Add(time.Second)
			err := os.WriteFile(path, []byte(`{"kind":"x"}`), 0o644)
			return errors.Join(err, os.Chtimes(path, later, later))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := startSyncer(dir, "vf")
			tree := with(t, nil, "yellow", color("1"))
			s.mustSync(t, tree)
			if err := tt.change(specPath(dir, "vf")); err != nil {
				t.Fatal(err)
			}
			s.mustSync(t, tree)
			if diff := cmp.Diff([]string{vendor + "/vf=1"}, runtimeDevices(t, dir)); diff != "" {
				t.Errorf("on disk (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReplacedFileIsAnotherFileThatAllCanRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spec.json")
	if err := replaceFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path) // as a runtime that is reading
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := replaceFile(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	old := make([]byte, 8)
	if n, err := reader.Read(old); err != nil || string(old[:n]) != "old" {
		t.Errorf("the reader gets %q, %v, want the old text", old[:n], err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "new" {
		t.Errorf("the file is %q, %v", text, err)
	}
	if mode := stat(t, path).Mode(); mode != 0o644 {
		t.Errorf("mode %v, want 0644", mode)
	}
}

func TestFailedReplaceLeavesNoFileAndHasAStableError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "spec.json")
	if err := os.Mkdir(path, 0o755); err != nil { // nothing can be renamed over a directory
		t.Fatal(err)
	}
	var texts []string
	for range 2 {
		err := replaceFile(path, []byte("x"))
		if err == nil {
			t.Fatal("no error")
		}
		texts = append(texts, err.Error())
	}
	if texts[0] != texts[1] || !strings.Contains(texts[0], path) {
		t.Errorf("the errors are %q, want the same text twice", texts)
	}
	if diff := cmp.Diff([]string{"spec.json"}, fileNames(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestHugeFileIsNotReadAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.json")
	writeFile(t, path, "")
	if err := os.Truncate(path, 1<<30); err != nil { // a sparse file
		t.Fatal(err)
	}
	if text, err := readText(path); !errors.Is(err, syscall.EFBIG) || len(text) > maxSpec+1 {
		t.Errorf("read %d bytes, error %v; want at most %d and EFBIG", len(text), err, maxSpec+1)
	}
	if _, err := readSpec(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("readSpec: %v, want an error that names the file", err)
	}
}
