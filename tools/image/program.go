package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// program is the package that is built; its last element names the program.
const program = "cmd/qat_plugin"

// goroot is how Go's own library is named among the modules, as in an SBOM.
const goroot = "std"

// A build is one of the program, for linux on one architecture.
type build struct {
	root    string // the project's checkout
	arch    string
	version string
	stderr  io.Writer // for what go says
}

// A module is one that is linked.
type module struct {
	Path    string // goroot for Go's own library
	Version string
	Dir     string
	Main    bool
	Replace *struct{ Path, Version string }

	packages []string // directories of the packages that are linked
}

// goCommand runs go for the program's platform, and returns what it writes to standard output. Modules that are missing go downloads itself.
func (b *build) goCommand(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	// From GOFLAGS on: what a person set for other work must change neither the bytes nor the processors that they run on. None of them is
	// empty, as go would then look into the file of `go env -w`.
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+b.arch, "CGO_ENABLED=0",
		"GOFLAGS=-mod=readonly", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0")
	return b.output(cmd)
}

// output runs a command in the project.
func (b *build) output(cmd *exec.Cmd) ([]byte, error) {
	cmd.Dir, cmd.Stderr = b.root, b.stderr
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%w: install Go, https://go.dev/dl", err)
	case err != nil:
		return nil, fmt.Errorf("go %s for linux/%s: %w; what go said of it stands above", cmd.Args[1], b.arch, err)
	}
	return out, nil
}

// checkArch returns an error that lists what is allowed, unless Go builds for linux on the architecture.
func (b *build) checkArch(ctx context.Context) error {
	out, err := b.output(exec.CommandContext(ctx, "go", "tool", "dist", "list")) // for this machine: with a wrong GOARCH go would not begin
	if err != nil {
		return err
	}
	var known []string
	for platform := range strings.FieldsSeq(string(out)) {
		if arch, ok := strings.CutPrefix(platform, "linux/"); ok {
			known = append(known, arch)
		}
	}
	if !slices.Contains(known, b.arch) {
		return fmt.Errorf("flag -arch, value %q: allowed is what Go builds for linux on: %s", b.arch, strings.Join(known, ", "))
	}
	return nil
}

// compile builds the program into dir and returns it.
func (b *build) compile(ctx context.Context, dir string) ([]byte, error) {
	to := filepath.Join(dir, filepath.Base(program))
	// -trimpath and -buildvcs=false: no path and no state of a checkout gets into it.
	_, err := b.goCommand(ctx, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+b.version, "-o", to, "./"+program)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(to)
}

// linked lists the modules of the packages that are linked, by path: the project itself and Go's own library are among them.
func (b *build) linked(ctx context.Context) ([]*module, error) {
	out, err := b.goCommand(ctx, "list", "-deps", "-json=Dir,Standard,Module", "./"+program)
	if err != nil {
		return nil, err
	}
	modules := map[string]*module{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *module
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what go list says: %w", err)
		}
		if p.Standard || p.Module == nil {
			continue
		}
		m := modules[p.Module.Path]
		if m == nil {
			m = p.Module
			modules[m.Path] = m
		}
		m.packages = append(m.packages, p.Dir)
	}
	std, err := b.standardLibrary(ctx)
	if err != nil {
		return nil, err
	}
	list := []*module{std}
	for _, m := range modules {
		if m.Replace != nil {
			return nil, fmt.Errorf("module %s is replaced by %s in go.mod: an image is made of released modules, so that its sources can be found", m.Path, m.Replace.Path)
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *module) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// standardLibrary is that of the go which builds: go.mod may have chosen another than the one that was called.
func (b *build) standardLibrary(ctx context.Context) (*module, error) {
	out, err := b.goCommand(ctx, "env", "GOROOT", "GOVERSION")
	if err != nil {
		return nil, err
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return &module{Path: goroot, Version: version, Dir: root}, nil
}
