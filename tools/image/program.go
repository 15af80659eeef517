// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	stdlib  = "std"         // the standard library among the modules, as in an SBOM
	noTrace = "grpcnotrace" // the build tag that leaves out golang.org/x/net/trace
	noGPL   = "nogpl"       // the build tag that leaves out all code under the GPL
)

// programPath returns the path of a program in the image.
func programPath(program string) string { return "usr/local/bin/" + path.Base(program) }

// A module is linked into a program.
type module struct {
	Path    string // stdlib for the standard library
	Dir     string
	Main    bool
	Replace *struct{ Path string }

	packages []string // the directories of the linked packages
}

// contents is what the image contains.
type contents struct {
	programs     []file              // in the order of front.programs
	licenseFiles []file              // sorted by path
	spdx         map[string][]string // the SPDX identifiers of each module's licenses, by module path
}

// newContents compiles the programs to the directory dir and collects the licenses of their
// modules.
func newContents(
	ctx context.Context, cmd *goCommand, programs []string, version, dir string,
) (*contents, error) {
	c := &contents{spdx: map[string][]string{}}
	for _, program := range programs {
		binary := filepath.Join(dir, path.Base(program))
		// Without these flags the program would contain paths, and the state of the checkout.
		_, err := cmd.run(ctx, "build", "-tags", cmd.tags, "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -X main.version="+version, "-o", binary, "./"+program)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		c.programs = append(c.programs, file{programPath(program), 0o755, text})
	}
	modules, err := cmd.linkedModules(ctx, programs)
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		files, spdx, err := m.licenses()
		if err != nil {
			return nil, err
		}
		c.licenseFiles = append(c.licenseFiles, files...)
		c.spdx[m.Path] = spdx
	}
	slices.SortFunc(c.licenseFiles, byPath)
	return c, nil
}

// files returns the files of the image.
func (c *contents) files() []file { return slices.Concat(c.licenseFiles, c.programs) }

// licenses returns the SPDX expression for the license of the programs: those of all modules
// apply.
func (c *contents) licenses() string {
	all := slices.Concat(slices.Collect(maps.Values(c.spdx))...)
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " AND ")
}

// A goCommand runs the go command for linux.
type goCommand struct {
	dir    string
	arch   string
	tags   string // build tags, separated by commas
	stderr io.Writer
}

// run runs the go command and returns its output.
func (c *goCommand) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stderr = c.dir, c.stderr
	// The settings from GOFLAGS on override those of the user, which must not change the
	// program. None is empty: the go command would use the value that `go env -w` has
	// set.
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+c.arch, "CGO_ENABLED=0",
		"GOFLAGS=-mod=readonly", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s for linux/%s: %w", args[0], c.arch, err)
	}
	return out, nil
}

// linkedModules returns the modules of the packages of all programs, including the main module
// and the standard library.
func (c *goCommand) linkedModules(ctx context.Context, programs []string) ([]*module, error) {
	// The standard library of the toolchain that compiles: go.mod may select another one
	// than the go command that was called.
	goroot, err := c.run(ctx, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	args := []string{"list", "-tags", c.tags, "-deps", "-json=Dir,Standard,Module"}
	for _, program := range programs {
		args = append(args, "./"+program)
	}
	out, err := c.run(ctx, args...)
	if err != nil {
		return nil, err
	}
	modules := map[string]*module{stdlib: {Path: stdlib, Dir: strings.TrimSpace(string(goroot))}}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p struct {
			Dir      string
			Standard bool
			Module   *module
		}
		if err := decoder.Decode(&p); err != nil {
			return nil, fmt.Errorf("parse the output of go list: %w", err)
		}
		if p.Standard || p.Module == nil {
			continue
		}
		m := cmp.Or(modules[p.Module.Path], p.Module)
		if m.Replace != nil {
			return nil, fmt.Errorf("module %s is replaced by %s in go.mod: an image may only contain "+
				"released modules, whose sources can be found", m.Path, m.Replace.Path)
		}
		m.packages = append(m.packages, p.Dir)
		modules[m.Path] = m
	}
	byPath := func(a, b *module) int { return strings.Compare(a.Path, b.Path) }
	return slices.SortedFunc(maps.Values(modules), byPath), nil
}
