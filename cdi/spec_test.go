// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"

	"qatplugin/devtree"
)

// claimSpec returns the spec of a claim with one device. Its annotation contains characters that
// are special in YAML.
func claimSpec() *Spec {
	return &Spec{
		Kind:        vendor + "/claim",
		Annotations: map[string]string{vendor + "/claim": "{\"name\":\"a:\u0085 \ufeff#b\"}"},
		Devices: []SpecDevice{{Name: "uid-1", Edits: devtree.ContainerEdits{
			Env:    map[string]string{"COLOR": "yellow: #1"},
			Mounts: []devtree.Mount{{HostPath: "/a", ContainerPath: "/b", ReadOnly: true}},
		}}},
	}
}

func TestRuntimeInjectsWhatASpecContains(t *testing.T) {
	dir := t.TempDir()
	if err := claimSpec().Write(filepath.Join(dir, "claim.json")); err != nil {
		t.Fatal(err)
	}
	container := &oci.Spec{}
	unresolved, err := openRuntime(t, dir).InjectDevices(container, vendor+"/claim=uid-1")
	if err != nil || len(unresolved) > 0 {
		t.Fatalf("unresolved devices %q: %v", unresolved, err)
	}
	if diff := cmp.Diff([]string{"COLOR=yellow: #1"}, container.Process.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	want := []oci.Mount{{Source: "/a", Destination: "/b", Options: []string{"rbind", "rprivate", "ro"}}}
	if diff := cmp.Diff(want, container.Mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestSpecIsReadAsWritten(t *testing.T) {
	path, want := filepath.Join(t.TempDir(), "claim.json"), claimSpec()
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSpec(path)
	if err != nil {
		t.Fatal(err)
	}
	want.Devices[0].Edits = devtree.ContainerEdits{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := RemoveSpec(path); err != nil {
		t.Error(err)
	}
	if _, err := ReadSpec(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read after the removal: %v", err)
	}
	if err := RemoveSpec(path); err != nil {
		t.Errorf("remove a missing file: %v", err)
	}
}

func TestSpecThatCDIDoesNotAllowIsNotWritten(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(*Spec)
	}{
		{"vendor", `CDI kind "1/claim": `, func(s *Spec) { s.Kind = "1/claim" }},
		{"class", `CDI kind "a/b c": `, func(s *Spec) { s.Kind = "a/b c" }},
		{"no class", `CDI kind "a": `, func(s *Spec) { s.Kind = "a" }},
		{"device", `CDI device name "a/b": `, func(s *Spec) { s.Devices[0].Name = "a/b" }},
		{"no edits", `CDI device "uid-1" has no device node`, func(s *Spec) {
			s.Devices[0].Edits = devtree.ContainerEdits{Annotations: map[string]string{"a": "b"}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, s := filepath.Join(t.TempDir(), "claim.json"), claimSpec()
			tt.change(s)
			if err := s.Write(path); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %v, want %s…", err, tt.want)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file: %v", err)
			}
		})
	}
}

func TestAbandonedTemporaryFilesOfAPrefixAreRemoved(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{
		".a-claim-1.json.123.tmp": 2 * time.Minute,
		".a-claim-2.json.123.tmp": 0, // another process may be writing it
		".b-claim-3.json.123.tmp": 2 * time.Minute,
		".a-claim-4.txt":          2 * time.Minute,
		"a-claim-5.json":          2 * time.Minute,
	} {
		path := filepath.Join(dir, name)
		writeFile(t, path, "x")
		if at := time.Now().Add(-age); age > 0 {
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	RemoveAbandoned(dir, "a-claim-")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := []string{".a-claim-2.json.123.tmp", ".a-claim-4.txt", ".b-claim-3.json.123.tmp", "a-claim-5.json"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
