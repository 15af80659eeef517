package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// programPath is the program's in the image.
const programPath = "usr/local/bin/qat_plugin"

// A file is one of the image's. All are of user and group 0.
type file struct {
	path    string // without a leading slash
	mode    fs.FileMode
	content []byte
}

// contents is all that gets into the image, and where it comes from.
type contents struct {
	program  file
	licences []file // by path
	modules  []*module
	spdx     map[string][]string // by path of the module: SPDX's names of its licences
}

// files are the image's, by path.
func (c *contents) files() []file { return append(slices.Clone(c.licences), c.program) }

// expression says in SPDX's terms under which licences the program is passed on: all of them together hold.
func (c *contents) expression() string {
	var all []string
	for _, names := range c.spdx {
		all = append(all, names...)
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " AND ")
}

// contents builds the program into dir and gathers the licences.
func (b *build) contents(ctx context.Context, dir string) (*contents, error) {
	text, err := b.compile(ctx, dir)
	if err != nil {
		return nil, err
	}
	c := &contents{program: file{path: programPath, mode: 0o755, content: text}, spdx: map[string][]string{}}
	if c.modules, err = b.linked(ctx); err != nil {
		return nil, err
	}
	for _, m := range c.modules {
		files, names, err := m.licences()
		if err != nil {
			return nil, err
		}
		c.licences = append(c.licences, files...)
		c.spdx[m.Path] = names
	}
	slices.SortFunc(c.licences, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return c, nil
}

// parents are the directories above the files, each after the one it is in.
func parents(files []file) []string {
	var dirs []string
	for _, f := range files {
		for dir := path.Dir(f.path); dir != "."; dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// writeTree writes the files below a directory, which must be empty or not be there yet. Their times are those in the image.
func writeTree(dir string, files []file) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("directory %q is not empty: what is in it would get into an image; give another", dir)
	}
	dirs := parents(files)
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range files {
		to := filepath.Join(dir, f.path)
		if err := os.WriteFile(to, f.content, f.mode); err != nil {
			return err
		}
		if err := settle(to, f.mode); err != nil {
			return err
		}
	}
	slices.Reverse(dirs) // a file that is written sets its directory's time
	for _, d := range dirs {
		if err := settle(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// settle gives a file its mode, whatever the umask, and its time.
func settle(path string, mode fs.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return os.Chtimes(path, time.Time{}, fileTime)
}
