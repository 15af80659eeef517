package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An entry is one of a layer.
type entry struct {
	header  *tar.Header
	content []byte
}

// entries are those of all layers of the image, in their order.
func entries(t *testing.T, img v1.Image) []entry {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all []entry
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tarEntries(t, r)...)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func tarEntries(t *testing.T, r io.Reader) (all []entry) {
	t.Helper()
	for reader := tar.NewReader(r); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{header, content})
	}
}

// theProgram is the one in the image.
func theProgram(t *testing.T, img v1.Image) []byte {
	t.Helper()
	for _, e := range entries(t, img) {
		if e.header.Name == programPath {
			return e.content
		}
	}
	t.Fatalf("the image has no %s", programPath)
	return nil
}

func TestTheConfigurationSaysWhatRunsAndUnderWhichLicences(t *testing.T) {
	config, err := ociImage(t, theProduct(t)).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	what := "Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space"
	want := v1.Config{
		Entrypoint: []string{"/usr/local/bin/qat_plugin"},
		User:       "0:0",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "intel-qat-plugin",
			"org.opencontainers.image.description": what,
			"org.opencontainers.image.licenses":    "Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only",
			"org.opencontainers.image.version":     testVersion,
			"name":                                 "intel-qat-plugin",
			"summary":                              "Event-driven Kubernetes device plugin for Intel QAT",
			"description":                          what,
		},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := config.OS + "/" + config.Architecture; got != "linux/amd64" {
		t.Errorf("it is for %s, want linux/amd64", got)
	}
	if !config.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("made at %v; without git and SOURCE_DATE_EPOCH it must be 1970", config.Created)
	}
}

func TestTheImageHoldsTheProgramAndLicencesAlone(t *testing.T) {
	img := ociImage(t, theProduct(t))
	folders := []string{"", "go/"}
	for _, m := range programModules(t, img) {
		folders = append(folders, m+"/")
	}
	files := 0
	for _, e := range entries(t, img) {
		h := e.header
		mode := int64(0o644)
		switch folder, isLicence := strings.CutPrefix(h.Name, "licenses/"); {
		case h.Typeflag == tar.TypeDir:
			mode = 0o755
		case h.Typeflag != tar.TypeReg:
			t.Errorf("%s is no file and no directory: type %c", h.Name, h.Typeflag)
		case h.Name == "usr/local/bin/qat_plugin":
			mode = 0o755
			files++
		case isLicence && licenceFile.MatchString(path.Base(h.Name)) && slices.Contains(folders, strings.TrimSuffix(folder, path.Base(h.Name))):
			files++
		default:
			t.Errorf("%s does not belong in the image", h.Name)
		}
		if h.Mode != mode || h.Uid != 0 || h.Gid != 0 || h.Uname+h.Gname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s has mode %o, user %d %q, group %d %q, time %v; want %o, 0, 0 and 1970",
				h.Name, h.Mode, h.Uid, h.Uname, h.Gid, h.Gname, h.ModTime, mode)
		}
	}
	if files < len(folders)+1 {
		t.Errorf("%d files: fewer than there are modules", files)
	}
}

func TestEachDirectoryComesBeforeWhatIsInIt(t *testing.T) {
	layers, err := ociImage(t, theProduct(t)).Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{".": true}
		for _, e := range tarEntries(t, r) {
			name := path.Clean(e.header.Name)
			if !seen[path.Dir(name)] || seen[name] {
				t.Errorf("%s is doubled or before its directory", name)
			}
			seen[name] = true
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// programModules are the others' modules that go wrote into the program.
func programModules(t *testing.T, img v1.Image) (modules []string) {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(theProgram(t, img)))
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range info.Deps {
		modules = append(modules, dep.Path)
	}
	if len(modules) < 10 || !slices.Contains(modules, "github.com/pilebones/go-udev") {
		t.Fatalf("the program's modules are %q: too few, or go-udev is not among them", modules)
	}
	return modules
}

func TestTheProgramIsStaticAndSaysItsVersion(t *testing.T) {
	text := theProgram(t, ociImage(t, theProduct(t)))
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a segment %v: it needs a loader, which the image lacks", p.Type)
		}
	}
	if f.Section(".debug_info") != nil || f.Section(".symtab") != nil {
		t.Error("the program is not stripped")
	}
	if bytes.Contains(text, []byte(scratch)) {
		t.Errorf("the program names the directory %s that it was built in", scratch)
	}
	if runtime.GOOS+"/"+runtime.GOARCH != "linux/amd64" {
		t.Log("it is not run here, on " + runtime.GOOS + "/" + runtime.GOARCH)
		return
	}
	to := filepath.Join(t.TempDir(), "qat_plugin")
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), to, "-version").CombinedOutput()
	if want := "qat_plugin " + testVersion + " go"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("qat_plugin -version: %v, %q; want it to begin with %q", err, out, want)
	}
}

func TestAnotherArchitectureBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: Go's library for it is compiled first, which takes a minute")
	}
	p, err := makeProduct(t.Context(), theProduct(t).project, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	img := ociImage(t, p)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(theProgram(t, img)))
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || f.Machine != elf.EM_AARCH64 {
		t.Errorf("the image is for %s, its program for %v; want arm64", config.Architecture, f.Machine)
	}
	if got := bomProperty(t, p, "cdx:gomod:build:env:GOARCH"); got != "arm64" {
		t.Errorf("the SBOM is for %q, want arm64", got)
	}
}
