// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"qatplugin/internal/testenv"
)

const (
	guide    = "docs/writing-a-plugin.md"
	draGuide = "docs/writing-a-dra-driver.md"
)

// A block is a fenced block of a Markdown file.
type block struct {
	number   int // of its first line
	language string
	text     string
}

func blocks(text string) (all []block) {
	var open *block
	for i, line := range strings.SplitAfter(text, "\n") {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &block{number: i + 2, language: fence}
		case isFence:
			all, open = append(all, *open), nil
		case open != nil:
			open.text += line
		}
	}
	return all
}

// exampleFiles returns the text of the files whose code the guide may show, by path. The tests of
// their own packages compile and run each of them, as a program, a test or a testable example.
func exampleFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{
		"examples/*/*.go", "kubeletapi/example*_test.go", "draapi/example*_test.go", "devtree/example*_test.go",
	} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no files %s (%v)", pattern, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[path] = string(text)
		}
	}
	return files
}

func TestGuidesShowCodeOfExamples(t *testing.T) {
	testenv.Inputs(t, root)
	files := exampleFiles(t)
	dirs := map[string]bool{}
	for guide, want := range map[string]struct {
		sources int    // number of files whose code is shown
		source  string // one of them
	}{
		guide:    {4, "examples/colors/main.go"},
		draGuide: {1, "draapi/example_test.go"},
	} {
		text, err := os.ReadFile(filepath.Join(root, guide))
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]bool{}
		for _, b := range blocks(string(text)) {
			if b.language != "go" {
				continue
			}
			source := sourceOf(b, files)
			if source == "" {
				t.Errorf("%s:%d: no example has this code:\n%s", guide, b.number, b.text)
			}
			shown[source] = true
		}
		if len(shown) < want.sources || !shown[filepath.Join(root, want.source)] {
			t.Fatalf("%s shows code of only %v", guide, shown)
		}
		for source := range shown {
			dirs["./"+strings.TrimPrefix(filepath.Dir(source), root+"/")] = true
		}
	}
	for dir := range dirs {
		test := exec.Command("go", "test", "-run", "^(Example|TestEachFileIsADevice)", "-v", dir)
		test.Dir = root
		out, err := test.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%s in %s: %v\n%s", test, dir, err, out)
		}
	}
}

