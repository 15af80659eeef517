// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// checkExports reports each exported identifier of a product package that nothing outside of the
// package uses. A user is a program, an example, another package or its tests, in this module or in
// one of the modules nested in it. The tests of the package itself are no users, except for its
// testable examples, which document its API.
//
// Some uses are indirect, and count:
//   - a type that a used function, method, variable or field mentions;
//   - a method that makes its type implement an interface, and an interface that a type of another
//     package implements;
//   - an identifier that docs/writing-a-plugin.md names, as code;
//   - a field with a tag, which encoding packages use;
//   - a constant, when another constant of the same type in the same declaration is used.
//
// The check does not look at methods of interfaces, nor at anything below an unexported type.
func checkExports(root string) ([]offense, error) {
	all, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes |
			packages.NeedTypesInfo | packages.NeedImports,
		Dir:   root,
		Tests: true,
	}, "./...")
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("no packages")
	}
	e := &exports{declared: map[string]*export{}, used: map[string]bool{}, fields: map[*types.Var]string{}}
	for _, p := range all {
		for _, err := range p.Errors {
			return nil, err
		}
		// A package is loaded once more for its own tests, with " [name.test]" in its ID.
		if p.ID == p.PkgPath && isProduct(p.PkgPath) {
			e.declare(p)
		}
	}
	e.implementations(all)
	for _, p := range all {
		e.uses(p)
	}
	if err := e.usesOfNestedModules(root); err != nil {
		return nil, err
	}
	if err := e.usesOfGuide(root); err != nil {
		return nil, err
	}
	e.spread()
	return e.offenses(root)
}

// module is the path of the main module, with a slash.
const module = "qatplugin/"

// isProduct reports whether a package belongs to the product: it neither is a program or an example
// nor serves tests.
func isProduct(path string) bool {
	path, ours := strings.CutPrefix(path, module)
	first, _, _ := strings.Cut(path, "/")
	return ours && !slices.Contains([]string{"cmd", "examples", "internal", "test"}, first) &&
		!strings.HasPrefix(path, "kubeletapi/kubelettest") &&
		!strings.HasSuffix(path, ".test") && !strings.HasSuffix(path, "_test")
}

// An export is one exported identifier. Its key is the path of its package and its name, as in
// "qatplugin/events.Event" and "qatplugin/events.Event.Origin".
type export struct {
	object   types.Object
	position token.Position
	owner    string   // key of the type that a method or field belongs to
	mentions []string // keys of the types that its declaration mentions
	siblings []string // keys of the constants that stand and fall with it
}

type exports struct {
	declared map[string]*export
	used     map[string]bool
	fields   map[*types.Var]string // keys of the fields of all packages seen so far
}

// declare records the exported identifiers of a package.
func (e *exports) declare(p *packages.Package) {
	add := func(key, owner string, object types.Object) {
		e.declared[key] = &export{
			object: object, position: p.Fset.Position(object.Pos()), owner: owner, mentions: mentioned(object),
		}
	}
	scope := p.Types.Scope()
	for _, name := range scope.Names() {
		object := scope.Lookup(name)
		if !object.Exported() {
			continue
		}
		key := p.PkgPath + "." + name
		add(key, "", object)
		named, isType := object.Type().(*types.Named)
		if _, isName := object.(*types.TypeName); !isName || !isType {
			continue
		}
		for method := range named.Methods() {
			if method.Exported() {
				add(key+"."+method.Name(), key, method)
			}
		}
		if fields, ok := named.Underlying().(*types.Struct); ok {
			for i := range fields.NumFields() {
				field := fields.Field(i)
				if !field.Exported() {
					continue
				}
				add(key+"."+field.Name(), key, field)
				if fields.Tag(i) != "" {
					e.used[key+"."+field.Name()] = true
				}
			}
		}
	}
	for _, file := range p.Syntax {
		for _, decl := range file.Decls {
			if decl, ok := decl.(*ast.GenDecl); ok && decl.Tok == token.CONST {
				e.enumeration(p, decl)
			}
		}
	}
}

// enumeration notes which constants of a declaration have the same type of this package.
func (e *exports) enumeration(p *packages.Package, decl *ast.GenDecl) {
	byType := map[string][]string{}
	for _, spec := range decl.Specs {
		for _, name := range spec.(*ast.ValueSpec).Names {
			key := p.PkgPath + "." + name.Name
			if exported := e.declared[key]; exported != nil && len(exported.mentions) == 1 {
				byType[exported.mentions[0]] = append(byType[exported.mentions[0]], key)
			}
		}
	}
	for _, keys := range byType {
		for _, key := range keys {
			e.declared[key].siblings = keys
		}
	}
}

// mentioned returns the keys of the named types of this module in the type of an object. For a type
// name they are those that its users cannot do without: the target of an alias, or the signatures
// of an interface or function type. Fields and methods of a struct speak for themselves.
func mentioned(object types.Object) (keys []string) {
	seen := map[types.Type]bool{}
	var visit func(t types.Type)
	visit = func(t types.Type) {
		if t == nil || seen[t] {
			return
		}
		seen[t] = true
		switch t := t.(type) {
		case *types.Named:
			if name := t.Origin().Obj(); name.Pkg() != nil && isProduct(name.Pkg().Path()) {
				keys = append(keys, name.Pkg().Path()+"."+name.Name())
			}
			for arg := range t.TypeArgs().Types() {
				visit(arg)
			}
		case *types.Alias:
			if name := t.Obj(); name.Pkg() != nil && isProduct(name.Pkg().Path()) {
				keys = append(keys, name.Pkg().Path()+"."+name.Name())
			}
			visit(types.Unalias(t))
		case *types.Pointer:
			visit(t.Elem())
		case *types.Slice:
			visit(t.Elem())
		case *types.Array:
			visit(t.Elem())
		case *types.Chan:
			visit(t.Elem())
		case *types.Map:
			visit(t.Key())
			visit(t.Elem())
		case *types.Tuple:
			for v := range t.Variables() {
				visit(v.Type())
			}
		case *types.Signature:
			visit(t.Params())
			visit(t.Results())
			for parameter := range t.TypeParams().TypeParams() {
				visit(parameter.Constraint())
			}
		case *types.Interface:
			for method := range t.Methods() {
				visit(method.Type())
			}
			for embedded := range t.EmbeddedTypes() {
				visit(embedded)
			}
		case *types.Union:
			for term := range t.Terms() {
				visit(term.Type())
			}
		}
	}
	if name, ok := object.(*types.TypeName); !ok {
		visit(object.Type())
	} else if name.IsAlias() {
		visit(types.Unalias(name.Type()))
	} else {
		visit(name.Type().Underlying())
	}
	return keys
}

func (e *exports) offenses(root string) (all []offense, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	for key, exported := range e.declared {
		if e.used[key] || exported.owner != "" && !e.used[exported.owner] {
			continue // an unused type speaks for its fields and methods
		}
		path, err := filepath.Rel(root, exported.position.Filename)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(key, exported.object.Pkg().Path()+".")
		message := name + " is exported, and nothing outside of its package uses it"
		all = append(all, offense{filepath.ToSlash(path), exported.position.Line, message})
	}
	return all, nil
}
