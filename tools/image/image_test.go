// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const goUdev = "github.com/pilebones/go-udev"

// expressions are the licenses of the images by the name of the front, as docs/install.md says.
var expressions = map[string]string{
	"device-plugin": "Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only AND MIT",
	"dra":           "Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only AND ISC AND MIT",
}

// TestImageHasProgramsAndLicensesOnly also checks the owners, modes and times of the
// files.
func TestImageHasProgramsAndLicensesOnly(t *testing.T) { forEachFront(t, testFiles) }

func testFiles(t *testing.T, p *product) {
	folders := append(p.modules(t), ".", "go")
	files := 0
	for _, e := range p.entries(t) {
		h := e.header
		mode := int64(0o644)
		rel, isLicense := strings.CutPrefix(h.Name, "licenses/")
		switch {
		case h.Typeflag == tar.TypeDir:
			mode = 0o755
		case h.Typeflag != tar.TypeReg:
			t.Errorf("%s is neither a file nor a directory: type %c", h.Name, h.Typeflag)
		case path.Dir(h.Name) == "usr/local/bin" && p.programs(t)[path.Base(h.Name)] != nil:
			mode = 0o755
			files++
		case isLicense && legalFile.MatchString(path.Base(rel)) && isIn(path.Dir(rel), folders):
			files++
		default:
			t.Errorf("unexpected file %s", h.Name)
		}
		isRoot := h.Uid == 0 && h.Gid == 0 && h.Uname+h.Gname == ""
		if h.Mode != mode || !isRoot || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s has mode %o, user %d %q, group %d %q, time %v; want %o, 0, 0 and 1970",
				h.Name, h.Mode, h.Uid, h.Uname, h.Gid, h.Gname, h.ModTime, mode)
		}
	}
	if files < len(folders)+2 {
		t.Errorf("the image has %d files, fewer than modules", files)
	}
}

// isIn reports whether a directory is one of the folders or below one: code that a module has
// copied from elsewhere has a license of its own.
func isIn(dir string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return dir == folder || strings.HasPrefix(dir, folder+"/")
	})
}

func TestDirectoriesPrecedeTheirFiles(t *testing.T) {
	for _, layer := range sharedProduct(t).layers(t) {
		seen := map[string]bool{".": true}
		for _, e := range layer {
			name := path.Clean(e.header.Name)
			if !seen[path.Dir(name)] || seen[name] {
				t.Errorf("%s is a duplicate, or precedes its directory", name)
			}
			seen[name] = true
		}
	}
}

// modules returns the paths of the modules that the Go linker recorded in the programs,
// without the main module.
func (p *product) modules(t *testing.T) (modules []string) {
	t.Helper()
	for name, program := range p.programs(t) {
		info, err := buildinfo.Read(bytes.NewReader(program))
		must(t, err)
		if len(info.Deps) < 10 {
			t.Fatalf("%s has the modules %v: too few", name, info.Deps)
		}
		for _, dep := range info.Deps {
			modules = append(modules, dep.Path)
		}
	}
	slices.Sort(modules)
	return slices.Compact(modules)
}

func TestProgramsAreStaticAndHaveVersion(t *testing.T) {
	forEachFront(t, func(t *testing.T, p *product) {
		for name, text := range p.programs(t) {
			t.Run(name, func(t *testing.T) { checkProgram(t, name, text) })
		}
	})
}

func checkProgram(t *testing.T, name string, text []byte) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(text))
	must(t, err)
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a segment %v, which needs a loader; the image has none", p.Type)
		}
	}
	if f.Section(".debug_info") != nil || f.Section(".symtab") != nil {
		t.Error("the program is not stripped")
	}
	if bytes.Contains(text, []byte(scratch)) {
		t.Errorf("the program contains the path of its build directory %s", scratch)
	}
	if runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64" {
		t.Log("not running the program on " + runtime.GOOS + "/" + runtime.GOARCH)
		return
	}
	binary := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(binary, text, 0o755))
	argument := "-version"
	if name == "qatctl" {
		argument = "version"
	}
	out, err := exec.CommandContext(t.Context(), binary, argument).CombinedOutput()
	if want := name + " " + testVersion + " go"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%s %s: %v, %q; want output that starts with %q", name, argument, err, out, want)
	}
}

