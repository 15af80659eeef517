// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestArchivesHaveTheSameImage(t *testing.T) {
	p := sharedProduct(t)
	type identity struct {
		ID      v1.Hash
		DiffIDs []v1.Hash
		Layers  []v1.Hash
	}
	identify := func(img v1.Image) (got identity) {
		must(t, validate.Image(img))
		var err error
		got.ID, err = img.ConfigName()
		must(t, err)
		config, err := img.ConfigFile()
		must(t, err)
		got.DiffIDs = config.RootFS.DiffIDs
		layers, err := img.Layers()
		must(t, err)
		for _, l := range layers {
			digest, err := l.Digest()
			must(t, err)
			got.Layers = append(got.Layers, digest)
		}
		return got
	}
	oci := p.image(t)
	tag, err := name.NewTag("intel-qat-plugin:" + testVersion)
	must(t, err)
	docker, err := tarball.ImageFromPath(p.docker, &tag)
	must(t, err)
	if diff := cmp.Diff(identify(oci), identify(docker)); diff != "" {
		t.Errorf("(-OCI layout +docker-archive):\n%s", diff)
	}
	digest, err := oci.Digest()
	must(t, err)
	for _, want := range []string{
		digest.String(),
		identify(oci).ID.String(),
		"bin/image/intel-qat-plugin-amd64.oci.tar",
		fmt.Sprintf("the SBOM has %d components", len(p.modules(t))+1),
		"/usr/local/bin/qat_plugin",
		"/licenses/github.com/pilebones/go-udev/LICENSE",
	} {
		if !strings.Contains(p.stdout, want) {
			t.Errorf("the output lacks %q:\n%s", want, p.stdout)
		}
	}
}

func TestOCILayoutNamesImage(t *testing.T) {
	index, img := sharedProduct(t).index(t)
	digest, err := img.Digest()
	must(t, err)
	size, err := img.Size()
	must(t, err)
	want := v1.Descriptor{
		MediaType:    "application/vnd.oci.image.manifest.v1+json",
		ArtifactType: "application/vnd.oci.image.config.v1+json", // for an image, the type of its configuration
		Size:         size,
		Digest:       digest,
		Platform:     &v1.Platform{OS: "linux", Architecture: "amd64"},
		Annotations: map[string]string{
			"io.containerd.image.name":          "docker.io/library/intel-qat-plugin:" + testVersion,
			"org.opencontainers.image.ref.name": testVersion,
		},
	}
	if diff := cmp.Diff(want, index.Manifests[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestImageAndFileNames(t *testing.T) {
	for image, want := range map[string]struct{ name, prefix string }{
		"intel-qat-plugin":                     {"docker.io/library/intel-qat-plugin:devel", "intel-qat-plugin-amd64"},
		"docker.io/team/plugin":                {"docker.io/team/plugin:devel", "plugin-amd64"},
		"registry.example.com:5000/qat/plugin": {"registry.example.com:5000/qat/plugin:devel", "plugin-amd64"},
	} {
		o, err := parse([]string{"-root", top, "-image", image}, nil)
		must(t, err)
		if o.imageName() != want.name || o.filePrefix() != want.prefix {
			t.Errorf("%s: image name %s, file prefix %s; want %v", image, o.imageName(), o.filePrefix(), want)
		}
	}
}

func TestBuildIsReproducible(t *testing.T) {
	first := sharedProduct(t)
	elsewhere := filepath.Join(t.TempDir(), "another", "directory", "with a longer name")
	must(t, copyProject(first.project, elsewhere))
	// Settings that a user may have made for other work.
	t.Setenv("GOFLAGS", "-tags=other -buildvcs=false")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("TZ", "Asia/Tokyo")
	second, err := newProduct(t.Context(), first.front, elsewhere, "amd64")
	must(t, err)
	sums := func(p *product) (sums []string) {
		for _, path := range []string{p.oci, p.docker, p.bom} {
			sums = append(sums, fmt.Sprintf("%s %x", filepath.Base(path), sha256.Sum256(readFile(t, path))))
		}
		return append(sums, regexp.MustCompile(`digest .*`).FindString(p.stdout))
	}
	if diff := cmp.Diff(sums(first), sums(second)); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}

func TestFailedWriteKeepsPreviousFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must(t, replaceFile(path, []byte("before")))
	must(t, os.Mkdir(path+".tmp", 0o755)) // where the new file is written first
	if err := replaceFile(path, []byte("after")); err == nil {
		t.Error("no error")
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if text := readFile(t, path); string(text) != "before" || len(left) != 1 {
		t.Errorf("the file has %q, and the directory %d files; want %q and 1", text, len(left), "before")
	}
}
