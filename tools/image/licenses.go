// SPDX-License-Identifier: Apache-2.0

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

// licenseDir is the directory of the licenses in the image.
const licenseDir = "licenses"

var (
	// legalFile matches the names of files that must accompany a distributed program:
	// licenses, and the notices that they require to keep.
	legalFile = regexp.MustCompile(`(?i)^(licen[cs]es?|copying|copyright|notice|patents)([-._].*)?$`)
	// licenseFile matches the names of licenses only.
	licenseFile = regexp.MustCompile(`(?i)^(licen[cs]es?|copying)([-._].*)?$`)
)

// gnuIDs maps deprecated SPDX identifiers to the current ones. The text of a GNU license
// alone does not permit later versions; its last lines only show how to write a notice
// that does.
var gnuIDs = map[string]string{
	"GPL-2.0":  "GPL-2.0-only",
	"GPL-3.0":  "GPL-3.0-only",
	"LGPL-2.1": "LGPL-2.1-only",
	"LGPL-3.0": "LGPL-3.0-only",
	"AGPL-3.0": "AGPL-3.0-only",
}

// minCoverage is the part of a file, in percent, that must be the text of known licenses.
// It admits a license without its appendix, but not one with additional conditions.
const minCoverage = 90

// licenses returns the legal files of a module, as they are in the image, and the SPDX
// identifiers of its licenses. They include those of the directories of linked packages,
// which cover code that was copied from elsewhere. A module without a license is an
// error.
func (m *module) licenses() (files []file, spdx []string, err error) {
	for _, dir := range m.licensedDirs() {
		entries, err := os.ReadDir(filepath.Join(m.Dir, dir))
		if err != nil {
			return nil, nil, fmt.Errorf("find the license of module %s: %w", m.Path, err)
		}
		for _, entry := range entries {
			name := entry.Name()
			if !entry.Type().IsRegular() || !legalFile.MatchString(name) || strings.HasSuffix(name, ".go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(m.Dir, dir, name))
			if err != nil {
				return nil, nil, fmt.Errorf("read a license of module %s: %w", m.Path, err)
			}
			to := path.Join(licenseDir, m.licenseFolder(), filepath.ToSlash(dir), name)
			files = append(files, file{to, 0o644, text})
			if !licenseFile.MatchString(name) {
				continue
			}
			ids, err := identify(text)
			if err != nil {
				return nil, nil, fmt.Errorf("module %s, file %s: %w", m.Path, filepath.Join(dir, name), err)
			}
			spdx = append(spdx, ids...)
		}
	}
	switch {
	case len(spdx) > 0:
		slices.Sort(spdx)
		return files, slices.Compact(spdx), nil
	case m.Path == stdlib:
		return nil, nil, fmt.Errorf("no license file in %s: use a Go from https://go.dev/dl, "+
			"some distributions remove the file", m.Dir)
	default:
		return nil, nil, fmt.Errorf("module %s has no license file in %s: its code may not be distributed",
			m.Path, m.Dir)
	}
}

// licensedDirs returns the directories that may hold a license of linked code, relative
// to the module: its root, and those from there down to each linked package.
func (m *module) licensedDirs() []string {
	dirs := []string{"."}
	for _, p := range m.packages {
		rel, err := filepath.Rel(m.Dir, p)
		for ; err == nil && filepath.IsLocal(rel) && rel != "."; rel = filepath.Dir(rel) {
			dirs = append(dirs, rel)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// licenseFolder returns the module's directory below licenseDir.
func (m *module) licenseFolder() string {
	switch {
	case m.Main:
		return ""
	case m.Path == stdlib:
		return "go"
	default:
		return m.Path
	}
}

// identify returns the SPDX identifiers of the licenses in a text.
func identify(text []byte) (ids []string, err error) {
	found := licensecheck.Scan(text)
	if found.Percent < minCoverage {
		return nil, errors.New("not the text of a license that licensecheck knows: " +
			"find out what it requires before linking the module")
	}
	whole := map[string]bool{}
	for _, m := range found.Match {
		whole[m.ID] = true
	}
	for _, m := range found.Match {
		base, orLater := strings.CutSuffix(m.ID, "-or-later")
		if orLater && whole[base] {
			continue // the sample notice in the last lines of a GNU license
		}
		if current, deprecated := gnuIDs[m.ID]; deprecated {
			ids = append(ids, current)
		} else {
			ids = append(ids, m.ID)
		}
	}
	return ids, nil
}