func TestOtherArchitecture(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: compiling Go's standard library for arm64 takes a minute")
	}
	p, err := newProduct(t.Context(), fronts[0], sharedProduct(t).project, "arm64")
	must(t, err)
	for name, program := range p.programs(t) {
		f, err := elf.NewFile(bytes.NewReader(program))
		must(t, err)
		if config := p.config(t); config.Architecture != "arm64" || f.Machine != elf.EM_AARCH64 {
			t.Errorf("the image is for %s, its program %s for %v; want arm64", config.Architecture, name, f.Machine)
		}
	}
	if got := bomProperty(t, p.readBOM(t), "cdx:gomod:build:env:GOARCH"); got != "arm64" {
		t.Errorf("the SBOM is for %q, want arm64", got)
	}
}

func TestRevisionAndSourceLabels(t *testing.T) {
	o, err := parse([]string{"-root", top, "-source", "https://example.com/plugin"}, nil)
	must(t, err)
	l := labels(o, "MIT", commit{revision: "abc"})
	revision, source := l["org.opencontainers.image.revision"], l["org.opencontainers.image.source"]
	if revision != "abc" || source != "https://example.com/plugin" {
		t.Errorf("revision %q, source %q", revision, source)
	}
}

func TestRootfsMatchesImage(t *testing.T) {
	p := sharedProduct(t)
	dir := filepath.Join(t.TempDir(), "rootfs")
	args := []string{"-root", p.project, "-version", testVersion, "-rootfs", dir}
	var stderr strings.Builder
	if code := run(t.Context(), args, &strings.Builder{}, &stderr); code != 0 {
		t.Fatalf("exit status %d: %s", code, &stderr)
	}
	describe := func(info os.FileInfo, content []byte) string {
		return info.Mode().String() + " " + info.ModTime().UTC().String() + " " + string(content)
	}
	want, got := map[string]string{}, map[string]string{}
	for _, e := range p.entries(t) {
		want[path.Clean(e.header.Name)] = describe(e.header.FileInfo(), e.content)
	}
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		var content []byte
		if !info.IsDir() {
			content = readFile(t, path)
		}
		rel, err := filepath.Rel(dir, path)
		got[rel] = describe(info, content)
		return err
	}))
	for name := range want {
		if want[name] != got[name] {
			t.Errorf("%s differs: image %.60q, directory %.60q", name, want[name], got[name])
		}
	}
	if len(want) != len(got) {
		t.Errorf("the image has %d files and directories, the directory %d", len(want), len(got))
	}
	code := run(t.Context(), args, &strings.Builder{}, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), "is not empty") {
		t.Errorf("with a directory that is not empty: exit status %d, error %q", code, &stderr)
	}
}

func TestSBOMListsModulesAndLicenses(t *testing.T) { forEachFront(t, testBOM) }

