// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A commit identifies the sources.
type commit struct {
	revision string // "" if unknown
	unknown  error  // the reason
	time     time.Time
}

func (c commit) String() string {
	if c.unknown != nil {
		return fmt.Sprintf("unknown (%v), so there is no label", c.unknown)
	}
	return c.revision
}

// findCommit returns the commit that is checked out in the project. If there is none, the
// revision is unknown, which is not an error. SOURCE_DATE_EPOCH overrides the time.
func findCommit(ctx context.Context, root string) (commit, error) {
	c, err := head(ctx, root)
	if err != nil {
		c = commit{unknown: err, time: fileTime}
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil || seconds < 0 {
			return c, fmt.Errorf("SOURCE_DATE_EPOCH: invalid value %q: must be a number of seconds since 1970",
				epoch)
		}
		c.time = time.Unix(seconds, 0).UTC()
	}
	return c, nil
}

// head returns the HEAD of the git repository in root.
func head(ctx context.Context, root string) (commit, error) {
	if up, err := git(ctx, root, "rev-parse", "--show-cdup"); err != nil {
		return commit{}, err
	} else if up != "" {
		return commit{}, errors.New("the project is a subdirectory of a git repository")
	}
	out, err := git(ctx, root, "show", "--no-patch", "--no-show-signature", "--format=%H %ct", "HEAD")
	if err != nil {
		return commit{}, err
	}
	revision, text, _ := strings.Cut(out, " ")
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return commit{}, fmt.Errorf("parse the time of the git commit: %w", err)
	}
	changes, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return commit{}, err
	}
	if changes != "" {
		revision += "-dirty" // as git describe --dirty marks it
	}
	return commit{revision: revision, time: time.Unix(seconds, 0).UTC()}, nil
}

// git runs git in root and returns its output. It accepts a checkout that belongs to
// another user, which git refuses without safe.directory.
func git(ctx context.Context, root string, args ...string) (string, error) {
	global := []string{"-c", "safe.directory=*", "--no-optional-locks", "-C", root}
	cmd := exec.CommandContext(ctx, "git", append(global, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		message, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("git %s: %s", args[0], cmp.Or(message, err.Error()))
	}
	return strings.TrimSpace(string(out)), nil
}
