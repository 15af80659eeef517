// Package arch holds the project to its plan: which package may import which, and what no package but a program may do.
//
// The table rooms says what each package may know. A package that is not in it is an error, so a new one starts with a decision.
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

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qatplugin/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// goList returns the module's packages, and the set of packages that are Go's own.
func goList(t *testing.T) (packages []*listing, standard map[string]bool) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=ImportPath,Dir,Standard,GoFiles,Imports,TestImports,XTestImports,Deps", "./...")
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
		case strings.HasPrefix(l.ImportPath, module) && !strings.Contains(l.ImportPath, " ") && !strings.HasSuffix(l.ImportPath, ".test"):
			packages = append(packages, l) // and not what go builds of it for a test
		}
	}
	return packages, standard
}

func TestArrowsPointOneWay(t *testing.T) {
	packages, standard := goList(t)
	for _, l := range packages {
		for _, arrow := range l.broken(standard) {
			t.Error(arrow)
		}
	}
	for name := range rooms {
		if !slices.ContainsFunc(packages, func(l *listing) bool { return l.ImportPath == module+name }) {
			t.Errorf("the table rooms speaks of %s, which is no package", name)
		}
	}
}

func TestABrokenArrowIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    listing
		want string // how the only complaint begins; "": none
	}{
		{"what may be", listing{ImportPath: "qatplugin/kubeletapi", Imports: []string{"os", "qatplugin/devtree", "k8s.io/klog/v2"}}, ""},
		{"upstream", listing{ImportPath: "qatplugin/events", Imports: []string{"qatplugin/qat"}}, "events ─► qat must not be: of ours it may import nothing (events knows"},
		{"sideways", listing{ImportPath: "qatplugin/kubeletapi", Imports: []string{"qatplugin/qat"}}, "kubeletapi ─► qat must not be: of ours it may import only cdi, devtree ("},
		{"a library", listing{ImportPath: "qatplugin/qat", Imports: []string{"google.golang.org/grpc/codes"}}, "qat ─► google.golang.org/grpc/codes must not be: of others"},
		{"a library behind another", listing{ImportPath: "qatplugin/qat", Deps: []string{"google.golang.org/grpc"}}, "qat ─► google.golang.org/grpc must not be: it must not be reached"},
		{"a library with a name alike", listing{ImportPath: "qatplugin/events", Imports: []string{"github.com/fsnotify/fsnotify2"}}, "events ─► github.com/fsnotify/fsnotify2 must not be: of others"},
		{"test support", listing{ImportPath: "qatplugin/cmd/qat_plugin", Imports: []string{"qatplugin/internal/lookalike"}}, "cmd/qat_plugin ─► internal/lookalike must not be: internal/ and test/ serve"},
		{"test support in a test", listing{ImportPath: "qatplugin/qat", XTestImports: []string{"qatplugin/internal/lookalike", "qatplugin/qat"}}, ""},
		{"test support in the demo", listing{ImportPath: "qatplugin/cmd/qat_demo", Imports: []string{"qatplugin/internal/lookalike"}}, ""},
		{"sideways in a test", listing{ImportPath: "qatplugin/qat", TestImports: []string{"qatplugin/kubeletapi"}}, "qat ─► kubeletapi must not be: its tests, too"},
		{"a library in test support", listing{ImportPath: "qatplugin/internal/lookalike", Imports: []string{"example.com/x"}}, "internal/lookalike ─► example.com/x must not be: what serves tests uses only"},
		{"a new package", listing{ImportPath: "qatplugin/util"}, "package util has no row"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.l.broken(map[string]bool{"os": true})
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tt.want)) {
				t.Errorf("(-want +got):\n%s", cmp.Diff([]string{tt.want}, got))
			}
		})
	}
}
