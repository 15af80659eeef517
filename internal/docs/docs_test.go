// SPDX-License-Identifier: Apache-2.0

// Package docs compares the documents with the project. Its tests check README.md, CONTRIBUTING.md
// and docs/*.md:
//
//   - each target of a `make …` is a target of the Makefile
//   - each file that a ```sh block names with ./, or below a directory of the project, exists
//   - each test that is named exists, and so does each target of a relative link
//   - the tables of flags, whose first heading is "flag" or "flag of the DRA driver", name each
//     flag of qat_plugin or qat_dra_driver once, with its default; flags of klog may be left out
//   - the functions in architecture.md and the names in the guide for plugin authors exist
//   - the messages in the tables whose first heading is "message" are those of the product
//   - the Go code in the guide for plugin authors is code of the examples, its commands run, and
//     its manifest is that of an example
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
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/internal/testenv"
)

const root = "../.."

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// documents returns the paths of all documents that are checked.
func documents(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(paths) < 5 {
		t.Fatalf("found only the documents %q (%v)", paths, err)
	}
	return append([]string{filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")}, paths...)
}

func pages(t *testing.T) (all []*page) {
	t.Helper()
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parse(strings.TrimPrefix(path, root+"/"), string(text)))
	}
	return all
}

func TestMakeTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := makeTargets(string(makefile))
	for _, p := range pages(t) {
		for _, m := range p.makes {
			if !slices.Contains(targets, m.name) {
				t.Errorf("%s:%d: `make %s`: no such target; there are %s",
					p.path, m.number, m.name, strings.Join(targets, ", "))
			}
		}
	}
}

// makeTargets returns the targets of a Makefile.
func makeTargets(makefile string) (targets []string) {
	rule := regexp.MustCompile(`(?m)^([a-z][-a-z0-9_ ]*):([^=]|$)`)
	for _, found := range rule.FindAllStringSubmatch(makefile, -1) {
		targets = append(targets, strings.Fields(found[1])...)
	}
	return targets
}

// directories of the project, whose files a document may name without "./".
var directories = []string{
	".ci/", "cdi/", "cmd/", "deployments/", "devtree/", "docs/", "events/", "examples/", "internal/",
	"kubeletapi/", "qat/", "test/", "tools/",
}

func TestFilesInCommandsExist(t *testing.T) {
	for _, p := range pages(t) {
		for _, line := range p.lines {
			for _, word := range line.words {
				path, ours := strings.CutPrefix(strings.Trim(word, `"'`), "./")
				ours = ours || slices.ContainsFunc(directories, func(dir string) bool {
					return strings.HasPrefix(path, dir)
				})
				if !ours || strings.HasPrefix(path, "bin/") || strings.ContainsAny(path, "*$<>{}…") {
					continue // bin/ holds what is built
				}
				if _, err := os.Stat(filepath.Join(root, strings.TrimSuffix(path, "..."))); err != nil {
					t.Errorf("%s:%d: %s does not exist", p.path, line.number, word)
				}
			}
		}
	}
}

func TestFlagTablesMatchPrograms(t *testing.T) {
	testenv.Inputs(t, root)
	for _, program := range flagHeadings {
		file := filepath.Join(t.TempDir(), program)
		build := exec.Command("go", "build", "-buildvcs=false", "-o", file, "./cmd/"+program)
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		help, err := exec.Command(file, "-h").CombinedOutput()
		if err != nil {
			t.Fatalf("%s -h: %v\n%s", program, err, help)
		}
		for _, difference := range compareFlags(program, helpFlags(string(help)), klogFlags(), pages(t)) {
			t.Error(difference)
		}
	}
}

// helpFlags returns the flags that -h lists, each with its default: "" if none is printed.
func helpFlags(help string) map[string]string {
	defaults, name := map[string]string{}, ""
	for line := range strings.Lines(help) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "  -"); ok {
			name, _, _ = strings.Cut(rest, " ")
			defaults[name] = ""
		} else if _, value, ok := strings.Cut(line, "(default "); ok && name != "" {
			defaults[name] = strings.TrimSuffix(value, ")")
		}
	}
	return defaults
}

func klogFlags() (names []string) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(set)
	set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// compareFlags returns the differences between the tables of the flags of a program and what -h
// prints. Optional flags may be missing in the tables.
func compareFlags(
	program string, help map[string]string, optional []string, all []*page,
) (differences []string) {
	named := map[string]string{} // flags in the tables, and the page of each
	for _, p := range all {
		for _, m := range p.flags[program] {
			want, known := help[m.name]
			switch {
			case !known:
				differences = append(differences, fmt.Sprintf("%s:%d: %s has no flag -%s",
					p.path, m.number, program, m.name))
			case named[m.name] != "":
				differences = append(differences, fmt.Sprintf("%s:%d: -%s is also in a table of %s",
					p.path, m.number, m.name, named[m.name]))
			case m.isDefault && !sameDefault(m.value, want):
				differences = append(differences, fmt.Sprintf("%s:%d: -%s has the default %q, not %q",
					p.path, m.number, m.name, want, m.value))
			}
			named[m.name] = p.path
		}
	}
	for name := range help {
		if named[name] == "" && !slices.Contains(optional, name) {
			differences = append(differences, fmt.Sprintf("flag -%s of %s is in no table of flags", name, program))
		}
	}
	slices.Sort(differences)
	return differences
}

