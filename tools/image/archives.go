package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The ends of the names of what is written.
const (
	ociEnd    = ".oci.tar"
	dockerEnd = ".docker.tar"
	bomEnd    = ".cdx.json"
)

// writeAll writes both archives and the SBOM, and returns their paths.
func writeAll(o *options, img v1.Image, bom *cdx.BOM) ([]string, error) {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, err
	}
	var paths []string
	for _, f := range []struct {
		end   string
		write func(io.Writer) error
	}{
		{ociEnd, func(w io.Writer) error { return writeOCI(w, img, o.tag) }},
		{dockerEnd, func(w io.Writer) error { return tarball.Write(o.tag, img, w) }},
		{bomEnd, func(w io.Writer) error { return writeBOM(w, bom) }},
	} {
		to := filepath.Join(o.out, o.base()+f.end)
		if err := replace(to, f.write); err != nil {
			return nil, fmt.Errorf("write %s: %w", to, err)
		}
		paths = append(paths, to)
	}
	return paths, nil
}

// replace writes a file as a whole or not at all: one of before stays until then.
func replace(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fullName is the image's as containerd has it, with docker.io where no registry is named.
func fullName(tag name.Tag) string {
	full := tag.Name()
	if rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return full
}

// writeOCI writes an OCI image layout with this one image.
func writeOCI(w io.Writer, img v1.Image, tag name.Tag) error {
	manifest, err := partial.Descriptor(img)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	manifest.Platform, manifest.ArtifactType = config.Platform(), "" // an image is no artifact of another type
	// containerd and podman name what they import by the first of these, others by the second, as buildkit writes both.
	manifest.Annotations = map[string]string{"io.containerd.image.name": fullName(tag), "org.opencontainers.image.ref.name": tag.TagStr()}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*manifest}})
	if err != nil {
		return err
	}
	files, err := blobs(img)
	if err != nil {
		return err
	}
	files = append(files, file{path: "index.json", mode: 0o644, content: index})
	t := tar.NewWriter(w)
	if err := addFile(t, file{path: "oci-layout", mode: 0o644, content: []byte(`{"imageLayoutVersion":"1.0.0"}`)}); err != nil {
		return err
	}
	for _, f := range files {
		if err := addFile(t, f); err != nil {
			return err
		}
	}
	return t.Close()
}

// blobs are the image's layers, its configuration and its manifest, named as in an OCI image layout.
func blobs(img v1.Image) ([]file, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return nil, err
	}
	var files []file
	add := func(h v1.Hash, content []byte) {
		files = append(files, file{path: "blobs/" + h.Algorithm + "/" + h.Hex, mode: 0o644, content: content})
	}
	for _, l := range append(layers, config) {
		h, err := l.Digest()
		if err != nil {
			return nil, err
		}
		content, err := readAll(l.Compressed)
		if err != nil {
			return nil, err
		}
		add(h, content)
	}
	h, err := img.Digest()
	if err != nil {
		return nil, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	add(h, manifest)
	return files, nil
}

func readAll(open func() (io.ReadCloser, error)) ([]byte, error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	_, err = io.Copy(&text, r)
	return text.Bytes(), errors.Join(err, r.Close())
}
