package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// report says what was made: the image, the files written, and what is in it.
func report(w io.Writer, o *options, img v1.Image, c *contents, from *commit, bom *cdx.BOM, paths []string) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	id, err := img.ConfigName()
	if err != nil {
		return err
	}
	revision := from.revision
	if revision == "" {
		revision = "no label, as " + from.unknown
	}
	fmt.Fprintf(w, "image     %s linux/%s\n", fullName(o.tag), o.arch)
	fmt.Fprintf(w, "digest    %s\n", digest)
	fmt.Fprintf(w, "id        %s\n", id)
	fmt.Fprintf(w, "revision  %s\n", revision)
	fmt.Fprintf(w, "licences  %s\n\n", c.expression())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%d\t  %s\n", info.Size(), relative(o.root, path))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nSBOM: %d components, the modules that are linked and Go's own library\n\nin the image:\n", len(*bom.Components))
	return reportFiles(w, c.files())
}

// reportFiles lists the image's files with their modes and sizes, and their sum.
func reportFiles(w io.Writer, files []file) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	sum := 0
	for _, f := range files {
		fmt.Fprintf(t, "%04o\t%d\t  /%s\n", f.mode, len(f.content), f.path)
		sum += len(f.content)
	}
	fmt.Fprintf(t, "\t%d\t  in all\n", sum)
	return t.Flush()
}

// relative is the path as seen from the root, for what is below it.
func relative(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
