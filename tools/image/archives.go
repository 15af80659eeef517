// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The suffixes of the files that are written.
const (
	ociSuffix    = ".oci.tar"
	dockerSuffix = ".docker.tar"
	bomSuffix    = ".cdx.json"
)

// filePrefix returns the common part of the names of the written files.
func (o *options) filePrefix() string { return path.Base(o.tag.RepositoryStr()) + "-" + o.arch }

// writeArchives writes both archives and the SBOM, and prints their sizes and paths.
func writeArchives(o *options, img v1.Image, bom *cdx.BOM, stdout io.Writer) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		suffix string
		write  func(io.Writer) error
	}{
		{ociSuffix, func(w io.Writer) error { return writeOCI(w, o, img) }},
		{dockerSuffix, func(w io.Writer) error { return tarball.Write(o.tag, img, w) }},
		{bomSuffix, func(w io.Writer) error { return writeBOM(w, bom) }},
	} {
		to := filepath.Join(o.out, o.filePrefix()+f.suffix)
		var content bytes.Buffer
		if err := f.write(&content); err != nil {
			return fmt.Errorf("create %s: %w", to, err)
		}
		fmt.Fprintf(stdout, "  %14d  %s\n", content.Len(), to)
		if err := replaceFile(to, content.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile replaces a file atomically: if it fails, the previous file remains.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	err := os.WriteFile(tmp, content, 0o644)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// writeOCI writes a tar archive of an OCI image layout with one image.
func writeOCI(w io.Writer, o *options, img v1.Image) error {
	dir, err := os.MkdirTemp("", "qatplugin-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	index, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// Importers name the image by an annotation: containerd and podman by the first,
	// others by the second. buildkit writes both, too.
	annotations := layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          o.imageName(),
		"org.opencontainers.image.ref.name": o.tag.TagStr(),
	})
	platform := layout.WithPlatform(v1.Platform{OS: "linux", Architecture: o.arch})
	if err := index.AppendImage(img, annotations, platform); err != nil {
		return err
	}
	files, err := readFiles(dir)
	if err != nil {
		return err
	}
	return writeTar(w, files)
}

// readFiles returns the files below a directory, sorted by path.
func readFiles(dir string) (files []file, err error) {
	root := os.DirFS(dir)
	err = fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, path)
		files = append(files, file{path, 0o644, content})
		return err
	})
	return files, err
}
