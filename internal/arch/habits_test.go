package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// productFiles are the parsed files of the product, without tests, by path below the module.
func productFiles(t *testing.T) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	packages, _ := goList(t)
	set, files := token.NewFileSet(), map[string]*ast.File{}
	for _, l := range packages {
		if l.serves() {
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
		t.Errorf("%s is GPL-3.0: exactly one file, of package events, may import it, so that it can be exchanged; these do: %q", udev, users)
	}
}

// enders are calls that end the process or begin to: only a program decides that.
var enders = map[string]string{
	"panic": "return an error", "os.Exit": "return an error", "runtime.Goexit": "return", "log.Fatal": "return an error", "klog.Fatal": "return an error",
	"klog.Exit": "return an error", "klog.FlushAndExit": "return an error",
}

func TestNoPackageEndsTheProcessOrRunsByItself(t *testing.T) {
	set, files := productFiles(t)
	for path, f := range files {
		if f.Name.Name == "main" {
			continue
		}
		for _, complaint := range bad(set, f) {
			t.Errorf("%s/%s", filepath.Dir(path), complaint)
		}
	}
}

func bad(set *token.FileSet, f *ast.File) (complaints []string) {
	complain := func(n ast.Node, what, instead string) {
		position := set.Position(n.Pos())
		complaints = append(complaints, fmt.Sprintf("%s:%d: %s is for a program alone: %s", filepath.Base(position.Filename), position.Line, what, instead))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				complain(n, "init()", "let a constructor do it")
			}
		case *ast.CallExpr:
			name := callee(n)
			for ender, instead := range enders {
				if name == ender || strings.Contains(ender, ".") && strings.HasPrefix(name, ender) {
					complain(n, name, instead)
				}
			}
		}
		return true
	})
	return complaints
}

// callee is the name in a call such as panic(…) or os.Exit(…), "" for any other.
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

func TestWhatEndsTheProcessIsFound(t *testing.T) {
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
		"x.go:2: init() is for a program alone: let a constructor do it",
		"x.go:5: panic is for a program alone: return an error",
		"x.go:5: os.Exit is for a program alone: return an error",
		"x.go:5: klog.Fatalf is for a program alone: return an error",
		"x.go:5: klog.FlushAndExit is for a program alone: return an error",
		"x.go:5: log.Fatal is for a program alone: return an error",
	}
	if diff := cmp.Diff(want, bad(set, f)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