func testBOM(t *testing.T, p *product) {
	want := append(p.modules(t), stdlib)
	if !slices.Contains(want, goUdev) {
		t.Errorf("the programs have the modules %q, want %s among them", want, goUdev)
	}
	var got []string
	for _, c := range *p.readBOM(t).Components {
		got = append(got, c.Name)
		if c.Version == "" || c.Licenses == nil || len(*c.Licenses) != 1 {
			t.Errorf("%s has version %q and licenses %v; want one each", c.Name, c.Version, c.Licenses)
		}
		if c.Name == goUdev && (*c.Licenses)[0].License.ID != "GPL-3.0-only" {
			t.Errorf("go-udev has license %v, want GPL-3.0-only", (*c.Licenses)[0].License)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
	dependencies := map[string]int{} // of each component, and how many it has itself
	for _, d := range *p.readBOM(t).Dependencies {
		dependencies[d.Ref] = 0
		if d.Dependencies != nil {
			dependencies[d.Ref] = len(*d.Dependencies)
		}
	}
	modules := len(want) - 1 // without the standard library
	if n := dependencies[p.readBOM(t).Metadata.Component.BOMRef]; n != modules || len(dependencies) != modules+2 {
		t.Errorf("the main module has %d dependencies, and %d components are listed; want %d and %d",
			n, len(dependencies), modules, modules+2)
	}
}

func TestSBOMDescribesProgramsAndNotTheBuild(t *testing.T) { forEachFront(t, testBOMDescription) }

func testBOMDescription(t *testing.T, p *product) {
	bom := p.readBOM(t)
	type description struct{ Name, Version, Licenses, Programs, Time, Serial, Tool, ToolVersion string }
	component, tool := bom.Metadata.Component, (*bom.Metadata.Tools.Components)[0]
	var names []string
	for _, property := range *bom.Metadata.Properties {
		if property.Name == "cdx:gomod:binary:name" {
			names = append(names, property.Value)
		}
	}
	got := description{
		Name:        component.Name,
		Version:     component.Version,
		Licenses:    (*component.Licenses)[0].Expression,
		Programs:    strings.Join(names, " "),
		Time:        bom.Metadata.Timestamp,
		Serial:      bom.SerialNumber,
		Tool:        tool.Name,
		ToolVersion: tool.Version,
	}
	want := description{
		Name:        "qatplugin",
		Version:     testVersion,
		Licenses:    expressions[p.front.name],
		Programs:    path.Base(p.front.programs[0]) + " qatctl",
		Time:        "1970-01-01T00:00:00Z",
		Tool:        "cyclonedx-gomod",
		ToolVersion: "v1.10.0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPluginHasNoTemplates checks that the plugin contains no package of templates, neither in
// the image nor after make build. A template calls methods by name, so the linker must keep every
// exported method of every linked type.
func TestPluginHasNoTemplates(t *testing.T) {
	program := sharedProduct(t).programs(t)["qat_plugin"]
	for _, name := range []string{"text/template.", "golang.org/x/net/trace."} {
		if bytes.Contains(program, []byte(name)) {
			t.Errorf("the program contains functions of package %s", strings.TrimSuffix(name, "."))
		}
	}
	if !bytes.Contains(program, []byte("golang.org/x/net/http2.")) {
		t.Error("the program does not name the functions of its packages: this test looks for the wrong names")
	}
	for gpl, tags := range map[string]string{"yes": noTrace, "no": noTrace + "," + noGPL} {
		out, err := exec.Command("make", "--dry-run", "-C", top, "build", "GPL="+gpl).Output()
		must(t, err)
		if !strings.Contains(string(out), "CGO_ENABLED=0") || !strings.Contains(string(out), `-tags "`+tags+`"`) {
			t.Errorf("make build GPL=%s does not build as the image does, with CGO_ENABLED=0 and the tags %s:\n%s",
				gpl, tags, out)
		}
	}
}

// TestImageWithoutGPL checks that an image of -gpl=no differs in the code and license of go-udev,
// and in nothing else.
func TestImageWithoutGPL(t *testing.T) {
	forEachFront(t, func(t *testing.T, with *product) {
		without, err := withoutGPL[with.front.name]()
		must(t, err)
		compareGPL(t, with, without)
	})
}

func compareGPL(t *testing.T, with, p *product) {
	var want, got []string
	for _, e := range with.entries(t) {
		if !strings.HasPrefix(e.header.Name, "licenses/github.com/pilebones/") {
			want = append(want, e.header.Name)
		}
	}
	for _, e := range p.entries(t) {
		got = append(got, e.header.Name)
		isLicense := licenseFile.MatchString(path.Base(e.header.Name))
		if isLicense && bytes.Contains(e.content, []byte("GNU GENERAL PUBLIC LICENSE")) {
			t.Errorf("%s is the GPL", e.header.Name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-image with GPL, apart from go-udev +image without):\n%s", diff)
	}
	for name, program := range p.programs(t) {
		if bytes.Contains(program, []byte(goUdev)) {
			t.Errorf("%s contains %s", name, goUdev)
		}
	}
	for _, word := range []string{"GPL", goUdev} {
		if bytes.Contains(readFile(t, p.bom), []byte(word)) {
			t.Errorf("the SBOM contains %q", word)
		}
	}
	licenses := "licenses  " + strings.Replace(expressions[p.front.name], "GPL-3.0-only AND ", "", 1) + "\n"
	if !strings.Contains(p.stdout, licenses) {
		t.Errorf("the output lacks %q:\n%s", licenses, p.stdout)
	}
}

// TestImagesAreSmall: the OCI archive has the layers compressed, as a registry does. docs/dra.md
// and README.md state the sizes.
func TestImagesAreSmall(t *testing.T) {
	forEachFront(t, func(t *testing.T, p *product) {
		info, err := os.Stat(p.oci)
		must(t, err)
		const limit = 15 << 20
		if info.Size() > limit {
			t.Errorf("%s is %d bytes, the limit is %d", filepath.Base(p.oci), info.Size(), limit)
		}
		t.Logf("%s is %.1f MiB", filepath.Base(p.oci), float64(info.Size())/(1<<20))
	})
}
