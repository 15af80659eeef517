// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/tools/go/packages"
)

// implementations marks the methods by which a type implements an interface of any package that the
// module depends on, and the interfaces that a type of another package of the module implements.
func (e *exports) implementations(all []*packages.Package) {
	var interfaces []*types.Interface
	for _, p := range all {
		for key, exported := range e.declared {
			if i, ok := exported.object.Type().Underlying().(*types.Interface); ok && p.Types != exported.object.Pkg() {
				e.used[key] = e.used[key] || hasImplementation(p.Types.Scope(), i)
			}
		}
	}
	seen := map[*types.Package]bool{}
	var visit func(p *types.Package)
	visit = func(p *types.Package) {
		if seen[p] {
			return
		}
		seen[p] = true
		for _, name := range p.Scope().Names() {
			object, isType := p.Scope().Lookup(name).(*types.TypeName)
			if !isType {
				continue
			}
			if named, ok := object.Type().(*types.Named); ok && named.TypeParams().Len() > 0 {
				continue // its methods speak of types that are not known here
			}
			if i, ok := object.Type().Underlying().(*types.Interface); ok && i.NumMethods() > 0 {
				interfaces = append(interfaces, i)
			}
		}
		for _, imported := range p.Imports() {
			visit(imported)
		}
	}
	interfaces = append(interfaces, types.Universe.Lookup("error").Type().Underlying().(*types.Interface))
	for _, p := range all {
		visit(p.Types)
		for expression, value := range p.TypesInfo.Types {
			if _, ok := expression.(*ast.InterfaceType); ok {
				if i, ok := value.Type.(*types.Interface); ok && i.NumMethods() > 0 {
					interfaces = append(interfaces, i)
				}
			}
		}
	}
	for key, exported := range e.declared {
		method, ok := exported.object.(*types.Func)
		if !ok || exported.owner == "" {
			continue
		}
		pointer := types.NewPointer(e.declared[exported.owner].object.Type())
		if slices.ContainsFunc(interfaces, func(i *types.Interface) bool {
			found, _, _ := types.LookupFieldOrMethod(i, false, method.Pkg(), method.Name())
			return found != nil && types.Implements(pointer, i)
		}) {
			e.used[key] = true
		}
	}
}

// hasImplementation reports whether one of the types of a package implements an interface.
func hasImplementation(scope *types.Scope, i *types.Interface) bool {
	return i.NumMethods() > 0 && slices.ContainsFunc(scope.Names(), func(name string) bool {
		object, isType := scope.Lookup(name).(*types.TypeName)
		return isType && !types.IsInterface(object.Type()) && types.Implements(types.NewPointer(object.Type()), i)
	})
}

// uses marks what a package uses of others.
func (e *exports) uses(p *packages.Package) {
	tested := strings.TrimSuffix(p.PkgPath, "_test")
	mark := func(position token.Pos, object types.Object) {
		if object.Pkg() == nil || !isProduct(object.Pkg().Path()) || object.Pkg().Path() == p.PkgPath {
			return
		}
		file := filepath.Base(p.Fset.Position(position).Filename)
		if object.Pkg().Path() == tested && !strings.HasPrefix(file, "example") {
			return
		}
		if key := e.keyOf(object); key != "" {
			e.used[key] = true
		}
	}
	for identifier, object := range p.TypesInfo.Uses {
		mark(identifier.Pos(), object)
	}
	// A promoted field or method is a use of the embedded fields that lead to it.
	for selector, selection := range p.TypesInfo.Selections {
		t := selection.Recv()
		for _, i := range selection.Index()[:len(selection.Index())-1] {
			if pointer, ok := t.Underlying().(*types.Pointer); ok {
				t = pointer.Elem()
			}
			fields, ok := t.Underlying().(*types.Struct)
			if !ok {
				break
			}
			mark(selector.Pos(), fields.Field(i))
			t = fields.Field(i).Type()
		}
	}
	// A literal without keys uses all fields.
	for expression, value := range p.TypesInfo.Types {
		literal, ok := expression.(*ast.CompositeLit)
		if !ok || len(literal.Elts) == 0 {
			continue
		}
		if fields, ok := value.Type.Underlying().(*types.Struct); ok {
			if _, keyed := literal.Elts[0].(*ast.KeyValueExpr); !keyed {
				for field := range fields.Fields() {
					mark(literal.Pos(), field)
				}
			}
		}
	}
}

