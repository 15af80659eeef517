package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	title       = "intel-qat-plugin"
	summary     = "Event-driven Kubernetes device plugin for Intel QAT"
	description = "Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space"
)

// fileTime is that of each file in the image, and not the commit's: a layer is then the same for as long as its files are.
var fileTime = time.Unix(0, 0).UTC()

// labels are the image's: OCI's, and the three that people know from Intel's images. The Dockerfile has the same.
func labels(expression string, c *commit, o *options) map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":       title,
		"org.opencontainers.image.description": description,
		"org.opencontainers.image.licenses":    expression,
		"org.opencontainers.image.version":     o.version,
		"name":                                 title,
		"summary":                              summary,
		"description":                          description,
	}
	if c.revision != "" {
		l["org.opencontainers.image.revision"] = c.revision
	}
	if o.sourceURL != "" {
		l["org.opencontainers.image.source"] = o.sourceURL
	}
	return l
}

// newImage makes the image, of two layers: the licences, which seldom change, and the program.
func newImage(c *contents, from *commit, o *options) (v1.Image, error) {
	created := v1.Time{Time: from.time}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: o.arch,
		OS:           "linux",
		Created:      created,
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"/" + programPath},
			User:       "0:0", // it writes to sysfs
			Labels:     labels(c.expression(), from, o),
		},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range []struct {
		what  string
		files []file
	}{{"/" + licenceDir, c.licences}, {"/" + programPath, []file{c.program}}} {
		layer, err := newLayer(l.files)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "tools/image: " + l.what}})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// newLayer makes a layer of the files and the directories above them.
func newLayer(files []file) (v1.Layer, error) {
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, dir := range parents(files) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: fileTime}); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		if err := addFile(w, f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil }
	// WithCompressedCaching: it is compressed once, not again for each archive.
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression),
		tarball.WithCompressedCaching)
}

// addFile writes a file with nothing of this machine's: no time, and user and group 0 by number alone.
func addFile(w *tar.Writer, f file) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: int64(f.mode), Size: int64(len(f.content)), ModTime: fileTime}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(f.content)
	return err
}
