// SPDX-License-Identifier: Apache-2.0

// Command image builds the container image of qat_plugin or, with -front=dra, of qat_dra_driver,
// each with qatctl, without a container daemon. It exists because the licenses of all linked
// modules must accompany the programs, and neither a Dockerfile alone nor the image builders for Go
// collect them.
//
// It compiles the programs, collects the licenses, and writes the image as an OCI layout and as a
// docker-archive, each in a tar file, with an SBOM (CycloneDX) beside them. The image is built from
// scratch; it contains only the programs, in /usr/local/bin, and /licenses. With -rootfs the tool
// writes these files to a directory instead, for the Dockerfile. With -gpl=no the programs contain
// no code under the GPL.
//
// The same sources, Go version and flags give the same bytes, in any directory and at any
// time. A module whose license is missing or unknown is an error.
//
// The exit status is 0 on success, 1 on failure, and 2 for an invalid flag.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options holds the values of the flags.
type options struct {
	root    string // the project's directory
	out     string // the directory of the archives and the SBOM
	rootfs  string // the directory for the image's files; "" to build an image
	tag     name.Tag
	version string // of the programs; also the tag of the image
	arch    string // a GOARCH
	source  string // the URL of the sources, or ""
	tags    string // build tags of the programs
	front   *front
}

// validTag matches the tags that the protocol of registries allows.
var validTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "image:", err)
		return 2
	}
	if err := build(ctx, o, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "image:", err)
		return 1
	}
	return 0
}

func parse(args []string, stdout io.Writer) (*options, error) {
	o, image, gpl, frontName := &options{}, "", "", ""
	names := make([]string, len(fronts))
	for i, f := range fronts {
		names[i] = f.name
	}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.root, "root", filepath.Join("..", ".."), "`directory` of the project")
	flags.StringVar(&o.out, "out", "",
		"`directory` for the archives and the SBOM (default bin/image in the project)")
	flags.StringVar(&o.rootfs, "rootfs", "",
		"write the files of the image to this empty `directory`, and build no image")
	flags.StringVar(&frontName, "front", names[0], "which image to build: "+strings.Join(names, " or "))
	flags.StringVar(&image, "image", "",
		"`name` of the image, without a tag (default intel-qat-plugin or intel-qat-dra-driver)")
	flags.StringVar(&o.version, "version", "devel", "`version` of the programs, and tag of the image")
	flags.StringVar(&o.arch, "arch", "amd64", "architecture of the image, a `GOARCH`")
	flags.StringVar(&o.source, "source", "",
		"`URL` of the sources, for a label; who distributes an image with -gpl=yes must offer the sources (GPL-3.0)")
	flags.StringVar(&gpl, "gpl", "yes",
		"yes or no: `whether` the programs may contain code under the GPL; with no, go-udev is left out")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "image builds the container image of qat_plugin or qat_dra_driver without a daemon."+
			"\n\nFlags:\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		fmt.Fprint(stdout, "\nThe creation time of the image is SOURCE_DATE_EPOCH (seconds since 1970) if set,\n"+
			"else the time of the git commit, else 1970.\n")
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w; see -h", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q; see -h", flags.Arg(0))
	case !slices.Contains(names, frontName):
		return nil, fmt.Errorf("-front: invalid value %q: must be %s", frontName, strings.Join(names, " or "))
	case gpl != "yes" && gpl != "no":
		return nil, fmt.Errorf("-gpl: invalid value %q: must be yes or no", gpl)
	case !validTag.MatchString(o.version):
		return nil, fmt.Errorf("-version: invalid value %q: must be 1 to 128 letters, digits, '_', '.' "+
			"and '-', and must not start with '.' or '-'", o.version)
	}
	o.front = fronts[slices.Index(names, frontName)]
	image = cmp.Or(image, o.front.title)
	o.tags = noTrace
	if gpl == "no" {
		o.tags += "," + noGPL
	}
	if o.tag, err = name.NewTag(image + ":" + o.version); err != nil {
		return nil, fmt.Errorf("-image: invalid value %q: must be a name without a tag, "+
			"such as registry.example.com/qat/%s: %w", image, o.front.title, err)
	}
	if o.root, err = filepath.Abs(o.root); err != nil {
		return nil, err
	}
	for _, program := range o.front.programs {
		if _, err := os.Stat(filepath.Join(o.root, program)); err != nil {
			return nil, fmt.Errorf("-root: invalid value %q: must be the directory with %s: %w",
				o.root, program, err)
		}
	}
	if o.out == "" {
		o.out = filepath.Join(o.root, "bin", "image")
	}
	return o, nil
}

// imageName returns the name of the image as containerd prints it, with docker.io if the
// flags name no registry.
func (o *options) imageName() string {
	if rest, ok := strings.CutPrefix(o.tag.Name(), name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return o.tag.Name()
}

// build builds what the flags request and prints what it built.
func build(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "qatplugin-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	goCommand := &goCommand{dir: o.root, arch: o.arch, tags: o.tags, stderr: stderr}
	c, err := newContents(ctx, goCommand, o.front.programs, o.version, dir)
	if err != nil {
		return err
	}
	if o.rootfs != "" {
		if err := writeRootfs(o.rootfs, c.files()); err != nil {
			return fmt.Errorf("write the files of the image: %w", err)
		}
		printFiles(stdout, c.files())
		return nil
	}
	head, err := findCommit(ctx, o.root)
	if err != nil {
		return err
	}
	img, err := newImage(o, c, head)
	if err != nil {
		return fmt.Errorf("create the image: %w", err)
	}
	bom, err := newBOM(dir, c, o.version, head.time)
	if err != nil {
		return fmt.Errorf("create the SBOM: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	id, err := img.ConfigName()
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "image     %s linux/%s\ndigest    %s\nid        %s\nrevision  %s\nlicenses  %s\n\n",
		o.imageName(), o.arch, digest, id, head, c.licenses())
	fmt.Fprintf(stdout, "files written; the SBOM has %d components:\n", len(*bom.Components))
	if err := writeArchives(o, img, bom, stdout); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nfiles in the image:\n")
	printFiles(stdout, c.files())
	return nil
}

// printFiles prints the modes, sizes and paths of files.
func printFiles(w io.Writer, files []file) {
	total := 0
	for _, f := range files {
		fmt.Fprintf(w, "  %04o %9d  /%s\n", f.mode, len(f.content), f.path)
		total += len(f.content)
	}
	fmt.Fprintf(w, "       %9d  total\n", total)
}