// TestDRAGuideCommands checks that the commands of the guide are those that the test above runs.
func TestDRAGuideCommands(t *testing.T) {
	testenv.Inputs(t, root)
	text, err := os.ReadFile(filepath.Join(root, draGuide))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, b := range blocks(string(text)) {
		if b.language == "sh" {
			commands = append(commands, b.text)
		}
	}
	if diff := cmp.Diff([]string{"go test -run Example -v ./draapi\n"}, commands); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestGuideManifest checks that the guide shows the manifest of the example, and that the program
// accepts its arguments.
func TestGuideManifest(t *testing.T) {
	testenv.Inputs(t, root)
	text, err := os.ReadFile(filepath.Join(root, guide))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(root, "examples/colors/daemonset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(file), "\n") // without the line of the license
	shown := slices.DeleteFunc(blocks(string(text)), func(b block) bool { return b.language != "yaml" })
	if len(shown) != 1 {
		t.Fatalf("the guide shows %d manifests, want 1", len(shown))
	}
	if diff := cmp.Diff(want, shown[0].text); diff != "" {
		t.Errorf("the manifest of the guide (-example +guide):\n%s", diff)
	}
	var manifest struct {
		Spec struct {
			Template struct {
				Spec struct{ Containers []struct{ Args []string } }
			}
		}
	}
	if err := yaml.Unmarshal(file, &manifest); err != nil {
		t.Fatal(err)
	}
	containers := manifest.Spec.Template.Spec.Containers
	if len(containers) != 1 || len(containers[0].Args) == 0 {
		t.Fatalf("containers %v, want one with arguments", containers)
	}
	// With -h at the end, the program parses the flags before it and ends with status 0.
	args := slices.Concat([]string{"run", "-buildvcs=false", "./examples/colors"}, containers[0].Args, []string{"-h"})
	program := exec.Command("go", args...)
	program.Dir = root
	if out, err := program.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", program, err, out)
	}
}

// sourceOf returns the file that contains the lines of a block unchanged, or "".
func sourceOf(b block, files map[string]string) string {
	for path, text := range files {
		if strings.Contains("\n"+text, "\n"+b.text) {
			return path
		}
	}
	return ""
}

func TestBlocks(t *testing.T) {
	got := blocks("text\n```go\na := 1\n```\n```sh\nmake\n```\n```go\n\tb()\n```\n")
	want := []block{{3, "go", "a := 1\n"}, {6, "sh", "make\n"}, {9, "go", "\tb()\n"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	files := map[string]string{"x.go": "package x\n\n\tb()\n"}
	for text, source := range map[string]string{"a := 1\n": "", "\tb()\n": "x.go", "b()\n": ""} {
		if got := sourceOf(block{text: text}, files); got != source {
			t.Errorf("the source of %q is %q, want %q", text, got, source)
		}
	}
}

// This test runs the commands at the top of the guide in three terminals, with directories of its
// own.
func TestGuideCommands(t *testing.T) {
	testenv.Inputs(t, root)
	text, err := os.ReadFile(filepath.Join(root, guide))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "g") // a short path, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var terminals []string
	for _, b := range blocks(string(text)) {
		if b.language == "sh" {
			terminals = append(terminals, strings.ReplaceAll(b.text, "/tmp/", dir+"/"))
		}
	}
	if len(terminals) != 3 {
		t.Fatalf("the guide has %d blocks of commands, want three: kubelet, plugin, hardware", len(terminals))
	}
	kubelet := startTerminal(t, terminals[0])
	kubelet.await(t, `waiting for plugins at .*/kubelet\.sock`)
	plugin := startTerminal(t, terminals[1])
	commands := strings.Split(strings.TrimSpace(terminals[2]), "\n")
	want := []string{``, `yellow: 1  1 Healthy\n`, `yellow: 2  1 Healthy, 2 Healthy\n`, `yellow: 1  2 Healthy\n`}
	if len(commands) != len(want) {
		t.Fatalf("the third terminal has the commands %q, want %d", commands, len(want))
	}
	for i, command := range commands {
		if out, err := exec.Command("bash", "-ec", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		kubelet.await(t, want[i])
	}
	plugin.interrupt(t)
	kubelet.interrupt(t)
}

// A terminal is a shell whose commands run until they are interrupted.
type terminal struct {
	cmd   *exec.Cmd
	lines chan string // holds all output so far, when there is more
	wait  func() error
}

func startTerminal(t *testing.T, commands string) *terminal {
	t.Helper()
	output, input := io.Pipe()
	term := &terminal{cmd: exec.Command("bash", "-ec", commands), lines: make(chan string, 1)}
	term.cmd.Dir = root
	term.cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -buildvcs=false")
	term.cmd.Stdout, term.cmd.Stderr = input, input
	// One process group, as in a terminal: go run and the program that it runs.
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		var all bytes.Buffer
		buffer := make([]byte, 4096)
		for {
			n, err := output.Read(buffer)
			all.Write(buffer[:n])
			select { // drop what was not read yet: there is more now
			case <-term.lines:
			default:
			}
			term.lines <- all.String()
			if err != nil {
				return
			}
		}
	})
	term.wait = sync.OnceValue(func() error {
		err := term.cmd.Wait()
		input.Close()
		reading.Wait()
		return err
	})
	t.Cleanup(func() {
		_ = syscall.Kill(-term.cmd.Process.Pid, syscall.SIGKILL)
		_ = term.wait()
	})
	return term
}

// await waits until the output matches.
func (term *terminal) await(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // go run may have to compile
	defer cancel()
	pattern, last := regexp.MustCompile(want), ""
	for !pattern.MatchString(last) {
		select {
		case last = <-term.lines:
		case <-ctx.Done():
			t.Fatalf("no %q in the output:\n%s", want, last)
		}
	}
}

// interrupt does what Ctrl-C does.
func (term *terminal) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-term.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(20*time.Second, func() {
		_ = syscall.Kill(-term.cmd.Process.Pid, syscall.SIGKILL)
	})
	defer limit.Stop()
	// go run ends with status 1 when it is interrupted.
	if err := term.wait(); err != nil && term.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
}
