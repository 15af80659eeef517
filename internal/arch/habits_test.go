// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/testenv"
)

// productFiles returns the parsed files of the product, without tests, by path below the module.
func productFiles(t *testing.T) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	packages, _ := goList(t)
	set, files := token.NewFileSet(), map[string]*ast.File{}
	for _, l := range packages {
		if l.isSupport() {
			continue
		}
		for _, name := range l.GoFiles {
			f, err := parser.ParseFile(set, filepath.Join(l.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files[strings.TrimPrefix(l.ImportPath, module)+"/"+name] = f
		}
	}
	return set, files
}

func TestOneFileOfEventsUsesGoUdev(t *testing.T) {
	var users []string
	_, files := productFiles(t)
	for path, f := range files {
		for _, spec := range f.Imports {
			if to, _ := strconv.Unquote(spec.Path.Value); under(to, []string{udev}) {
				users = append(users, path)
			}
		}
	}
	slices.Sort(users)
	if len(users) != 1 || filepath.Dir(users[0]) != "events" {
		t.Errorf("%s is licensed under GPL-3.0: exactly one file of events may import it, got %q", udev, users)
	}
}

// TestBuildWithoutGPLHasNoGoUdev checks every package of the module in the build without code
// under the GPL.
func TestBuildWithoutGPLHasNoGoUdev(t *testing.T) {
	root := filepath.Join("..", "..")
	testenv.Inputs(t, root)
	list := func(tags string) string {
		cmd := exec.Command("go", "list", "-deps", "-tags", tags, "./...")
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if deps := list("nogpl"); strings.Contains(deps, udev) {
		t.Errorf("with -tags nogpl the product imports %s", udev)
	}
	if deps := list(""); !strings.Contains(deps, udev) {
		t.Errorf("without tags the product does not import %s: this test looks for the wrong name", udev)
	}
}

// exits maps the calls that end the process or the goroutine to what a package does instead. Each
// but panic stands for all functions whose names begin with it.
var exits = map[string]string{
	"panic":             "return an error",
	"os.Exit":           "return an error",
	"runtime.Goexit":    "return",
	"log.Fatal":         "return an error",
	"klog.Fatal":        "return an error",
	"klog.Exit":         "return an error",
	"klog.FlushAndExit": "return an error",
}

// partOfMain holds the files outside of package main that only a main function calls.
var partOfMain = map[string]bool{"kubeletapi/main.go": true, "internal/logpipe/stderr.go": true}

func TestOnlyProgramsExitOrInitialize(t *testing.T) {
	set, files := productFiles(t)
	for path, f := range files {
		if f.Name.Name == "main" || partOfMain[path] {
			continue
		}
		for _, complaint := range forbidden(set, f) {
			t.Errorf("%s/%s", filepath.Dir(path), complaint)
		}
	}
}

// forbidden returns a complaint for each call that exits and each init function.
func forbidden(set *token.FileSet, f *ast.File) (complaints []string) {
	complain := func(n ast.Node, what, instead string) {
		position := set.Position(n.Pos())
		complaints = append(complaints, fmt.Sprintf("%s:%d: %s is allowed only in programs: %s",
			filepath.Base(position.Filename), position.Line, what, instead))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				complain(n, "init()", "use a constructor")
			}
		case *ast.CallExpr:
			name := callee(n)
			for exit, instead := range exits {
				if name == exit || strings.Contains(exit, ".") && strings.HasPrefix(name, exit) {
					complain(n, name, instead)
				}
			}
		}
		return true
	})
	return complaints
}

// callee returns the name in a call such as panic(…) or os.Exit(…), and "" for other calls.
func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	}
	return ""
}

func TestForbiddenCallsAreFound(t *testing.T) {
	const source = `package x
func init() {}
type t struct{}
func (t) init() {}
func f() { panic("x"); os.Exit(1); klog.Fatalf("x"); klog.FlushAndExit(0, 1); klog.InfoS("panic"); log.Fatal() }`
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "x.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"x.go:2: init() is allowed only in programs: use a constructor",
		"x.go:5: panic is allowed only in programs: return an error",
		"x.go:5: os.Exit is allowed only in programs: return an error",
		"x.go:5: klog.Fatalf is allowed only in programs: return an error",
		"x.go:5: klog.FlushAndExit is allowed only in programs: return an error",
		"x.go:5: log.Fatal is allowed only in programs: return an error",
	}
	if diff := cmp.Diff(want, forbidden(set, f)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
