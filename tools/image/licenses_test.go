// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestImageHasLicenseOfEachModule(t *testing.T) {
	p := sharedProduct(t)
	licensed, files := map[string]bool{}, map[string][]byte{}
	for _, e := range p.entries(t) {
		name := strings.TrimPrefix(e.header.Name, "licenses/")
		files[name] = e.content
		if licenseFile.MatchString(path.Base(name)) && len(e.content) > 0 {
			licensed[path.Dir(name)] = true
		}
	}
	for _, m := range append(p.modules(t), ".", "go") {
		if !licensed[m] {
			t.Errorf("module %q has no license in the image", m)
		}
	}
	gpl := files["github.com/pilebones/go-udev/LICENSE"]
	if !bytes.Contains(gpl, []byte("GNU GENERAL PUBLIC LICENSE")) || len(gpl) < 30000 {
		t.Errorf("the license of go-udev is not the complete GPL: %d bytes", len(gpl))
	}
	for _, name := range []string{"LICENSE", "NOTICE"} {
		if !bytes.Equal(files[name], readFile(t, p.project, name)) {
			t.Errorf("the image does not have the project's own %s", name)
		}
	}
}

// newModule returns a module with these files, of which these packages are linked.
func newModule(t *testing.T, files map[string]string, packages ...string) *module {
	t.Helper()
	m := &module{Path: "example.com/m", Dir: t.TempDir()}
	for name, content := range files {
		to := filepath.Join(m.Dir, name)
		must(t, os.MkdirAll(filepath.Dir(to), 0o755))
		must(t, os.WriteFile(to, []byte(content), 0o644))
	}
	for _, p := range packages {
		m.packages = append(m.packages, filepath.Join(m.Dir, p))
	}
	return m
}

const mit = `MIT License

Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software
and associated documentation files (the "Software"), to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

const isc = `Permission to use, copy, modify, and/or distribute this software for any purpose with or without
fee is hereby granted, provided that the above copyright notice and this permission notice
appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS
SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE
AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT,
NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE
OF THIS SOFTWARE.
`

func TestLicensesOfModule(t *testing.T) {
	for _, tt := range []struct {
		name      string
		files     map[string]string
		linked    string // package
		wantFiles []string
		wantSPDX  []string
		wantError string
	}{
		{
			name: "license and notices, but no code with such a name",
			files: map[string]string{
				"LICENSE.md":      mit,
				"NOTICE":          "by us",
				"PATENTS":         "none",
				"license_test.go": "package m",
				"README":          "",
			},
			wantFiles: []string{"LICENSE.md", "NOTICE", "PATENTS"},
			wantSPDX:  []string{"MIT"},
		},
		{
			name: "copied code in a linked package, and in one that is not linked",
			files: map[string]string{
				"LICENCE":               mit,
				"third/party/COPYING":   isc,
				"third/party/deep/x.go": "",
				"other/LICENSE":         "",
			},
			linked:    "third/party/deep",
			wantFiles: []string{"LICENCE", "third/party/COPYING"},
			wantSPDX:  []string{"ISC", "MIT"},
		},
		{
			name:      "two licenses in one file",
			files:     map[string]string{"LICENSE": mit + "\n" + isc},
			wantFiles: []string{"LICENSE"},
			wantSPDX:  []string{"ISC", "MIT"},
		},
		{
			name:      "no license",
			files:     map[string]string{"NOTICE": "all rights reserved", "README.md": mit},
			wantError: "module example.com/m has no license file in ",
		},
		{
			name:      "unknown license",
			files:     map[string]string{"LICENSE": "You may look at it."},
			wantError: "module example.com/m, file LICENSE: not the text of a license that licensecheck knows",
		},
		{
			name: "known license with an additional condition",
			files: map[string]string{
				"LICENSE": mit + strings.Repeat("The Software shall be used for Good, not Evil.\n", 5),
			},
			wantError: "module example.com/m, file LICENSE: not the text of a license that licensecheck knows",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, spdx, err := newModule(t, tt.files, tt.linked).licenses()
			wantError(t, err, tt.wantError)
			var names []string
			for _, f := range files {
				names = append(names, strings.TrimPrefix(f.path, "licenses/example.com/m/"))
			}
			if diff := cmp.Diff(tt.wantFiles, names); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantSPDX, spdx); diff != "" {
				t.Errorf("licenses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissingLicenseOfStandardLibrary(t *testing.T) {
	m := newModule(t, nil)
	m.Path = stdlib
	_, _, err := m.licenses()
	wantError(t, err, "use a Go from https://go.dev/dl")
}
