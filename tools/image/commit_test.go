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

// checkout is a git repository with one commit, at a known time.
func checkout(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("in CI this test must run, but git is missing")
		}
		t.Skip("git is missing")
	}
	for _, name := range []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"} { // as where a git hook runs the tests
		if value, set := os.LookupEnv(name); set {
			t.Setenv(name, value) // which puts it back in the end
			_ = os.Unsetenv(name)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_COMMITTER_DATE", "1700000000 +0100")
	commit := []string{"-c", "user.name=a", "-c", "user.email=b", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "first"}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, commit} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	return dir
}

// at is what findCommit says of a directory.
func at(t *testing.T, dir string) *commit {
	t.Helper()
	c, err := findCommit(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestACheckoutGivesItsRevisionAndTime(t *testing.T) {
	dir := checkout(t)
	out, err := exec.CommandContext(t.Context(), "git", "-C", dir, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	head := strings.TrimSpace(string(out))
	want := commit{revision: head, time: time.Unix(1700000000, 0).UTC()}
	if diff := cmp.Diff(want, *at(t, dir), cmp.AllowUnexported(commit{})); diff != "" {
		t.Errorf("clean (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "new.go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := at(t, dir).revision; got != head+"-dirty" {
		t.Errorf("with a new file the revision is %s, want %s-dirty", got, head)
	}
}

func TestWhatIsNoCheckoutOfItsOwnHasNoRevision(t *testing.T) {
	for name, dir := range map[string]string{"a part of another's": filepath.Join(checkout(t), "sub"), "no checkout": t.TempDir()} {
		c := at(t, dir)
		if c.revision != "" || c.unknown == "" || !c.time.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: revision %q, because %q, time %v; want none, with a reason, in 1970", name, c.revision, c.unknown, c.time)
		}
	}
}

func TestSourceDateEpochIsTheTime(t *testing.T) {
	dir := checkout(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1600000000")
	if got := at(t, dir).time; !got.Equal(time.Unix(1600000000, 0)) {
		t.Errorf("time %v, want 1600000000 seconds since 1970", got)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	want := `SOURCE_DATE_EPOCH, value "yesterday": allowed is a number of seconds`
	if _, err := findCommit(t.Context(), dir); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want in it %q", err, want)
	}
}

func TestRevisionAndSourceAreLabels(t *testing.T) {
	o, err := parse([]string{"-root", filepath.Join("..", ".."), "-source", "https://example.com/plugin"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := labels("MIT", &commit{revision: "abc"}, o)
	if l["org.opencontainers.image.revision"] != "abc" || l["org.opencontainers.image.source"] != "https://example.com/plugin" {
		t.Errorf("the labels are %v", l)
	}
}
