// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// newRepository creates a git repository with one commit, made at 1700000000 seconds
// since 1970.
func newRepository(t *testing.T) (dir, revision string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("git is missing; this test must not be skipped in CI")
		}
		t.Skip("git is missing")
	}
	// These are set if a git hook runs the tests.
	for _, name := range []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"} {
		if value, set := os.LookupEnv(name); set {
			t.Setenv(name, value) // which restores it in the end
			_ = os.Unsetenv(name)
		}
	}
	t.Setenv("GIT_COMMITTER_DATE", "1700000000 +0100")
	dir = t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("text"), 0o644))
	identity := "-c user.name=a -c user.email=b -c commit.gpgsign=false "
	for _, args := range []string{"init -q", "add .", identity + "commit -q -m first", "rev-parse HEAD"} {
		cmd := exec.CommandContext(t.Context(), "git", strings.Fields(args)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
		revision = strings.TrimSpace(string(out))
	}
	return dir, revision
}

func mustFindCommit(t *testing.T, dir string) commit {
	t.Helper()
	c, err := findCommit(t.Context(), dir)
	must(t, err)
	return c
}

func TestFindCommit(t *testing.T) {
	dir, revision := newRepository(t)
	want := commit{revision: revision, time: time.Unix(1700000000, 0).UTC()}
	if diff := cmp.Diff(want, mustFindCommit(t, dir), cmp.AllowUnexported(commit{})); diff != "" {
		t.Errorf("clean repository (-want +got):\n%s", diff)
	}
	must(t, os.WriteFile(filepath.Join(dir, "new.go"), nil, 0o644))
	if got := mustFindCommit(t, dir).String(); got != revision+"-dirty" {
		t.Errorf("with a new file the revision is %s, want %s-dirty", got, revision)
	}
}

func TestRevisionIsUnknownWithoutRepositoryOfItsOwn(t *testing.T) {
	repository, _ := newRepository(t)
	for name, dir := range map[string]string{
		"subdirectory of a repository": filepath.Join(repository, "sub"),
		"no repository":                t.TempDir(),
	} {
		c := mustFindCommit(t, dir)
		if c.revision != "" || c.unknown == nil || !c.time.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: revision %q, error %v, time %v; want no revision, an error and 1970",
				name, c.revision, c.unknown, c.time)
		}
	}
}

func TestSourceDateEpoch(t *testing.T) {
	dir, _ := newRepository(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1600000000")
	if got := mustFindCommit(t, dir).time; !got.Equal(time.Unix(1600000000, 0)) {
		t.Errorf("time %v, want 1600000000 seconds since 1970", got)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	_, err := findCommit(t.Context(), dir)
	wantError(t, err, `SOURCE_DATE_EPOCH: invalid value "yesterday": must be a number of seconds`)
}
