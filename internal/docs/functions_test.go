// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// declarations are the functions, types, variables and constants of the product, as
// "package.Name", and the methods and fields of its types, as "package.Type.Name".
func declarations(t *testing.T) map[string]bool {
	t.Helper()
	declared := map[string]bool{}
	for path, file := range productFiles(t) {
		declare(declared, file, filepath.Base(filepath.Dir(path)))
	}
	return declared
}

// productFiles returns the files of the product's packages, parsed, by path.
func productFiles(t *testing.T) map[string]*ast.File {
	t.Helper()
	parsed := map[string]*ast.File{}
	for _, pattern := range []string{
		"*/*.go", "cmd/qat_plugin/*.go", "cmd/qat_dra_driver/*.go", "draapi/internal/*/*.go", "qat/internal/*/*.go",
		"qat/internal/*/*/*.go", "kubeletapi/*/*.go",
		"internal/flagvalue/*.go", "internal/logpipe/*.go", "internal/metrics/*.go", "internal/nodeevents/*.go",
		"internal/nodelock/*.go", "internal/program/*.go", "internal/status*/*.go", "internal/unixsocket/*.go",
	} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			parsed[path] = file
		}
	}
	return parsed
}

// declare adds what file, of package name, declares.
func declare(declared map[string]bool, file *ast.File, name string) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			receiver := ""
			if d.Recv != nil {
				receiver = typeName(d.Recv.List[0].Type) + "."
			}
			declared[name+"."+receiver+d.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						declared[name+"."+n.Name] = true
					}
				case *ast.TypeSpec:
					declared[name+"."+spec.Name.Name] = true
					if s, ok := spec.Type.(*ast.StructType); ok {
						for _, field := range s.Fields.List {
							for _, n := range field.Names {
								declared[name+"."+spec.Name.Name+"."+n.Name] = true
							}
						}
					}
				}
			}
		}
	}
}

// typeName returns the name of a receiver's type: T for T, *T, T[K] and T[K, V].
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func TestFunctionsInArchitectureExist(t *testing.T) {
	declared := declarations(t)
	text, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("`([a-z]+(?:\\.[A-Za-z]+){1,2})`").FindAllStringSubmatch(string(text), -1)
	if len(found) < 30 {
		t.Fatalf("found only %d names of functions", len(found))
	}
	for _, m := range found {
		if !declared[m[1]] {
			t.Errorf("architecture.md names %s, which does not exist", m[1])
		}
	}
}

// TestNamesInGuideExist checks the names in code spans that begin with a package, and the
// first column of the tables of interfaces and fields.
func TestNamesInGuideExist(t *testing.T) {
	declared := declarations(t)
	text, err := os.ReadFile(filepath.Join(root, guide))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:kubeletapi|kubelettest|devtree|events|cdi)(?:\\.[A-Za-z]+)+)")
	var found []string
	for _, m := range name.FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	first, heading := regexp.MustCompile("^\\| `([A-Za-z]+)`"), ""
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "|") {
			heading = ""
		} else if heading == "" {
			heading = strings.TrimSpace(strings.Split(line, "|")[1])
		}
		m := first.FindStringSubmatch(line)
		switch {
		case m == nil:
		case heading == "interface":
			found = append(found, "kubeletapi."+m[1])
		case heading == "field" && declared["devtree.Device."+m[1]]:
			found = append(found, "devtree.Device."+m[1])
		case heading == "field":
			found = append(found, "devtree.ContainerEdits."+m[1])
		}
	}
	if len(found) < 15 {
		t.Fatalf("found only the names %q", found)
	}
	for _, n := range found {
		if !declared[n] {
			t.Errorf("%s names %s, which does not exist", guide, n)
		}
	}
}
