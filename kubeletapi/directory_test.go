// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestManagerWaitsForDirectory(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mkdir func(dir string) error
		dir   string // below an existing directory
	}{
		{"parent exists", func(dir string) error { return os.Mkdir(dir, 0o755) }, "plugins"},
		{"parents are created, too", func(dir string) error { return os.MkdirAll(dir, 0o755) }, "a/b/plugins"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := filepath.Join(kubeletDir(t), tt.dir), newFakePlugin()
			r := run(t, dir, p)
			p.publish(tree(t, nil, "yellow", "1"))
			r.log.await(t, "Waiting for the kubelet's directory")
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory exists: %v", err)
			}
			if err := tt.mkdir(dir); err != nil {
				t.Fatal(err)
			}
			r.log.await(t, "Waiting for the kubelet's socket")
			waitIDs(t, startKubelet(t, dir), yellow, "1")
			if n := r.log.count("kubelet's directory"); n != 1 {
				t.Errorf("%d log lines about the missing directory, want 1:\n%s", n, r.log)
			}
		})
	}
}

func TestDirectoryIsRemovedAndCreatedAgain(t *testing.T) {
	rename := func(dir string) error { return os.Rename(dir, dir+".old") }
	for _, tt := range []struct {
		name      string
		ancestors int // how many directories above disappear, too
		remove    func(dir string) error
	}{
		{"removed", 0, os.RemoveAll},
		{"renamed", 0, rename},
		{"removed with parent", 1, os.RemoveAll},
		{"parent renamed", 1, rename},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := filepath.Join(kubeletDir(t), "a", "p"), newFakePlugin()
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, dir, p)
			now := tree(t, nil, "yellow", "0")
			p.publish(now)
			top := dir
			for range tt.ancestors {
				top = filepath.Dir(top)
			}
			for i := range 10 {
				k := startKubelet(t, dir)
				id := strconv.Itoa(i)
				now = tree(t, now, "yellow", id)
				p.publish(now)
				waitIDs(t, k, yellow, id)
				// The plugin may put its socket back after the files are removed and before the
				// directory is. Removing the directory then fails.
				eventually(t, "directory removed", func() bool { return tt.remove(top) == nil })
				if err := os.RemoveAll(top + ".old"); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				defer k.Stop() // a kubelet goes on without its directory
			}
		})
	}
}

func TestDirectoryIsPolledWithoutWatch(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
	}{
		{"no inotify instances left", unix.EMFILE},
		{"no inotify watches left", unix.ENOSPC},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := kubeletDir(t), newFakePlugin()
			var broken atomic.Bool
			broken.Store(true)
			k := startKubelet(t, dir)
			r := run(t, dir, p, func(c *config) {
				c.pollInterval = 5 * time.Millisecond
				c.watchDir = func(dir string) (*dirWatch, error) {
					if broken.Load() {
						return nil, tt.err
					}
					return watchDir(dir)
				}
			})
			p.publish(tree(t, nil, "yellow", "1"))
			waitIDs(t, k, yellow, "1")
			for range 5 {
				restart(t, k)
				waitIDs(t, k, yellow, "1")
			}
			path := socketOf(dir, "yellow")
			remove(t, path)
			waitReplaced(t, path, fileID{})
			if n := r.log.count("Cannot watch"); n != 1 {
				t.Errorf("%d log lines about the missing watch, want 1:\n%s", n, r.log)
			}
			broken.Store(false)
			r.log.await(t, "Watching the kubelet's directory again")
			restart(t, k)
			waitIDs(t, k, yellow, "1")
		})
	}
}

func TestPollEndsListenBackOff(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	path := socketOf(dir, "yellow")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, p, withBackOff(time.Hour, time.Hour), func(c *config) {
		c.pollInterval = 5 * time.Millisecond
		c.watchDir = func(string) (*dirWatch, error) { return nil, unix.EMFILE }
	})
	p.publish(tree(t, nil, "yellow", "1"))
	r.log.await(t, "is not a socket")
	remove(t, path)
	waitIDs(t, k, yellow, "1")
}
