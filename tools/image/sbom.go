// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/rs/zerolog"
)

// generator is the module that creates the SBOM.
const generator = "github.com/CycloneDX/cyclonedx-gomod"

// newBOM returns the SBOM of the program at a path. Its components are the modules that
// the Go linker recorded in the program, with the licenses that are in the image. It has
// no serial number and no hash of this tool, which would change with each run.
func newBOM(program string, c *contents, version string, created time.Time) (*cdx.BOM, error) {
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
	bom, err := g.Generate()
	if err != nil {
		return nil, err
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
			return nil, fmt.Errorf("go list does not print module %s of the program", component.Name)
		case 1:
			component.Licenses = &cdx.Licenses{{License: &cdx.License{ID: spdx[0]}}}
		default:
			component.Licenses = &cdx.Licenses{{Expression: strings.Join(spdx, " AND ")}}
		}
	}
	if n := len(*bom.Components) + 1; n != len(c.spdx) { // and the main module
		return nil, fmt.Errorf("go list prints %d modules, but the program has %d", len(c.spdx), n)
	}
	return bom, nil
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
