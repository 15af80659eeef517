// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A front is a way to offer devices to Kubernetes. There is an image for each.
type front struct {
	name        string // value of -front
	title       string
	summary     string
	description string

	// The packages of the programs in the image. The last element of each names the program. The
	// first one is the entry point.
	programs []string
}

// fronts are all images. The first one is the default.
var fronts = []*front{
	{
		name:    "device-plugin",
		title:   "intel-qat-plugin",
		summary: "Event-driven Kubernetes device plugin for Intel QAT",
		description: "Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come " +
			"and go, and binds them for user space",
		programs: []string{"cmd/qat_plugin", "cmd/qatctl"},
	},
	{
		name:    "dra",
		title:   "intel-qat-dra-driver",
		summary: "Event-driven DRA driver for Intel QAT",
		description: "Offers a host's Intel QuickAssist (QAT) virtual functions through Kubernetes' Dynamic " +
			"Resource Allocation as they come and go, and binds them for user space",
		programs: []string{"cmd/qat_dra_driver", "cmd/qatctl"},
	},
}

// fileTime is the modification time of all files. It does not depend on the commit, so a
// layer stays the same as long as its files do.
var fileTime = time.Unix(0, 0).UTC()

// A file is a file or directory in the image. It belongs to user and group 0.
type file struct {
	path    string // without a leading slash
	mode    fs.FileMode
	content []byte
}

func byPath(a, b file) int { return strings.Compare(a.path, b.path) }

// withParents returns the files and the directories above them. Each directory precedes
// what it contains.
func withParents(files []file) []file {
	all := slices.Clone(files)
	for _, f := range files {
		for dir := path.Dir(f.path); dir != "."; dir = path.Dir(dir) {
			all = append(all, file{path: dir, mode: fs.ModeDir | 0o755})
		}
	}
	slices.SortFunc(all, byPath)
	return slices.CompactFunc(all, func(a, b file) bool { return a.path == b.path })
}

// writeTar writes a tar archive of the files, with nothing that depends on this machine.
func writeTar(w io.Writer, files []file) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     f.path,
			Mode:     int64(f.mode.Perm()),
			Size:     int64(len(f.content)),
			ModTime:  fileTime,
		}
		if f.mode.IsDir() {
			header.Typeflag, header.Name = tar.TypeDir, f.path+"/"
		}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(f.content); err != nil {
			return err
		}
	}
	return t.Close()
}

// writeRootfs writes the files to a directory, which must be empty or missing. Modes and
// modification times are those in the image.
func writeRootfs(dir string, files []file) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("directory %q is not empty: its files would become part of the image", dir)
	}
	// Backwards, because writing a file changes the modification time of its directory.
	for _, f := range slices.Backward(withParents(files)) {
		to := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if !f.mode.IsDir() {
			if err := os.WriteFile(to, f.content, f.mode); err != nil {
				return err
			}
		}
		if err := errors.Join(os.Chmod(to, f.mode.Perm()), os.Chtimes(to, time.Time{}, fileTime)); err != nil {
			return err
		}
	}
	return nil
}

// labels returns the labels of the image: those of OCI, and three that Intel's images
// have. The Dockerfile sets the same.
func labels(o *options, licenses string, from commit) map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":       o.front.title,
		"org.opencontainers.image.description": o.front.description,
		"org.opencontainers.image.licenses":    licenses,
		"org.opencontainers.image.version":     o.version,
		"name":                                 o.front.title,
		"summary":                              o.front.summary,
		"description":                          o.front.description,
	}
	if from.revision != "" {
		l["org.opencontainers.image.revision"] = from.revision
	}
	if o.source != "" {
		l["org.opencontainers.image.source"] = o.source
	}
	return l
}

// newImage creates the image. It has two layers: the licenses, which seldom change, and
// the programs.
func newImage(o *options, c *contents, from commit) (v1.Image, error) {
	created := v1.Time{Time: from.time}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: o.arch,
		OS:           "linux",
		Created:      created,
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"/" + programPath(o.front.programs[0])},
			User:       "0:0", // it writes to sysfs
			Labels:     labels(o, c.licenses(), from),
		},
	})
	if err != nil {
		return nil, err
	}
	for _, files := range [][]file{c.licenseFiles, c.programs} {
		layer, err := newLayer(files)
		if err != nil {
			return nil, err
		}
		history := v1.History{Created: created, CreatedBy: "tools/image"}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: history}); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// newLayer creates a layer of the files and the directories above them.
func newLayer(files []file) (v1.Layer, error) {
	var text bytes.Buffer
	if err := writeTar(&text, withParents(files)); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil }
	return tarball.LayerFromOpener(open,
		tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression),
		tarball.WithCompressedCaching) // compress once for both archives
}
