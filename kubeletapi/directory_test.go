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

func TestDirectoryIsWaitedForAndNotMade(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(dir string) error
		dir  string // below an existing directory
	}{
		{"its parent is there", func(dir string) error { return os.Mkdir(dir, 0o755) }, "plugins"},
		{"its parents come with it", func(dir string) error { return os.MkdirAll(dir, 0o755) }, "a/b/plugins"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, h := filepath.Join(kubeletDir(t), test.dir), newHand()
			r := run(t, dir, h)
			h.set(tree(t, nil, "yellow", "1"))
			r.log.await(t, "Waiting for the kubelet's directory")
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory is there: %v", err)
			}
			if err := test.make(dir); err != nil {
				t.Fatal(err)
			}
			r.log.await(t, "Waiting for the kubelet's socket")
			waitIDs(t, startKubelet(t, dir), yellow, "1")
			if n := r.log.count("kubelet's directory"); n != 1 {
				t.Errorf("%d log lines of the missing directory, want 1:\n%s", n, r.log)
			}
		})
	}
}

func TestDirectoryRemovedAndMadeAnew(t *testing.T) {
	for _, test := range []struct {
		name   string
		up     int // how many directories above go with it
		remove func(dir string) error
	}{
		{"removed", 0, os.RemoveAll},
		{"renamed", 0, func(dir string) error { return os.Rename(dir, dir+".old") }},
		{"removed with its parent", 1, os.RemoveAll},
		{"gone with its parent's rename", 1, func(dir string) error { return os.Rename(dir, dir+".old") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, h := filepath.Join(kubeletDir(t), "a", "p"), newHand()
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, dir, h)
			now := tree(t, nil, "yellow", "0")
			h.set(now)
			top := dir
			for range test.up {
				top = filepath.Dir(top)
			}
			for i := range 10 {
				k := startKubelet(t, dir)
				id := strconv.Itoa(i)
				now = tree(t, now, "yellow", id)
				h.set(now)
				waitIDs(t, k, yellow, id)
				// Our socket may be made anew while the directory is emptied; then it is not empty, and rm fails.
				eventually(t, "directory removed", func() bool { return test.remove(top) == nil })
				if err := os.RemoveAll(top + ".old"); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				defer k.Stop() // it lives on for now, as a kubelet whose directory somebody removed does
			}
		})
	}
}

func TestWithoutAWatchTheDirectoryIsLookedAt(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
	}{
		{"no more inotify instances", unix.EMFILE},
		{"no more inotify watches", unix.ENOSPC},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, h := kubeletDir(t), newHand()
			var broken atomic.Bool
			broken.Store(true)
			k := startKubelet(t, dir)
			r := run(t, dir, h, func(c *config) {
				c.checkInterval = 5 * time.Millisecond
				c.watchDir = func(dir string) (*dirWatch, error) {
					if broken.Load() {
						return nil, test.err
					}
					return watchDir(dir)
				}
			})
			h.set(tree(t, nil, "yellow", "1"))
			waitIDs(t, k, yellow, "1")
			for range 5 {
				restart(t, k)
				waitIDs(t, k, yellow, "1")
			}
			path := filepath.Join(dir, SocketName(namespace, "yellow"))
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			eventually(t, "socket made anew", func() bool { _, err := os.Stat(path); return err == nil })
			if n := r.log.count("Cannot watch"); n != 1 {
				t.Errorf("%d log lines of the missing watch, want 1:\n%s", n, r.log)
			}
			broken.Store(false)
			r.log.await(t, "watched again")
			restart(t, k)
			waitIDs(t, k, yellow, "1")
		})
	}
}
