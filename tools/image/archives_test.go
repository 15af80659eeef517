package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// ociIndex unpacks the OCI layout and returns its index and the only image in it.
func ociIndex(t *testing.T, p *product) (*v1.IndexManifest, v1.Image) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(p.oci)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range tarEntries(t, f) {
		to := filepath.Join(dir, e.header.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, e.content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the OCI layout has %d images, want 1", len(manifest.Manifests))
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return manifest, img
}

func ociImage(t *testing.T, p *product) v1.Image {
	t.Helper()
	_, img := ociIndex(t, p)
	return img
}

func TestBothArchivesHoldTheSameImage(t *testing.T) {
	p := theProduct(t)
	oci := ociImage(t, p)
	tag, err := name.NewTag("intel-qat-plugin:" + testVersion)
	if err != nil {
		t.Fatal(err)
	}
	docker, err := tarball.ImageFromPath(p.docker, &tag)
	if err != nil {
		t.Fatal(err)
	}
	type facts struct {
		ID, Layers string
		DiffIDs    []v1.Hash
	}
	of := func(img v1.Image) facts {
		if err := validate.Image(img); err != nil {
			t.Errorf("not valid: %v", err)
		}
		id, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		f := facts{ID: id.String(), DiffIDs: config.RootFS.DiffIDs}
		for _, l := range layers {
			h, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			f.Layers += h.String() + "\n"
		}
		return f
	}
	if diff := cmp.Diff(of(oci), of(docker)); diff != "" {
		t.Errorf("(-OCI layout +docker-archive):\n%s", diff)
	}
	digest, err := oci.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		digest.String(), of(oci).ID, "bin/image/intel-qat-plugin-amd64.oci.tar", "/usr/local/bin/qat_plugin",
		"/licenses/github.com/pilebones/go-udev/LICENSE", fmt.Sprintf("SBOM: %d components", len(programModules(t, oci))+1),
	} {
		if !strings.Contains(p.said, want) {
			t.Errorf("what the tool says lacks %q:\n%s", want, p.said)
		}
	}
}

func TestTheOCILayoutNamesTheImage(t *testing.T) {
	index, img := ociIndex(t, theProduct(t))
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Descriptor{
		MediaType: "application/vnd.oci.image.manifest.v1+json",
		Size:      size,
		Digest:    digest,
		Platform:  &v1.Platform{OS: "linux", Architecture: "amd64"},
		Annotations: map[string]string{
			"io.containerd.image.name":          "docker.io/library/intel-qat-plugin:" + testVersion,
			"org.opencontainers.image.ref.name": testVersion,
		},
	}
	if diff := cmp.Diff(want, index.Manifests[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnImageOfARegistryKeepsItsName(t *testing.T) {
	for image, want := range map[string]string{
		"intel-qat-plugin":                     "docker.io/library/intel-qat-plugin:devel",
		"docker.io/team/plugin":                "docker.io/team/plugin:devel",
		"registry.example.com:5000/qat/plugin": "registry.example.com:5000/qat/plugin:devel",
	} {
		o, err := parse([]string{"-root", filepath.Join("..", ".."), "-image", image}, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := fullName(o.tag); got != want {
			t.Errorf("%s is named %s, want %s", image, got, want)
		}
		if got, want := o.base(), image[strings.LastIndex(image, "/")+1:]+"-amd64"; got != want {
			t.Errorf("the files of %s begin with %s, want %s", image, got, want)
		}
	}
}

func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	first := theProduct(t)
	elsewhere := filepath.Join(t.TempDir(), "another", "directory", "with a longer name")
	if err := copyProject(first.project, elsewhere); err != nil {
		t.Fatal(err)
	}
	// What a person may have set for other work.
	t.Setenv("GOFLAGS", "-tags=other -buildvcs=false")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("TZ", "Asia/Tokyo")
	second, err := makeProduct(t.Context(), elsewhere, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	sums := func(p *product) (sums []string) {
		for _, path := range []string{p.oci, p.docker, p.bom} {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, fmt.Sprintf("%s %x", filepath.Base(path), sha256.Sum256(text)))
		}
		return append(sums, regexp.MustCompile(`sha256:\w+`).FindString(p.said))
	}
	if diff := cmp.Diff(sums(first), sums(second)); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}

func TestAFailedWriteLeavesTheFileOfBefore(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "file")
	if err := os.WriteFile(to, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("disk full")
	if err := replace(to, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return failed }); !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(to); string(text) != "before" || len(left) != 1 {
		t.Errorf("the file holds %q, and %d files are there; want %q, 1", text, len(left), "before")
	}
}
