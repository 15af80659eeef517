package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// scratch is the directory that all tests share, for what takes long to make. TestMain makes and removes it.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "qatplugin-image-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Unsetenv("SOURCE_DATE_EPOCH") // whoever packages the project may have set it
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

// A product is what the tool made of a copy of the project.
type product struct {
	project string
	out     string
	said    string // on standard output
	oci     string // paths
	docker  string
	bom     string
}

const testVersion = "v1.2.3-test"

// made is one product for all tests: a copy of the project, so that nobody changes it meanwhile, without git.
var made = sync.OnceValues(func() (*product, error) {
	project := filepath.Join(scratch, "project")
	if err := copyProject(filepath.Join("..", ".."), project); err != nil {
		return nil, err
	}
	return makeProduct(context.Background(), project, "amd64")
})

func theProduct(t *testing.T) *product {
	t.Helper()
	p, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// makeProduct runs the tool on a project.
func makeProduct(ctx context.Context, project, arch string) (*product, error) {
	p := &product{project: project, out: filepath.Join(project, "bin", "image")}
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"-root", project, "-version", testVersion, "-arch", arch}, &stdout, &stderr); code != 0 {
		return nil, fmt.Errorf("exit status %d:\n%s", code, stderr.String())
	}
	p.said = stdout.String()
	base := filepath.Join(p.out, "intel-qat-plugin-"+arch)
	p.oci, p.docker, p.bom = base+ociEnd, base+dockerEnd, base+bomEnd
	return p, nil
}

// copyProject copies the main module, without what is not built of it.
func copyProject(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", "bin", "test", "tools"}, rel) {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
}

func TestAWrongFlagEndsItWithWhatIsAllowed(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, tt := range []struct {
		name string
		args []string
		want string // in the complaint
	}{
		{"an architecture that Go does not know", []string{"-arch", "x86_64"}, `flag -arch, value "x86_64": allowed is what Go builds for linux on: 386, amd64, arm, arm64,`},
		{"one that Go knows, but not for linux", []string{"-arch", "wasm"}, `flag -arch, value "wasm": allowed is`},
		{"a tag with a space", []string{"-version", "a b"}, `flag -version, value "a b": allowed is what can be an image's tag`},
		{"a tag that begins with a dot", []string{"-version", ".1"}, `flag -version, value ".1": allowed is`},
		{"no tag", []string{"-version", ""}, `flag -version, value "": allowed is`},
		{"a name with a tag", []string{"-image", "plugin:devel"}, `flag -image, value "plugin:devel": allowed is a name without a tag`},
		{"another directory", []string{"-root", "."}, `tools/image": allowed is the project's directory, with cmd/qat_plugin`},
		{"no flag", []string{"amd64"}, `argument "amd64": only flags are allowed`},
		{"an unknown flag", []string{"-platform", "x"}, "-platform; see -h"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr strings.Builder
			if code := run(t.Context(), append([]string{"-root", root}, tt.args...), io.Discard, &stderr); code != 2 {
				t.Errorf("exit status %d, want 2", code)
			}
			if !strings.HasPrefix(stderr.String(), "image: ") || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("it says %q, want in it %q", stderr.String(), tt.want)
			}
		})
	}
}
