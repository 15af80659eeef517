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

// generator is the module that makes the SBOM.
const generator = "github.com/CycloneDX/cyclonedx-gomod"

// newBOM describes the built program at the path: the modules that go wrote into it, and so those that are linked for its architecture. Their
// licences are those found in the image. It holds no serial number and no hash of this tool: they would differ from one run to the next.
func newBOM(path string, c *contents, version string, at time.Time) (*cdx.BOM, error) {
	// Short package URLs: a module is its sources, which know no architecture. That of the program stands in the metadata.
	g, err := bin.NewGenerator(path, bin.WithLogger(zerolog.Nop()), bin.WithIncludeStdlib(true), bin.WithShortPURLS(true), bin.WithVersionOverride(version))
	if err != nil {
		return nil, err
	}
	bom, err := g.Generate()
	if err != nil {
		return nil, err
	}
	bom.Metadata.Timestamp = at.Format(time.RFC3339)
	bom.Metadata.Tools = &cdx.ToolsChoice{Components: &[]cdx.Component{{
		Type: cdx.ComponentTypeApplication, Group: "CycloneDX", Name: "cyclonedx-gomod", Version: generatorVersion(),
	}}}
	bom.Metadata.Component.Licenses = &cdx.Licenses{{Expression: c.expression()}}
	for i := range *bom.Components {
		component := &(*bom.Components)[i]
		names := c.spdx[component.Name]
		switch len(names) {
		case 0:
			return nil, fmt.Errorf("module %s is in the program, but go list does not name it", component.Name)
		case 1:
			component.Licenses = &cdx.Licenses{{License: &cdx.License{ID: names[0]}}}
		default:
			component.Licenses = &cdx.Licenses{{Expression: strings.Join(names, " AND ")}}
		}
	}
	if n := len(*bom.Components) + 1; n != len(c.modules) {
		return nil, fmt.Errorf("go list names %d modules, the program %d", len(c.modules), n)
	}
	return bom, nil
}

// generatorVersion is that of the module which this tool was built with.
func generatorVersion() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == generator {
			return dep.Version
		}
	}
	return ""
}

func writeBOM(w io.Writer, bom *cdx.BOM) error {
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
}
