package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A commit is what the sources are said to be.
type commit struct {
	revision string // "": not known
	unknown  string // why
	time     time.Time
}

// findCommit asks git. Where the project is no checkout of its own, or git is not there, the revision stays unknown, which is no error.
func findCommit(ctx context.Context, root string) (*commit, error) {
	c, err := askGit(ctx, root)
	if err != nil {
		return nil, err
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil || seconds < 0 {
			return nil, fmt.Errorf("environment variable SOURCE_DATE_EPOCH, value %q: allowed is a number of seconds since 1970", epoch)
		}
		c.time = time.Unix(seconds, 0).UTC()
	}
	return c, nil
}

func askGit(ctx context.Context, root string) (*commit, error) {
	unknown := &commit{time: fileTime}
	above, err := git(ctx, root, "rev-parse", "--show-cdup")
	switch {
	case err != nil:
		unknown.unknown = err.Error()
		return unknown, nil
	case above != "":
		unknown.unknown = "the project is only a part of a git checkout"
		return unknown, nil
	}
	head, err := git(ctx, root, "show", "--no-patch", "--no-show-signature", "--format=%H %ct", "HEAD")
	if err != nil {
		unknown.unknown = err.Error()
		return unknown, nil
	}
	revision, seconds, _ := strings.Cut(head, " ")
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read the time of the git commit: %w", err)
	}
	changes, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return nil, err
	}
	if changes != "" {
		revision += "-dirty" // as `git describe --dirty` says it: the sources are not those of the commit
	}
	return &commit{revision: revision, time: time.Unix(at, 0).UTC()}, nil
}

// git returns what git says. safe.directory: in a checkout of another user it would refuse to answer.
func git(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "--no-optional-locks", "-C", root}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		if said == "" {
			said = err.Error()
		}
		return "", fmt.Errorf("git %s: %s", args[0], said)
	}
	return strings.TrimSpace(string(out)), nil
}
