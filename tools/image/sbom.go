// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/rs/zerolog"
)

// generator is the module that creates the SBOM.
const generator = "github.com/CycloneDX/cyclonedx-gomod"

// newBOM returns the SBOM of the programs in the directory dir. Its components are the modules that
// the Go linker recorded in the programs, with the licenses that are in the image. It has
// no serial number and no hash of this tool, which would change with each run.
func newBOM(dir string, c *contents, version string, created time.Time) (*cdx.BOM, error) {
	var bom *cdx.BOM
	for _, program := range c.programs {
		more, err := generateBOM(filepath.Join(dir, path.Base(program.path)), version)
		if err != nil {
			return nil, err
		}
		if bom == nil {
			bom = more
		} else {
			addBOM(bom, more)
		}
	}
	bom.Metadata.Timestamp = created.Format(time.RFC3339)
	bom.Metadata.Tools = &cdx.ToolsChoice{Components: &[]cdx.Component{{
		Type:    cdx.ComponentTypeApplication,
		Group:   "CycloneDX",
		Name:    "cyclonedx-gomod",
		Version: generatorVersion(),
	}}}
	bom.Metadata.Component.Licenses = &cdx.Licenses{{Expression: c.licenses()}}
	for i := range *bom.Components {
		component := &(*bom.Components)[i]
		switch spdx := c.spdx[component.Name]; len(spdx) {
		case 0:
			return nil, fmt.Errorf("go list does not print module %s of the programs", component.Name)
		case 1:
			component.Licenses = &cdx.Licenses{{License: &cdx.License{ID: spdx[0]}}}
		default:
			component.Licenses = &cdx.Licenses{{Expression: strings.Join(spdx, " AND ")}}
		}
	}
	if n := len(*bom.Components) + 1; n != len(c.spdx) { // and the main module
		return nil, fmt.Errorf("go list prints %d modules, but the programs have %d", len(c.spdx), n)
	}
	return bom, nil
}

// generateBOM returns the SBOM of one program.
func generateBOM(program, version string) (*cdx.BOM, error) {
	// Short package URLs: the sources of a module are the same for all architectures. The
	// metadata holds the architecture of the program.
	g, err := bin.NewGenerator(program,
		bin.WithLogger(zerolog.Nop()),
		bin.WithIncludeStdlib(true),
		bin.WithShortPURLS(true),
		bin.WithVersionOverride(version))
	if err != nil {
		return nil, err
	}
	return g.Generate()
}

// addBOM adds what the SBOM of another program of the same module has in addition.
func addBOM(bom, more *cdx.BOM) {
	*bom.Components = union(*bom.Components, *more.Components, func(c *cdx.Component) string { return c.BOMRef })
	*bom.Metadata.Properties = union(*bom.Metadata.Properties, *more.Metadata.Properties,
		func(p *cdx.Property) string { return p.Name + "=" + p.Value })
	for _, d := range *more.Dependencies {
		i := slices.IndexFunc(*bom.Dependencies, func(known cdx.Dependency) bool { return known.Ref == d.Ref })
		if i < 0 {
			*bom.Dependencies = append(*bom.Dependencies, d)
			continue
		}
		known := &(*bom.Dependencies)[i]
		if d.Dependencies == nil {
			continue
		}
		if known.Dependencies == nil {
			known.Dependencies = &[]string{}
		}
		*known.Dependencies = union(*known.Dependencies, *d.Dependencies, func(ref *string) string { return *ref })
	}
}

// union returns the elements of two lists, sorted by their keys and without duplicates.
func union[T any](a, b []T, key func(*T) string) []T {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y T) int { return strings.Compare(key(&x), key(&y)) })
	return slices.CompactFunc(all, func(x, y T) bool { return key(&x) == key(&y) })
}

// generatorVersion returns the version of the generator that this tool is built with.
func generatorVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == generator {
				return dep.Version
			}
		}
	}
	return ""
}

func writeBOM(w io.Writer, bom *cdx.BOM) error {
	encoder := cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	return encoder.EncodeVersion(bom, cdx.SpecVersion1_6)
}