// sameDefault reports whether a default in a table is the one that -h prints. Package flag prints
// no default that is the zero value, and durations in full, such as 10m0s.
func sameDefault(table, help string) bool {
	a, errA := time.ParseDuration(table)
	b, errB := time.ParseDuration(help)
	return table == help || help == "" && slices.Contains([]string{"0", "false"}, table) ||
		errA == nil && errB == nil && a == b
}

func TestParsePage(t *testing.T) {
	const text = "# Title\n" +
		"Run `make demo` or `make -j test FUZZTIME=1s`, and `maker x`.\n" +
		"```sh\n" +
		"$ make demo ARGS=-keep   # make coffee\n" +
		"# make tea\n" +
		"CI=true sudo make e2e && ./test/run.sh lint\n" +
		"```\n" +
		"```\nmake nothing\n```\n" +
		"| flag | default | what |\n|---|---|---|\n| `-dpdk-driver` | `vfio-pci` | `-no` |\n" +
		"| `-v`, `-vmodule` | none | |\n\n" +
		"| action | |\n|---|---|\n| `-other` | |\n\n" +
		"| flag of the DRA driver | |\n|---|---|\n| `-node-name` | |\n"
	want := &page{
		path: "x.md",
		lines: []shellLine{
			{4, []string{"make", "demo", "ARGS=-keep"}},
			{6, []string{"make", "e2e"}},
			{6, []string{"./test/run.sh", "lint"}},
		},
		makes: []mention{
			{number: 2, name: "demo"},
			{number: 2, name: "test"},
			{number: 4, name: "demo"},
			{number: 6, name: "e2e"},
		},
		flags: map[string][]mention{
			"qat_plugin": {
				{number: 13, name: "dpdk-driver", value: "vfio-pci", isDefault: true},
				{number: 14, name: "v"},
				{number: 14, name: "vmodule"},
			},
			"qat_dra_driver": {{number: 22, name: "node-name"}},
		},
	}
	got := parse("x.md", text)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(page{}, shellLine{}, mention{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompareFlags(t *testing.T) {
	help := helpFlags("Flags:\n  -a name\n    \twhat it does (default x)\n  -b\n    \tmore\n" +
		"  -c time\n    \ttime (default 10m0s)\n  -d\n    \tmore\n  -e\n    \tmore\n")
	tables := &page{path: "x.md", flags: map[string][]mention{
		"qat_plugin": {
			{number: 1, name: "a", value: "y", isDefault: true},
			{number: 2, name: "b", value: "false", isDefault: true},
			{number: 3, name: "c", value: "10m", isDefault: true},
			{number: 4, name: "c"},
			{number: 5, name: "other"},
		},
		"qat_dra_driver": {{number: 6, name: "d"}},
	}}
	want := []string{
		"flag -d of qat_plugin is in no table of flags",
		`x.md:1: -a has the default "x", not "y"`,
		"x.md:4: -c is also in a table of x.md",
		"x.md:5: qat_plugin has no flag -other",
	}
	if diff := cmp.Diff(want, compareFlags("qat_plugin", help, []string{"e"}, []*page{tables})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMakeTargets(t *testing.T) {
	got := makeTargets("X := 1\nY ?= make\n.PHONY: a\ndemo help: b\n\techo c: d\ntest:\n")
	if diff := cmp.Diff([]string{"demo", "help", "test"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNamedTestsExist(t *testing.T) {
	exist := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Example)[A-Za-z0-9_]*)\(`)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			exist[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(exist) < 100 {
		t.Fatalf("found only %d tests below %s", len(exist), root)
	}
	named := regexp.MustCompile("`((?:Test|Benchmark|Example)[A-Za-z0-9_]+)`")
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			if !exist[m[1]] {
				t.Errorf("%s names the test %s, which does not exist", filepath.Base(path), m[1])
			}
		}
	}
}

func TestLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`) // no colon: not to another host
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			target, anchor := path, strings.TrimPrefix(found[2], "#")
			if found[1] != "" {
				target = filepath.Join(filepath.Dir(path), found[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", path, found[1])
			} else if anchor != "" && !slices.Contains(anchors(t, target), anchor) {
				t.Errorf("%s links to %s, which has no heading #%s", path, target, anchor)
			}
		}
	}
}

// anchors returns the anchors of the headings of a document, as GitHub forms them.
func anchors(t *testing.T, path string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dropped := regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		anchor := dropped.ReplaceAllString(strings.ToLower(heading[1]), "")
		all = append(all, strings.ReplaceAll(anchor, " ", "-"))
	}
	return all
}
