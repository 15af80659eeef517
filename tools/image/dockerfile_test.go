// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An instruction is one of a Dockerfile, on one line.
type instruction struct{ name, args string }

// dockerfile returns the instructions of the project's Dockerfile.
func dockerfile(t *testing.T) (all []instruction) {
	t.Helper()
	line := ""
	for text := range strings.Lines(string(readFile(t, top, "Dockerfile"))) {
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		start, continues := strings.CutSuffix(text, `\`)
		line += start
		if !continues {
			name, args, _ := strings.Cut(line, " ")
			all, line = append(all, instruction{name, args}), ""
		}
	}
	return all
}

var label = regexp.MustCompile(`([a-z.]+)="([^"]*)"`)

// TestImageMatchesDockerfile compares the configurations of the images, with and without code under
// the GPL.
func TestImageMatchesDockerfile(t *testing.T) {
	for gpl, build := range map[string]map[string]func() (*product, error){"yes": withGPL, "no": withoutGPL} {
		for _, f := range fronts {
			t.Run(f.name+" GPL="+gpl, func(t *testing.T) {
				p, err := build[f.name]()
				must(t, err)
				compareWithDockerfile(t, p, gpl)
			})
		}
	}
}

func compareWithDockerfile(t *testing.T, p *product, gpl string) {
	t.Helper()
	var want v1.Config
	var copied []string
	stages := map[string]v1.Config{} // as they are after their last instruction
	stage := ""
	for _, i := range dockerfile(t) {
		switch i.name {
		case "FROM":
			words := strings.Fields(strings.NewReplacer("${GPL}", gpl, "${FRONT}", p.front.name).Replace(i.args))
			want, copied = v1.Config{Labels: map[string]string{}}, nil
			if base, ok := stages[words[0]]; ok {
				want.Labels, want.Entrypoint = maps.Clone(base.Labels), base.Entrypoint
			}
			stage = words[len(words)-1]
		case "LABEL":
			for _, l := range label.FindAllStringSubmatch(i.args, -1) {
				want.Labels[l[1]] = strings.ReplaceAll(l[2], "$VERSION", testVersion)
			}
		case "USER":
			want.User = i.args
		case "ENTRYPOINT":
			must(t, json.Unmarshal([]byte(i.args), &want.Entrypoint))
		case "COPY":
			copied = append(copied, i.args)
		}
		stages[stage] = want
	}
	got := p.config(t)
	if diff := cmp.Diff(want, got.Config); diff != "" {
		t.Errorf("(-Dockerfile +make image):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"--from=build /rootfs/ /"}, copied); diff != "" {
		t.Errorf("COPY of the last stage (-want +got):\n%s", diff)
	}
	if len(want.Labels) < 7 || want.Entrypoint == nil {
		t.Errorf("the test understands too little of the Dockerfile: %v", want)
	}
	if got.OS != "linux" || got.Architecture != "amd64" || !got.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("the image is for %s/%s, created at %v; want linux/amd64 and, without git, 1970",
			got.OS, got.Architecture, got.Created)
	}
}

func TestDockerfileHasGoVersionOfProject(t *testing.T) {
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(readFile(t, top, "go.mod"))
	if version == nil {
		t.Fatal("go.mod has no Go version")
	}
	want := instruction{"ARG", "GO_IMAGE=docker.io/library/golang:" + string(version[1])}
	if all := dockerfile(t); !slices.Contains(all, want) {
		t.Errorf("the Dockerfile lacks %v as in go.mod: %v", want, all)
	}
}
