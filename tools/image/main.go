// Command image makes the container image of qat_plugin without a daemon: it builds the program, gathers the licences of all that is linked
// into it, and writes the image as an OCI layout and as a docker-archive, each a tar file, with an SBOM (CycloneDX) beside them.
//
// The same sources, Go and flags give the same bytes, in whatever directory and at whatever time. The image is FROM scratch and holds
// /usr/local/bin/qat_plugin and /licenses, nothing else. With -rootfs only these files are written, into a directory: for the Dockerfile.
//
// It ends with exit status 0, with 1 when something failed, and with 2 on a wrong flag. A module whose licence is missing or not known is a
// failure: an image may not be given away without it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
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

// options are the flags' values.
type options struct {
	root      string   // the project's checkout
	out       string   // directory of the archives and the SBOM
	rootfs    string   // directory for the image's files; "": make an image
	image     string   // its name, without a tag
	version   string   // of the program, and the image's tag
	arch      string   // GOARCH
	sourceURL string   // "": not known
	tag       name.Tag // image and version
}

// tagText is what the registries' protocol allows as a tag.
var tagText = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "image:", err)
		return 2
	}
	b := &build{root: o.root, arch: o.arch, version: o.version, stderr: stderr}
	if err := b.checkArch(ctx); err != nil {
		fmt.Fprintln(stderr, "image:", err)
		return 2
	}
	if err := makeAll(ctx, o, b, stdout); err != nil {
		fmt.Fprintln(stderr, "image:", err)
		return 1
	}
	return 0
}

func parse(args []string, stdout io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.root, "root", filepath.Join("..", ".."), "`directory` of the project")
	flags.StringVar(&o.out, "out", "", "`directory` for the archives and the SBOM (default bin/image of the project)")
	flags.StringVar(&o.rootfs, "rootfs", "", "make no image, but write its files below this empty `directory`")
	flags.StringVar(&o.image, "image", title, "`name` of the image, without a tag")
	flags.StringVar(&o.version, "version", "devel", "`version` of the program; the image's tag, too")
	flags.StringVar(&o.arch, "arch", "amd64", "architecture, as `GOARCH` names it")
	flags.StringVar(&o.sourceURL, "source", "", "`URL` of the sources, for a label; those who pass the image on must offer them (GPL-3.0)")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "image makes the container image of qat_plugin, without a daemon and reproducibly.\n\nFlags:\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		fmt.Fprint(stdout, "\nThe image says that it was made at SOURCE_DATE_EPOCH (seconds since 1970), else at the time of the git commit, else in 1970.\n")
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w; see -h", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("argument %q: only flags are allowed, see -h", strings.Join(flags.Args(), " "))
	}
	if _, err := name.NewRepository(o.image); err != nil {
		return nil, fmt.Errorf("flag -image, value %q: allowed is a name without a tag, such as registry.example.com/qat/%s: %w", o.image, title, err)
	}
	if !tagText.MatchString(o.version) {
		return nil, fmt.Errorf("flag -version, value %q: allowed is what can be an image's tag: up to 128 letters, digits, '_', '.' and '-', the last two not first", o.version)
	}
	if o.tag, err = name.NewTag(o.image + ":" + o.version); err != nil {
		return nil, fmt.Errorf("flags -image and -version: %w", err)
	}
	if o.root, err = filepath.Abs(o.root); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(o.root, program)); err != nil {
		return nil, fmt.Errorf("flag -root, value %q: allowed is the project's directory, with %s: %w", o.root, program, err)
	}
	if o.out == "" {
		o.out = filepath.Join(o.root, "bin", "image")
	}
	return o, nil
}

// base begins the names of the files that are written.
func (o *options) base() string { return path.Base(o.tag.RepositoryStr()) + "-" + o.arch }

// makeAll makes what the flags ask for.
func makeAll(ctx context.Context, o *options, b *build, stdout io.Writer) error {
	dir, err := os.MkdirTemp("", "qatplugin-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := b.contents(ctx, dir)
	if err != nil {
		return err
	}
	if o.rootfs != "" {
		if err := writeTree(o.rootfs, c.files()); err != nil {
			return fmt.Errorf("write the image's files: %w", err)
		}
		return reportFiles(stdout, c.files())
	}
	commit, err := findCommit(ctx, o.root)
	if err != nil {
		return err
	}
	img, err := newImage(c, commit, o)
	if err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	bom, err := newBOM(filepath.Join(dir, filepath.Base(program)), c, o.version, commit.time)
	if err != nil {
		return fmt.Errorf("make the SBOM: %w", err)
	}
	made, err := writeAll(o, img, bom)
	if err != nil {
		return err
	}
	return report(stdout, o, img, c, commit, bom, made)
}
