// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/dirwatch"
	"qatplugin/internal/testenv"
	"qatplugin/internal/unixsocket"
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
				c.watchDir = func(dir string) (*dirwatch.Watch, error) {
					if broken.Load() {
						return nil, tt.err
					}
					return dirwatch.New(dir)
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
			waitReplaced(t, path, unixsocket.FileID{})
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
		c.watchDir = func(string) (*dirwatch.Watch, error) { return nil, unix.EMFILE }
	})
	p.publish(tree(t, nil, "yellow", "1"))
	r.log.await(t, "is not a socket")
	remove(t, path)
	waitIDs(t, k, yellow, "1")
}

// TestReplacedDirectoryIsFound checks that the kubelet is found when the path of its directory
// leads to another directory, even without an inotify event.
func TestReplacedDirectoryIsFound(t *testing.T) {
	for _, tt := range []struct {
		name     string
		dir      string // below base; link/ leads to one/
		exchange func(base string) error
	}{
		{"link to the directory", "link", func(base string) error {
			return errors.Join(os.Symlink("two", base+"/new"), os.Rename(base+"/new", base+"/link"))
		}},
		{"link above the directory", "link/plugins", func(base string) error {
			return errors.Join(os.Symlink("two", base+"/new"), os.Rename(base+"/new", base+"/link"))
		}},
		{"target of the link is removed and created", "link", func(base string) error {
			for os.RemoveAll(base+"/one") != nil { // the plugin may put its socket back meanwhile
			}
			return os.MkdirAll(base+"/one", 0o755)
		}},
		{"target of a link above is renamed", "link/plugins", func(base string) error {
			return errors.Join(os.Rename(base+"/one", base+"/old"), os.Rename(base+"/two", base+"/one"))
		}},
		{"grandparent is renamed", "a/b/c", func(base string) error {
			return errors.Join(os.Rename(base+"/a", base+"/old"), os.MkdirAll(base+"/a/b/c", 0o755))
		}},
		{"mounted over", "one/plugins", func(base string) error {
			return unix.Mount(base+"/two/plugins", base+"/one/plugins", "", unix.MS_BIND, "")
		}},
		{"unmounted", "one/plugins", func(base string) error {
			return unix.Unmount(base+"/one/plugins", unix.MNT_DETACH)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.name, "mount") && !testenv.InNamespaces(t, unix.CLONE_NEWNS) {
				return
			}
			base := filepath.Dir(kubeletDir(t))
			for _, dir := range []string{"one/plugins", "two/plugins", "a/b/c"} {
				if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink("one", base+"/link"); err != nil {
				t.Fatal(err)
			}
			if tt.name == "unmounted" {
				if err := unix.Mount(base+"/two/plugins", base+"/one/plugins", "", unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
			}
			dir, p := filepath.Join(base, tt.dir), newFakePlugin()
			old := startKubelet(t, dir)
			run(t, dir, p, func(c *config) { c.compareInterval = 10 * time.Millisecond })
			p.publish(tree(t, nil, "yellow", "1"))
			waitIDs(t, old, yellow, "1")
			if err := tt.exchange(base); err != nil {
				t.Fatal(err)
			}
			k := startKubelet(t, dir)
			waitIDs(t, k, yellow, "1")
			restart(t, k) // the new directory is watched
			waitIDs(t, k, yellow, "1")
		})
	}
}

// TestRegisteredManagerOnlyComparesTheDirectory checks that the comparison of the directory is the
// only timer of a Manager that has nothing else to do, and that it keeps the watch of a directory
// that did not change.
func TestRegisteredManagerOnlyComparesTheDirectory(t *testing.T) {
	dir := kubeletDir(t)
	k := startKubelet(t, dir)
	r, m, _ := newTestReconciler(t, dir)
	m.publish(tree(t, nil, "yellow", "1"))
	r.reconcile(t.Context(), true)
	watch := r.watch
	waitIDs(t, k, yellow, "1")
	onlyCompares := func() bool { return r.reconcile(t.Context(), false).Equal(r.compareAt) }
	eventually(t, "no other deadline", onlyCompares)
	k.Stop()
	eventually(t, "no other deadline without a kubelet", onlyCompares)
	if pause := time.Until(r.compareAt); pause < 8*time.Second || pause > 10*time.Second {
		t.Errorf("the next comparison is due in %v, want 10s after the first", pause)
	}
	r.compareAt = time.Now()
	r.reconcile(t.Context(), false)
	if pause := time.Until(r.compareAt); pause < 8*time.Second || r.watch != watch {
		t.Errorf("after a comparison: the next one in %v, watch replaced: %t", pause, r.watch != watch)
	}
}
