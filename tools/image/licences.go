package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// licenceDir is where the licences are in the image.
const licenceDir = "licenses"

var (
	// licenceFile is what goes with a program that others get: besides the licence the notices that it asks to keep.
	licenceFile = regexp.MustCompile(`(?i)^(licen[cs]es?|copying|copyright|notice|patents)([-._].*)?$`)
	// licenceText is the licence itself.
	licenceText = regexp.MustCompile(`(?i)^(licen[cs]es?|copying)([-._].*)?$`)
)

// onlyVersion are the names of today for texts of the GNU licences. Such a text alone permits no later version; that of the GPL shows in its
// last lines how one would, which is not to be read as said.
var onlyVersion = map[string]string{
	"GPL-2.0": "GPL-2.0-only", "GPL-3.0": "GPL-3.0-only", "LGPL-2.1": "LGPL-2.1-only", "LGPL-3.0": "LGPL-3.0-only", "AGPL-3.0": "AGPL-3.0-only",
}

// wholeText is how much of a file must be the text of known licences, in percent. The appendix of a licence may be missing; a licence with
// conditions of its own must not pass for the one that it was made from.
const wholeText = 90

// licences returns the module's licence files as they are in the image, and what they are in SPDX's names. A licence in the directory of a
// package that is linked, or above it, counts as well: it is that of code taken from elsewhere. A module without a licence is an error.
func (m *module) licences() (files []file, spdx []string, err error) {
	for _, dir := range m.licensedDirs() {
		entries, err := os.ReadDir(filepath.Join(m.Dir, dir))
		if err != nil {
			return nil, nil, fmt.Errorf("look for the licence of module %s: %w", m.Path, err)
		}
		for _, entry := range entries {
			if !entry.Type().IsRegular() || !licenceFile.MatchString(entry.Name()) || strings.HasSuffix(entry.Name(), ".go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(m.Dir, dir, entry.Name()))
			if err != nil {
				return nil, nil, fmt.Errorf("read a licence of module %s: %w", m.Path, err)
			}
			files = append(files, file{path: path.Join(licenceDir, m.licenceFolder(), filepath.ToSlash(dir), entry.Name()), mode: 0o644, content: text})
			if !licenceText.MatchString(entry.Name()) {
				continue
			}
			names, err := identify(text)
			if err != nil {
				return nil, nil, fmt.Errorf("module %s, file %s: %w", m.Path, filepath.Join(dir, entry.Name()), err)
			}
			spdx = append(spdx, names...)
		}
	}
	if len(spdx) == 0 {
		what := "module " + m.Path
		if m.Path == goroot {
			what = "Go's own library (use a Go of https://go.dev/dl, some distributions take the file out)"
		}
		return nil, nil, fmt.Errorf("%s has no licence file in %s: without one its code may not be given away in an image", what, m.Dir)
	}
	slices.Sort(spdx)
	return files, slices.Compact(spdx), nil
}

// licensedDirs are the module's directory and those between it and the packages that are linked, relative to it.
func (m *module) licensedDirs() []string {
	dirs := []string{"."}
	for _, p := range m.packages {
		for rel, err := filepath.Rel(m.Dir, p); err == nil && filepath.IsLocal(rel) && rel != "."; rel = filepath.Dir(rel) {
			dirs = append(dirs, rel)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// licenceFolder is the module's own below licenceDir.
func (m *module) licenceFolder() string {
	switch {
	case m.Main:
		return ""
	case m.Path == goroot:
		return "go"
	default:
		return m.Path
	}
}

// identify returns SPDX's names of the licences whose texts stand in a file.
func identify(text []byte) ([]string, error) {
	found := licensecheck.Scan(text)
	if found.Percent < wholeText {
		return nil, errors.New("it is the text of no licence that is known (to licensecheck): see what it asks for before it is linked")
	}
	var names []string
	whole := map[string]bool{}
	for _, m := range found.Match {
		whole[m.ID] = true
	}
	for _, m := range found.Match {
		base := strings.TrimSuffix(m.ID, "-or-later")
		switch {
		case base != m.ID && whole[base]: // the text's own last lines
		case onlyVersion[m.ID] != "":
			names = append(names, onlyVersion[m.ID])
		default:
			names = append(names, m.ID)
		}
	}
	return names, nil
}
