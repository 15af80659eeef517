package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An instruction is one of a Dockerfile, on one line.
type instruction struct{ name, rest string }

// dockerfile are the instructions of the project's.
func dockerfile(t *testing.T) (all []instruction) {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := ""
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if start, more := strings.CutSuffix(text, `\`); more {
			line += start
			continue
		}
		name, rest, _ := strings.Cut(line+text, " ")
		all, line = append(all, instruction{name, rest}), ""
	}
	return all
}

var label = regexp.MustCompile(`([a-z.]+)="([^"]*)"`)

func TestTheDockerfileMakesAnImageAlike(t *testing.T) {
	want, err := ociImage(t, theProduct(t)).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var got v1.Config
	var copied []string
	for _, i := range dockerfile(t) {
		switch i.name {
		case "FROM":
			got, copied = v1.Config{Labels: map[string]string{}}, nil // what the last stage says counts
		case "LABEL":
			for _, l := range label.FindAllStringSubmatch(i.rest, -1) {
				got.Labels[l[1]] = strings.ReplaceAll(l[2], "$VERSION", testVersion)
			}
		case "USER":
			got.User = i.rest
		case "ENTRYPOINT":
			if err := json.Unmarshal([]byte(i.rest), &got.Entrypoint); err != nil {
				t.Errorf("ENTRYPOINT %s: %v", i.rest, err)
			}
		case "COPY":
			copied = append(copied, i.rest)
		}
	}
	if diff := cmp.Diff(want.Config, got); diff != "" {
		t.Errorf("(-make image +Dockerfile):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"--from=build /rootfs/ /"}, copied); diff != "" {
		t.Errorf("what it copies (-want +got):\n%s", diff)
	}
}

func TestTheDockerfileHasTheGoThatTheProjectNeeds(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(text)
	if version == nil {
		t.Fatalf("go.mod names no version of Go:\n%s", text)
	}
	want := instruction{"ARG", "GO_IMAGE=docker.io/library/golang:" + string(version[1])}
	if got := dockerfile(t)[0]; got != want {
		t.Errorf("it begins with %s %s, want %s %s, for go.mod says go %s", got.name, got.rest, want.name, want.rest, version[1])
	}
}

func TestTheRootFileSystemIsThatOfTheImage(t *testing.T) {
	p := theProduct(t)
	dir := filepath.Join(t.TempDir(), "rootfs")
	var stderr strings.Builder
	args := []string{"-root", p.project, "-version", testVersion, "-rootfs", dir}
	if code := run(t.Context(), args, &strings.Builder{}, &stderr); code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr.String())
	}
	want, got := map[string]string{}, map[string]string{}
	for _, e := range entries(t, ociImage(t, p)) {
		want[filepath.Clean(e.header.Name)] = e.header.FileInfo().Mode().String() + " " + e.header.ModTime.UTC().String() + " " + string(e.content)
	}
	if err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		var text []byte
		if !info.IsDir() {
			if text, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		rel, err := filepath.Rel(dir, path)
		got[rel] = info.Mode().String() + " " + info.ModTime().UTC().String() + " " + string(text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for name := range want {
		if want[name] != got[name] {
			t.Errorf("%s differs: in the image %.60q, in the directory %.60q", name, want[name], got[name])
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d files and directories in the image, %d in the directory", len(want), len(got))
	}
	code := run(t.Context(), args, &strings.Builder{}, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), "is not empty: what is in it would get into an image") {
		t.Errorf("a second time, into a directory with files: exit status %d, %q", code, stderr.String())
	}
}