// keyOf returns the key of an object, or "" if it cannot be exported.
func (e *exports) keyOf(object types.Object) string {
	switch object := object.(type) {
	case *types.Func:
		object = object.Origin()
		receiver := object.Signature().Recv()
		if receiver == nil {
			return object.Pkg().Path() + "." + object.Name()
		}
		t := receiver.Type()
		if pointer, ok := t.(*types.Pointer); ok {
			t = pointer.Elem()
		}
		if named, ok := t.(*types.Named); ok {
			return object.Pkg().Path() + "." + named.Obj().Name() + "." + object.Name()
		}
		return ""
	case *types.Var:
		object = object.Origin()
		if !object.IsField() {
			return object.Pkg().Path() + "." + object.Name()
		}
		if _, seen := e.fields[object]; !seen {
			e.nameFields(object.Pkg())
		}
		return e.fields[object]
	}
	return object.Pkg().Path() + "." + object.Name()
}

// nameFields records the keys of the fields of a package. A package that is loaded several times
// has other objects each time.
func (e *exports) nameFields(p *types.Package) {
	for _, name := range p.Scope().Names() {
		if object, ok := p.Scope().Lookup(name).(*types.TypeName); ok {
			if fields, ok := object.Type().Underlying().(*types.Struct); ok && !object.IsAlias() {
				for field := range fields.Fields() {
					e.fields[field] = p.Path() + "." + name + "." + field.Name()
				}
			}
		}
	}
}

// usesOfNestedModules marks what the modules nested in this one use. They depend on Kubernetes,
// which takes long to load. Their files are only parsed, and a selector or a key of a literal
// counts as a use of every field and method of that name.
func (e *exports) usesOfNestedModules(root string) error {
	members := map[string][]string{} // keys of fields and methods, by name
	for key, exported := range e.declared {
		if exported.owner != "" {
			members[exported.object.Name()] = append(members[exported.object.Name()], key)
		}
	}
	markMembers := func(name string) {
		for _, key := range members[name] {
			e.used[key] = true
		}
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || path == root {
			return err
		}
		if strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			imported := map[string]string{} // paths of product packages, by their names in this file
			for _, spec := range file.Imports {
				if target := strings.Trim(spec.Path.Value, `"`); isProduct(target) {
					name := target[strings.LastIndexByte(target, '/')+1:]
					if spec.Name != nil {
						name = spec.Name.Name
					}
					imported[name] = target
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && imported[x.Name] != "" {
						e.used[imported[x.Name]+"."+n.Sel.Name] = true
					}
					markMembers(n.Sel.Name)
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok {
						markMembers(key.Name)
					}
				}
				return true
			})
			return nil
		})
	})
}

// usesOfGuide marks what the guide for plugin authors names in a code block or a code span.
func (e *exports) usesOfGuide(root string) error {
	text, err := os.ReadFile(filepath.Join(root, "docs", "writing-a-plugin.md"))
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for i, part := range strings.Split(string(text), "`") {
		if i%2 == 1 { // behind an odd number of backquotes, three of which enclose a block
			notInName := func(r rune) bool { return !unicode.In(r, unicode.L, unicode.Nd) }
			for _, word := range strings.FieldsFunc(part, notInName) {
				named[word] = true
			}
		}
	}
	for key, exported := range e.declared {
		if named[exported.object.Name()] && !strings.Contains(key, "/internal/") {
			e.used[key] = true
		}
	}
	return nil
}

// spread marks what is used because something else is, until there is no more.
func (e *exports) spread() {
	for changed := true; changed; {
		changed = false
		for key, exported := range e.declared {
			if !e.used[key] {
				continue
			}
			for _, other := range slices.Concat(exported.mentions, exported.siblings) {
				if !e.used[other] {
					e.used[other], changed = true, true
				}
			}
		}
	}
}
