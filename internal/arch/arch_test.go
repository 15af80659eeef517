// SPDX-License-Identifier: Apache-2.0

// Package arch tests which package may import which, and what only programs may do.
//
// The table rooms lists what each package may import. A package that is not in the table is an
// error.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// goList returns the packages of the module, and the set of packages of the standard library.
func goList(t *testing.T) (packages []*listing, standard map[string]bool) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-test",
		"-json=ImportPath,Dir,Standard,GoFiles,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = filepath.Join("..", "..")
	testenv.Inputs(t, cmd.Dir)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	standard = map[string]bool{"C": true}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		l := &listing{}
		if err := decoder.Decode(l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch {
		case l.Standard:
			standard[l.ImportPath] = true
		case strings.Contains(l.ImportPath, " ") || strings.HasSuffix(l.ImportPath, ".test"):
			// A variant of a package that go test builds.
		case strings.HasPrefix(l.ImportPath, module):
			packages = append(packages, l)
		}
	}
	return packages, standard
}

func TestImports(t *testing.T) {
	packages, standard := goList(t)
	for _, l := range packages {
		for _, complaint := range l.violations(standard) {
			t.Error(complaint)
		}
	}
	for name := range rooms {
		if !slices.ContainsFunc(packages, func(l *listing) bool { return l.ImportPath == module+name }) {
			t.Errorf("package %s in the table rooms does not exist", name)
		}
	}
}

func TestViolationsAreFound(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    listing
		want string // prefix of the only complaint; "" for none
	}{
		{
			"allowed",
			listing{
				ImportPath: "qatplugin/kubeletapi",
				Imports:    []string{"os", "qatplugin/devtree", "k8s.io/klog/v2"},
			},
			"",
		},
		{
			"upstream",
			listing{ImportPath: "qatplugin/events", Imports: []string{"qatplugin/qat"}},
			"events must not import qat: of this module, it may import nothing (events knows",
		},
		{
			"sideways",
			listing{ImportPath: "qatplugin/kubeletapi", Imports: []string{"qatplugin/qat"}},
			"kubeletapi must not import qat: of this module, it may import only cdi, devtree, " +
				"internal/dirwatch, internal/logpipe, internal/retry, internal/unixsocket, kubeletapi/probe (",
		},
		{
			"library",
			listing{ImportPath: "qatplugin/qat", Imports: []string{"google.golang.org/grpc/codes"}},
			"qat must not import google.golang.org/grpc/codes: of other modules",
		},
		{
			"library behind another package",
			listing{ImportPath: "qatplugin/qat", Deps: []string{"google.golang.org/grpc"}},
			"qat must not import google.golang.org/grpc: not even through another package",
		},
		{
			"library with a similar name",
			listing{ImportPath: "qatplugin/events", Imports: []string{"github.com/fsnotify/fsnotify2"}},
			"events must not import github.com/fsnotify/fsnotify2: of other modules",
		},
		{
			"test support",
			listing{ImportPath: "qatplugin/cmd/qat_plugin", Imports: []string{"qatplugin/internal/lookalike"}},
			"cmd/qat_plugin must not import internal/lookalike: it is for tests and cmd/qat_demo",
		},
		{
			"package of the product below internal",
			listing{ImportPath: "qatplugin/cmd/qat_plugin", Imports: []string{"qatplugin/internal/program"}},
			"",
		},
		{
			"test support in a test",
			listing{
				ImportPath:   "qatplugin/qat",
				XTestImports: []string{"qatplugin/internal/lookalike", "qatplugin/qat"},
			},
			"",
		},
		{
			"test support in the demo",
			listing{ImportPath: "qatplugin/cmd/qat_demo", Imports: []string{"qatplugin/internal/lookalike"}},
			"",
		},
		{
			"sideways in a test",
			listing{ImportPath: "qatplugin/qat", TestImports: []string{"qatplugin/kubeletapi"}},
			"qat must not import kubeletapi: besides test support, of this module its tests may import only",
		},
		{
			"library in test support",
			listing{ImportPath: "qatplugin/internal/lookalike", Imports: []string{"example.com/x"}},
			"internal/lookalike must not import example.com/x: of other modules, test support may import only",
		},
		{
			"new package",
			listing{ImportPath: "qatplugin/util"},
			"package util is not in the table rooms",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.l.violations(map[string]bool{"os": true})
			ok := len(got) == 0
			if tt.want != "" {
				ok = len(got) == 1 && strings.HasPrefix(got[0], tt.want)
			}
			if !ok {
				t.Errorf("got %q, want a complaint that starts with %q", got, tt.want)
			}
		})
	}
}
