// Package docs holds what the documents say against what the project does.
//
// In README.md, CONTRIBUTING.md and docs/*.md: each target in a `make …` must be one of the Makefile, each file that a ```sh block names with
// ./ or below a folder of the project must be there, and the table of qat_plugin's flags (a table whose first heading is "flag") must name
// exactly the flags of `qat_plugin -h`. Those of klog may be left out; the ones that are named must exist.
package docs

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/internal/testenv"
)

const root = "../.."

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pages(t *testing.T) (all []*page) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append([]string{filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")}, paths...) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("a document is missing: %v", err)
			continue
		}
		all = append(all, parse(strings.TrimPrefix(path, root+"/"), string(text)))
	}
	return all
}

func TestEveryMakeTargetInTheDocumentsExists(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := makeTargets(string(makefile))
	for _, p := range pages(t) {
		for _, m := range p.makes {
			if !slices.Contains(targets, m.name) {
				t.Errorf("%s:%d: `make %s`: the Makefile has no such target; it has %s", p.path, m.number, m.name, strings.Join(targets, ", "))
			}
		}
	}
}

// makeTargets are the targets of a Makefile, as they stand before a colon at the start of a line.
func makeTargets(makefile string) (targets []string) {
	rule := regexp.MustCompile(`(?m)^([a-z][-a-z0-9_ ]*):([^=]|$)`)
	for _, found := range rule.FindAllStringSubmatch(makefile, -1) {
		targets = append(targets, strings.Fields(found[1])...)
	}
	return targets
}

// folders of the project that a document may name a file of without "./".
var folders = []string{"cmd/", "deployments/", "examples/", "devtree/", "docs/", "events/", "internal/", "kubeletapi/", "qat/", "test/", "tools/", ".ci/"}

func TestEveryFileInTheDocumentsCommandsExists(t *testing.T) {
	for _, p := range pages(t) {
		for _, line := range p.lines {
			for _, word := range line.words {
				path, own := strings.CutPrefix(strings.Trim(word, `"'`), "./")
				own = own || slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(path, folder) })
				if !own || strings.HasPrefix(path, "bin/") || strings.ContainsAny(path, "*$<>{}…") {
					continue // bin/ is built
				}
				if _, err := os.Stat(filepath.Join(root, strings.TrimSuffix(path, "..."))); err != nil {
					t.Errorf("%s:%d: %s is not there", p.path, line.number, word)
				}
			}
		}
	}
}

func TestTheTableOfFlagsIsThatOfThePlugin(t *testing.T) {
	testenv.Inputs(t, root)
	program := filepath.Join(t.TempDir(), "qat_plugin")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./cmd/qat_plugin")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	help, err := exec.Command(program, "-h").CombinedOutput()
	if err != nil {
		t.Fatalf("qat_plugin -h: %v\n%s", err, help)
	}
	for _, complaint := range compareFlags(helpFlags(string(help)), klogFlags(), pages(t)) {
		t.Error(complaint)
	}
}

// helpFlags are the flags in the text that package flag prints.
func helpFlags(help string) (names []string) {
	for _, found := range regexp.MustCompile(`(?m)^  -([^\s]+)`).FindAllStringSubmatch(help, -1) {
		names = append(names, found[1])
	}
	return names
}

func klogFlags() (names []string) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(set)
	set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// compareFlags lists where the documents' tables and the plugin's own words differ; optional flags need not be in a table.
func compareFlags(help, optional []string, all []*page) (complaints []string) {
	tables, named := 0, map[string]bool{}
	for _, p := range all {
		tables += p.tables
		for _, m := range p.flags {
			named[m.name] = true
			if !slices.Contains(help, m.name) {
				complaints = append(complaints, fmt.Sprintf("%s:%d: flag -%s: qat_plugin -h does not know it", p.path, m.number, m.name))
			}
		}
	}
	if tables == 0 {
		return append(complaints, `README.md has no table of flags: a Markdown table whose first heading is "flag", with the names as `+"`-name`")
	}
	for _, name := range help {
		if !named[name] && !slices.Contains(optional, name) {
			complaints = append(complaints, fmt.Sprintf("flag -%s of qat_plugin is in no table of flags", name))
		}
	}
	return complaints
}

func TestWhatADocumentSaysIsFound(t *testing.T) {
	const text = "# Title\n" +
		"Run `make demo` or `make -j test FUZZTIME=1s`, and `maker x`.\n" +
		"```sh\n" +
		"$ make demo ARGS=-keep   # make coffee\n" +
		"# make tea\n" +
		"CI=true sudo make e2e && ./test/run.sh lint\n" +
		"```\n" +
		"```\nmake nothing\n```\n" +
		"| flag | what |\n|---|---|\n| `-dpdk-driver` | `-no` |\n| `-v`, `-vmodule` | |\n\n" +
		"| action | |\n|---|---|\n| `-other` | |\n"
	want := &page{
		path: "x.md",
		lines: []shellLine{
			{4, []string{"make", "demo", "ARGS=-keep"}}, {6, []string{"make", "e2e"}}, {6, []string{"./test/run.sh", "lint"}},
		},
		makes:  []mention{{2, "demo"}, {2, "test"}, {4, "demo"}, {6, "e2e"}},
		flags:  []mention{{13, "dpdk-driver"}, {14, "v"}, {14, "vmodule"}},
		tables: 1,
	}
	got := parse("x.md", text)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(page{}, shellLine{}, mention{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	complaints := compareFlags([]string{"dpdk-driver", "v", "sysfs-root"}, []string{"v"}, []*page{got})
	if diff := cmp.Diff([]string{"x.md:14: flag -vmodule: qat_plugin -h does not know it", "flag -sysfs-root of qat_plugin is in no table of flags"}, complaints); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"demo", "help", "test"}, makeTargets("X := 1\nY ?= make\n.PHONY: a\ndemo help: b\n\techo c: d\ntest:\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A document that says that a test shows something must name a test that is there.
func TestEveryTestThatTheDocumentsNameExists(t *testing.T) {
	named := regexp.MustCompile("`((?:Test|Benchmark|Example)[A-Za-z0-9_]+)`")
	have := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Example)[A-Za-z0-9_]*)\(`)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			have[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(have) < 100 {
		t.Fatalf("only %d tests were found: this test looks in the wrong place", len(have))
	}
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			if !have[m[1]] {
				t.Errorf("%s names %s, and there is no such test", filepath.Base(path), m[1])
			}
		}
	}
}
