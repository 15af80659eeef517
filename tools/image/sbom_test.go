package main

import (
	"os"
	"slices"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
)

func readBOM(t *testing.T, p *product) *cdx.BOM {
	t.Helper()
	f, err := os.Open(p.bom)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	bom := cdx.NewBOM()
	if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	return bom
}

func bomProperty(t *testing.T, p *product, name string) string {
	t.Helper()
	for _, property := range *readBOM(t, p).Metadata.Properties {
		if property.Name == name {
			return property.Value
		}
	}
	t.Fatalf("the SBOM has no property %s", name)
	return ""
}

func TestTheSBOMNamesTheModulesOfTheProgramAndTheirLicences(t *testing.T) {
	p := theProduct(t)
	bom := readBOM(t, p)
	want := append(programModules(t, ociImage(t, p)), "std")
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.Name)
		if c.Version == "" || c.Licenses == nil || len(*c.Licenses) != 1 {
			t.Errorf("%s has version %q and licences %v; want one each", c.Name, c.Version, c.Licenses)
		}
		if c.Name == "github.com/pilebones/go-udev" && (*c.Licenses)[0].License.ID != "GPL-3.0-only" {
			t.Errorf("go-udev is under %v, want GPL-3.0-only", (*c.Licenses)[0].License)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
}

func TestTheSBOMIsOfThisProgramAndSaysNothingOfTheRun(t *testing.T) {
	bom := readBOM(t, theProduct(t))
	type about struct {
		Name, Version, Licences, Time, Serial string
		Tool                                  []string
	}
	tool := (*bom.Metadata.Tools.Components)[0]
	got := about{
		Name: bom.Metadata.Component.Name, Version: bom.Metadata.Component.Version, Licences: (*bom.Metadata.Component.Licenses)[0].Expression,
		Time: bom.Metadata.Timestamp, Serial: bom.SerialNumber, Tool: []string{tool.Name, tool.Version},
	}
	want := about{
		Name: "qatplugin", Version: testVersion, Licences: "Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only",
		Time: "1970-01-01T00:00:00Z", Tool: []string{"cyclonedx-gomod", "v1.10.0"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := bomProperty(t, theProduct(t), "cdx:gomod:binary:name"); got != "qat_plugin" {
		t.Errorf("it is of the program %q", got)
	}
}
