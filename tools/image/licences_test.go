package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryLinkedModuleHasItsLicenceInTheImage(t *testing.T) {
	img := ociImage(t, theProduct(t))
	texts := map[string][]byte{} // by folder
	for _, e := range entries(t, img) {
		name := strings.TrimPrefix(e.header.Name, "licenses/")
		if folder, base := filepath.Split(name); licenceText.MatchString(base) {
			texts[strings.TrimSuffix(folder, "/")] = e.content
		}
	}
	for _, m := range append(programModules(t, img), "", "go") {
		if len(texts[m]) == 0 {
			t.Errorf("module %q has no licence in the image", m)
		}
	}
	if text := texts["github.com/pilebones/go-udev"]; !bytes.Contains(text, []byte("GNU GENERAL PUBLIC LICENSE")) || len(text) < 30000 {
		t.Errorf("go-udev's licence is not the whole GPL: %d bytes", len(text))
	}
	for _, name := range []string{"LICENSE", "NOTICE"} {
		want, err := os.ReadFile(filepath.Join(theProduct(t).project, name))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range entries(t, img) {
			found = found || e.header.Name == "licenses/"+name && bytes.Equal(e.content, want)
		}
		if !found {
			t.Errorf("the project's own %s is not in the image", name)
		}
	}
}

// fakeModule is a module with these files, of which these packages are linked.
func fakeModule(t *testing.T, files map[string]string, packages ...string) *module {
	t.Helper()
	m := &module{Path: "example.com/m", Dir: t.TempDir()}
	for name, content := range files {
		to := filepath.Join(m.Dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range packages {
		m.packages = append(m.packages, filepath.Join(m.Dir, p))
	}
	return m
}

// Two licences that are short.
const mit = `MIT License

Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

const isc = `Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the
above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY
DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION,
ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`

func TestLicencesOfAModule(t *testing.T) {
	for _, tt := range []struct {
		name      string
		m         *module
		wantFiles []string // below licenses/example.com/m
		wantSPDX  []string
		wantError string // in it; "": none
	}{
		{
			name:      "a licence with its notices, and not code that is named alike",
			m:         fakeModule(t, map[string]string{"LICENSE.md": mit, "NOTICE": "by us", "PATENTS": "none", "license_test.go": "package m", "README": ""}),
			wantFiles: []string{"LICENSE.md", "NOTICE", "PATENTS"},
			wantSPDX:  []string{"MIT"},
		},
		{
			name:      "code from elsewhere in a package that is linked, and in one that is not",
			m:         fakeModule(t, map[string]string{"LICENCE": mit, "third/party/COPYING": isc, "third/party/deep/x.go": "", "other/LICENSE": ""}, "third/party/deep"),
			wantFiles: []string{"LICENCE", "third/party/COPYING"},
			wantSPDX:  []string{"ISC", "MIT"},
		},
		{
			name:      "two licences in one file",
			m:         fakeModule(t, map[string]string{"LICENSE": mit + "\n" + isc}),
			wantFiles: []string{"LICENSE"},
			wantSPDX:  []string{"ISC", "MIT"},
		},
		{
			name:      "no licence",
			m:         fakeModule(t, map[string]string{"NOTICE": "all rights reserved", "README.md": mit}),
			wantError: "module example.com/m has no licence file in ",
		},
		{
			name:      "a licence that nobody knows",
			m:         fakeModule(t, map[string]string{"LICENSE": "You may look at it."}),
			wantError: "module example.com/m, file LICENSE: it is the text of no licence that is known",
		},
		{
			name:      "a known licence with a condition of its own",
			m:         fakeModule(t, map[string]string{"LICENSE": mit + strings.Repeat("It shall be used for Good, not Evil, and on Mondays not at all.\n", 4)}),
			wantError: "module example.com/m, file LICENSE: it is the text of no licence that is known",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, spdx, err := tt.m.licences()
			if tt.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantError) {
					t.Errorf("error %v, want in it %q", err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range files {
				names = append(names, strings.TrimPrefix(f.path, "licenses/example.com/m/"))
			}
			if diff := cmp.Diff(tt.wantFiles, names); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantSPDX, spdx); diff != "" {
				t.Errorf("licences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAGoWithoutItsLicenceIsNamed(t *testing.T) {
	m := fakeModule(t, nil)
	m.Path = goroot
	if _, _, err := m.licences(); err == nil || !strings.Contains(err.Error(), "Go's own library (use a Go of https://go.dev/dl") {
		t.Errorf("error %v", err)
	}
}
