// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"go.uber.org/goleak"
)

// top is the project's directory.
var top = filepath.Join("..", "..")

// scratch holds what all tests share. TestMain creates and removes it.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "qatplugin-image-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Unsetenv("SOURCE_DATE_EPOCH") // a packager may have set it
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, elements ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	must(t, err)
	return text
}

// wantError checks that an error contains a text, or that there is none if the text is
// empty.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		must(t, err)
	} else if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

const testVersion = "v1.2.3-test"

// A product is what the tool built from a copy of the project.
type product struct {
	front            *front
	project          string
	stdout           string
	oci, docker, bom string // paths
}

// newShared returns a function that builds a product once for all tests, from a copy of the project
// that has no git repository and does not change during the tests.
func newShared(f *front, gpl string) func() (*product, error) {
	return sync.OnceValues(func() (*product, error) {
		project := filepath.Join(scratch, f.name+"-"+gpl)
		if err := copyProject(top, project); err != nil {
			return nil, err
		}
		return newProduct(context.Background(), f, project, "amd64", "-gpl="+gpl)
	})
}

// The products by the name of the front, with and without code under the GPL.
var withGPL, withoutGPL = func() (yes, no map[string]func() (*product, error)) {
	yes, no = map[string]func() (*product, error){}, map[string]func() (*product, error){}
	for _, f := range fronts {
		yes[f.name], no[f.name] = newShared(f, "yes"), newShared(f, "no")
	}
	return yes, no
}()

// sharedProduct returns the product of the device plugin.
func sharedProduct(t *testing.T) *product {
	t.Helper()
	p, err := withGPL[fronts[0].name]()
	must(t, err)
	return p
}

// forEachFront runs a subtest with the product of each front.
func forEachFront(t *testing.T, test func(t *testing.T, p *product)) {
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			p, err := withGPL[f.name]()
			must(t, err)
			test(t, p)
		})
	}
}

func newProduct(ctx context.Context, f *front, project, arch string, more ...string) (*product, error) {
	var stdout, stderr bytes.Buffer
	args := append([]string{"-front", f.name, "-root", project, "-version", testVersion, "-arch", arch}, more...)
	if code := run(ctx, args, &stdout, &stderr); code != 0 {
		return nil, fmt.Errorf("exit status %d:\n%s", code, &stderr)
	}
	base := filepath.Join(project, "bin", "image", f.title+"-"+arch)
	return &product{f, project, stdout.String(), base + ociSuffix, base + dockerSuffix, base + bomSuffix}, nil
}

// copyProject copies the main module without what its build does not need. In a worktree
// .git is a file.
func copyProject(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		excluded := slices.Contains([]string{".git", "bin", "test", "tools"}, rel)
		switch {
		case excluded && entry.IsDir():
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case excluded || !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
}

// index unpacks the OCI layout and returns its index and its only image.
func (p *product) index(t *testing.T) (*v1.IndexManifest, v1.Image) {
	t.Helper()
	f, err := os.Open(p.oci)
	must(t, err)
	defer f.Close()
	var files []file
	for _, e := range readTar(t, f) {
		files = append(files, file{e.header.Name, 0o644, e.content})
	}
	dir := t.TempDir()
	must(t, writeRootfs(dir, files))
	index, err := layout.ImageIndexFromPath(dir)
	must(t, err)
	manifest, err := index.IndexManifest()
	must(t, err)
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the OCI layout has %d images, want 1", len(manifest.Manifests))
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	must(t, err)
	return manifest, img
}

func (p *product) image(t *testing.T) v1.Image {
	t.Helper()
	_, img := p.index(t)
	return img
}

func (p *product) config(t *testing.T) *v1.ConfigFile {
	t.Helper()
	config, err := p.image(t).ConfigFile()
	must(t, err)
	return config
}

// An entry is one of a tar archive.
type entry struct {
	header  *tar.Header
	content []byte
}

// layers returns the entries of each layer of the image.
func (p *product) layers(t *testing.T) (all [][]entry) {
	t.Helper()
	layers, err := p.image(t).Layers()
	must(t, err)
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		must(t, err)
		all = append(all, readTar(t, r))
		must(t, r.Close())
	}
	return all
}

// entries returns the entries of all layers.
func (p *product) entries(t *testing.T) []entry {
	t.Helper()
	return slices.Concat(p.layers(t)...)
}

func readTar(t *testing.T, r io.Reader) (all []entry) {
	t.Helper()
	for reader := tar.NewReader(r); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(reader)
		must(t, err)
		all = append(all, entry{header, content})
	}
}

// programs returns the programs in the image, by name.
func (p *product) programs(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, e := range p.entries(t) {
		if dir, name := path.Split(e.header.Name); dir == "usr/local/bin/" && name != "" {
			all[name] = e.content
		}
	}
	var want []string
	for _, program := range p.front.programs {
		want = append(want, path.Base(program))
	}
	if got := slices.Sorted(maps.Keys(all)); !slices.Equal(got, want) {
		t.Fatalf("the image has the programs %q, want %q", got, want)
	}
	return all
}

func (p *product) readBOM(t *testing.T) *cdx.BOM {
	t.Helper()
	bom := cdx.NewBOM()
	must(t, cdx.NewBOMDecoder(bytes.NewReader(readFile(t, p.bom)), cdx.BOMFileFormatJSON).Decode(bom))
	return bom
}

func bomProperty(t *testing.T, bom *cdx.BOM, name string) string {
	t.Helper()
	for _, property := range *bom.Metadata.Properties {
		if property.Name == name {
			return property.Value
		}
	}
	t.Fatalf("the SBOM has no property %s", name)
	return ""
}

func TestInvalidFlags(t *testing.T) {
	for _, tt := range []struct {
		name      string
		args      []string
		wantError string
	}{
		{"tag with a space", []string{"-version", "a b"}, `-version: invalid value "a b": must be 1 to 128 letters`},
		{"tag that starts with a dot", []string{"-version", ".1"}, `-version: invalid value ".1": must be`},
		{"empty tag", []string{"-version", ""}, `-version: invalid value "": must be`},
		{"image with a tag", []string{"-image", "x:devel"}, `-image: invalid value "x:devel": must be a name`},
		{"other directory", []string{"-root", "."}, `tools/image": must be the directory with cmd/qat_plugin`},
		{"unknown front", []string{"-front", "both"}, `-front: invalid value "both": must be device-plugin or dra`},
		{"neither yes nor no", []string{"-gpl", "maybe"}, `-gpl: invalid value "maybe": must be yes or no`},
		{"argument", []string{"amd64"}, `unexpected argument "amd64"`},
		{"unknown flag", []string{"-platform", "x"}, "-platform; see -h"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr strings.Builder
			if code := run(t.Context(), append([]string{"-root", top}, tt.args...), io.Discard, &stderr); code != 2 {
				t.Errorf("exit status %d, want 2", code)
			}
			got := stderr.String()
			if !strings.HasPrefix(got, "image: ") || !strings.Contains(got, tt.wantError) {
				t.Errorf("error %q, want one with %q", got, tt.wantError)
			}
		})
	}
}

func TestUnsupportedArchitecture(t *testing.T) {
	_, err := newProduct(t.Context(), fronts[0], sharedProduct(t).project, "x86_64")
	wantError(t, err, "exit status 1:\ngo: unsupported GOOS/GOARCH pair linux/x86_64\n")
}
