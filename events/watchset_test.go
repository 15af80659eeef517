// SPDX-License-Identifier: Apache-2.0

package events

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qatplugin/internal/testenv"
)

func TestMissingDirectoryIsWatchedOnceCreated(t *testing.T) {
	f := startFixture(t)
	f.watch("a/b/c")
	f.wantWatches(".")
	f.mkdir("unrelated")
	f.mkdir("a")
	f.wantEvents() // neither is a watched directory or an entry of one
	f.wantWatches("a")
	f.mkdir("a/b")
	f.wantEvents()
	f.wantWatches("a/b")
	f.mkdir("a/b/c")
	f.wait(Create, "a/b/c")
	f.wantEvents(observed{Create, "a/b/c"})
	f.wantWatches("a/b/c")
	f.touch("a/b/c/x")
	f.wantEvents(observed{Create, "a/b/c/x"})
}

func TestNestedDirectoriesCreatedAtOnce(t *testing.T) {
	f := startFixture(t)
	f.watch("a/b/c/d/e/f")
	for range 200 {
		f.mkdir("a/b/c/d/e/f")
		f.wait(Create, "a/b/c/d/e/f")
		f.wantWatches("a/b/c/d/e/f")
		f.reset()
		f.remove("a")
		f.wait(Delete, "a/b/c/d/e/f")
		f.wantWatches(".")
		f.reset()
	}
}

func TestRecreatedDirectoryIsWatched(t *testing.T) {
	for _, parent := range []bool{false, true} {
		t.Run(fmt.Sprint("watched parent: ", parent), func(t *testing.T) {
			f := startFixture(t)
			f.mkdir("d/dev")
			if parent {
				f.watch("d")
			}
			f.watch("d/dev")
			for round := range 100 {
				f.remove("d/dev")
				f.mkdir("d/dev")
				f.wait(Create, "d/dev") // Delete may be missing, as it exists again
				f.reset()
				f.touch("d/dev/x")
				f.wait(Create, "d/dev/x")
				if round%2 == 0 {
					f.reset()
				}
			}
			f.reset()
			f.remove("d/dev")
			f.wait(Delete, "d/dev")
			f.r.wantResyncs(t, 0)
		})
	}
}

func TestDirectoryRenamedAwayAndBack(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	f.rename("d", "e")
	f.wantEvents(observed{Delete, "d/sub"}, observed{Delete, "d"})
	f.wantWatches(".")
	f.touch("e/x")
	f.wantEvents()
	f.rename("e", "d")
	f.wantEvents(observed{Create, "d/sub"}, observed{Create, "d"})
	f.wantWatches("d", "d/sub")
	f.touch("d/sub/y")
	f.wantEvents(observed{Create, "d/sub/y"})
}

func TestDirectoryRenamedToAnotherWatchedPath(t *testing.T) {
	f := startFixture(t)
	f.mkdir("a")
	f.watch("a")
	f.watch("b")
	for range 50 {
		f.rename("a", "b")
		f.wait(Create, "b")
		f.wait(Delete, "a")
		f.reset()
		f.touch("b/x")
		f.wantEvents(observed{Create, "b/x"})
		f.remove("b/x")
		f.rename("b", "a")
		f.reset()
		f.touch("a/x")
		f.wantEvents(observed{Create, "a/x"})
		f.remove("a/x")
		f.reset()
	}
}

// fsnotify knows a renamed directory by its old path until it reads the event, and then
// drops the watch.
func TestRenamedDirectoryIsWatchedBeforeItsEventIsRead(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.mkdir("a")
	f.watch("a")
	f.touch("barrier/first") // fsnotify blocks on this event until Run is called
	f.rename("a", "b")
	f.watch("b")
	f.start()
	f.reset()
	f.touch("b/x")
	f.wantEvents(observed{Create, "b/x"})
	f.wantWatches(".", "b")
	f.mkdir("a")
	f.wantEvents(observed{Create, "a"})
}

func TestRenamedAndReplacedDirectoryIsWatchedBeforeItsEventIsRead(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.mkdir("a")
	f.watch("a")
	f.touch("barrier/first") // as above
	f.rename("a", "b")
	f.mkdir("a")
	f.watch("b")
	f.start()
	f.wantWatches("a", "b")
	f.reset()
	f.touch("a/x")
	f.touch("b/x")
	f.wantEvents(observed{Create, "a/x"}, observed{Create, "b/x"})
}

func TestFileReplacesDirectory(t *testing.T) {
	f := startFixture(t)
	f.touch("d")
	f.watch("d/sub")
	f.wantWatches(".")
	f.remove("d")
	f.mkdir("d/sub")
	f.wait(Create, "d/sub")
	f.wantWatches("d/sub")
	f.remove("d")
	f.touch("d")
	f.wait(Delete, "d/sub")
	f.wantWatches(".")
}

func TestDirectoriesShareWatches(t *testing.T) {
	f := startFixture(t)
	nodes := f.nodes()
	f.watch("a/b")
	f.watch("a/c")
	f.watch("x")
	f.wantWatches(".")
	f.mkdir("a")
	f.wantWatches(".", "a")
	f.unwatch("x")
	f.wantWatches("a")
	f.unwatch("a/b")
	f.wantWatches("a")
	f.unwatch("a/c")
	f.wantWatches()
	f.unwatch("a/c")
	f.unwatch("never")
	if got := f.nodes(); got != nodes {
		t.Errorf("%d nodes are left, want %d", got, nodes)
	}
}

func TestUnwatchKeepsSharedWatches(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d") // no second Unwatch is needed
	f.watch("d/sub")
	f.unwatch("d")
	f.wantWatches("d/sub")
	f.remove("d/sub")
	f.wantWatches("d") // until sub is created again
	f.mkdir("d/sub")
	f.wait(Create, "d/sub")
	f.unwatch("d/sub")
	f.wantWatches()
}

// fsnotify does not report that a watched directory was removed if its parent is watched,
// too. The first removal makes the Watcher watch the parent.
func TestRemovedSiblingsAreAllReported(t *testing.T) {
	for range 10 {
		f := startFixture(t)
		const siblings = 50
		name := func(i int) string { return fmt.Sprint("d/", i) }
		recreated := func(i int) bool { return i%3 == 0 }
		for i := range siblings {
			f.mkdir(name(i))
			f.watch(name(i))
		}
		for i := range siblings {
			f.remove(name(i))
			if recreated(i) {
				f.mkdir(name(i))
			}
		}
		for i := range siblings {
			if recreated(i) {
				f.wait(Create, name(i))
			} else {
				f.wait(Delete, name(i))
			}
		}
		f.reset()
		for i := range siblings {
			f.mkdir(name(i) + "/x")
			if recreated(i) {
				f.wait(Create, name(i)+"/x")
			} else {
				f.wait(Create, name(i))
			}
		}
	}
}

func TestSecondPathOfDirectoryIsAnError(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d")
	must(t, os.Symlink("d", f.path("link")))
	f.watch("d")
	if err := f.w.Watch(f.path("link")); err == nil {
		t.Error("the second path was accepted")
	}
	if f.w.Err() == nil {
		t.Error("Err does not report the second path")
	}
	f.touch("d/x")
	f.wait(Create, "d/x")
	f.unwatch("link")
	must(t, f.w.Err())
}

func TestErrReportsFirstDirectory(t *testing.T) {
	f := newFixture(t, t.TempDir())
	var dirs []string
	for _, letter := range []string{"c", "b", "d"} {
		dir := f.path(strings.Repeat(letter, 300))
		dirs = append(dirs, dir)
		if err := f.w.Watch(dir); !errors.Is(err, unix.ENAMETOOLONG) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Watch: %v, want ENAMETOOLONG and the path", err)
		}
	}
	message := fmt.Sprint(f.w.Err())
	if !strings.HasPrefix(message, "3 directories") || !strings.Contains(message, dirs[1]) {
		t.Errorf("Err: %v, want the number 3 and the path with b", message)
	}
	f.w.Unwatch(dirs[1])
	f.w.Unwatch(dirs[2])
	if err := f.w.Err(); !errors.Is(err, unix.ENAMETOOLONG) || !strings.HasPrefix(err.Error(), "watch ") {
		t.Errorf("Err: %v, want only the reason for the last directory", err)
	}
	f.w.Unwatch(dirs[0])
	must(t, f.w.Err())
}

func TestWatchLimit(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	const limit = "/proc/sys/user/max_inotify_watches"
	if err := os.WriteFile(limit, []byte("4"), 0); err != nil {
		testenv.Skip(t, "this kernel has no watch limit per user namespace: "+err.Error())
	}
	f := startFixture(t) // uses one watch
	name := func(i int) string { return fmt.Sprint("d", i) }
	for i := range 6 {
		f.mkdir(name(i))
		err := f.w.Watch(f.path(name(i)))
		if i < 3 {
			must(t, err)
		} else if !errors.Is(err, ErrWatchLimit) || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("directory %d: %v, want ErrWatchLimit and ENOSPC", i, err)
		}
	}
	if err := f.w.Err(); !errors.Is(err, ErrWatchLimit) {
		t.Errorf("Err: %v, want ErrWatchLimit", err)
	}
	f.touch("d4/unwatched")
	f.wantEvents()
	f.unwatch("d0") // releases a watch, without an event of inotify
	f.r.wait(t, "Create of another directory", func(events []observed, _ []string) bool {
		return len(events) > 0
	})
	if got := f.sync(); len(got) != 1 || got[0].Action != Create {
		t.Fatalf("got %v, want one Create", got)
	}
	f.reset()
	f.remove("d1") // releases another one, which the parent needs until d1 is back
	f.wait(Delete, "d1")
	f.reset()
	must(t, os.WriteFile(limit, []byte("100"), 0))
	f.watch("d1") // each Watch tries the others again
	must(t, f.w.Err())
	f.mkdir("d1")
	f.wait(Create, "d1")
	f.reset()
	for i := 1; i < 6; i++ {
		f.touch(name(i) + "/x")
		f.wait(Create, name(i)+"/x")
	}
}

// limitedWatches sets no watch while full is set.
type limitedWatches struct {
	inotifyWatches
	full *atomic.Bool
}

func (w limitedWatches) Add(path string) error {
	if w.full.Load() {
		return unix.ENOSPC
	}
	return w.inotifyWatches.Add(path)
}

func newLimitedFixture(t *testing.T) (*fixture, *atomic.Bool) {
	t.Helper()
	inotify, err := fsnotify.NewWatcher()
	must(t, err)
	full := new(atomic.Bool)
	return newFixtureOf(t, t.TempDir(), newWatcher(inotify, limitedWatches{inotify, full})), full
}

func TestWatchFailureOutsideOfWatchCausesOneResync(t *testing.T) {
	for name, tt := range map[string]struct {
		wanted string
		create string // a directory that then needs a watch
		then   string // causes no event without that watch
	}{
		"wanted directory":               {"d", "d", "d/x"},
		"entry of a wanted directory":    {"barrier/d", "barrier/d", "barrier/d/x"},
		"ancestor of a wanted directory": {"a/b/c", "a", "a/x"},
	} {
		t.Run(name, func(t *testing.T) {
			f, full := newLimitedFixture(t)
			f.watch(tt.wanted)
			f.watch("missing") // keeps the parent's watch in use
			f.start()
			full.Store(true)
			f.mkdir(tt.create)
			f.r.waitForResyncs(t, 1)
			if err := f.w.Err(); !errors.Is(err, ErrWatchLimit) {
				t.Errorf("Err: %v, want ErrWatchLimit", err)
			}
			f.reset()
			f.mkdir(tt.then)
			f.unwatch("missing") // tries the others again
			f.wantEvents()
			f.r.wantResyncs(t, 1)

			full.Store(false)
			f.watch("missing")
			must(t, f.w.Err())
			f.mkdir(tt.wanted)
			f.wait(Create, tt.wanted)
		})
	}
}

func TestWatchFailureReturnedToCallerCausesNoResync(t *testing.T) {
	f, full := newLimitedFixture(t)
	f.start()
	f.mkdir("d")
	full.Store(true)
	for range 2 {
		if err := f.w.Watch(f.path("d")); !errors.Is(err, ErrWatchLimit) {
			t.Fatalf("Watch: %v, want ErrWatchLimit", err)
		}
	}
	f.wantEvents()
	f.r.wantResyncs(t, 0)
}

func TestRewatchCausesResyncWhenDirectoryBelowCannotBeWatched(t *testing.T) {
	f, full := newLimitedFixture(t)
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	f.start()
	full.Store(true)
	if err := f.w.Rewatch(f.path("d")); !errors.Is(err, ErrWatchLimit) {
		t.Fatalf("Rewatch: %v, want ErrWatchLimit", err)
	}
	f.r.waitForResyncs(t, 1)
	f.wantEvents()
}

// The path stays unreadable, so a Resync at each attempt would never end.
func TestUnreadablePathCausesOneResync(t *testing.T) {
	f := newFixture(t, t.TempDir())
	long := f.path(strings.Repeat("a", 300))
	if err := f.w.Watch(long); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Fatalf("Watch: %v, want ENAMETOOLONG", err)
	}
	f.failReads(1, fsnotify.ErrEventOverflow) // makes the Watcher read everything again
	must(t, f.w.handleWake(f.r))
	f.r.wantResyncs(t, 1)
	f.rewatch("barrier")
	must(t, f.w.handleWake(f.r))
	f.r.wantResyncs(t, 1)
}

// hookedWatches calls a hook before each watch is set.
type hookedWatches struct {
	inotifyWatches
	beforeAdd func()
}

func (h hookedWatches) Add(path string) error {
	h.beforeAdd()
	return h.inotifyWatches.Add(path)
}

func TestDirectoryChangesWhileItsWatchIsSet(t *testing.T) {
	for name, tt := range map[string]struct {
		before, change func(f *fixture)
		want           []string
	}{
		"replaced": {
			before: func(f *fixture) { f.mkdir("d"); f.mkdir("new") },
			change: func(f *fixture) { f.rename("d", "old"); f.rename("new", "d") },
			want:   []string{"d"},
		},
		"removed": {
			before: func(f *fixture) { f.mkdir("d") },
			change: func(f *fixture) { f.remove("d") },
			want:   []string{"."},
		},
		"replaced by a file": {
			before: func(f *fixture) { f.mkdir("d") },
			change: func(f *fixture) { f.remove("d"); f.touch("d") },
			want:   []string{"."},
		},
		"created": {
			before: func(*fixture) {},
			change: func(f *fixture) { f.mkdir("d") },
			want:   []string{"d"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inotify, err := fsnotify.NewWatcher()
			must(t, err)
			change := func() {}
			f := newFixtureOf(t, t.TempDir(), newWatcher(inotify, hookedWatches{inotify, func() { change() }}))
			tt.before(f)
			changed := false
			change = func() {
				if !changed {
					changed = true
					tt.change(f)
				}
			}
			f.watch("d")
			if !changed {
				t.Fatal("no watch was set")
			}
			f.wantWatches(tt.want...)
			f.start()
			f.wantWatches(tt.want...)
			f.reset()
			f.remove("d")
			f.reset()
			f.mkdir("d")
			f.wantEvents(observed{Create, "d"})
			f.touch("d/x")
			f.wantEvents(observed{Create, "d/x"})
		})
	}
}

func TestManyMissingDirectoriesNeedOneWatch(t *testing.T) {
	f := startFixture(t)
	const n = 1000
	name := func(i int) string { return fmt.Sprint("bus/", i, "/qat") }
	for i := range n {
		f.watch(name(i))
	}
	f.wantWatches(".")
	for i := range n {
		f.mkdir(name(i))
	}
	for i := range n {
		f.wait(Create, name(i))
	}
	f.sync()
	if got := len(f.watchList()); got != n {
		t.Errorf("%d watches for %d directories", got, n)
	}
	f.remove("bus")
	for i := range n {
		f.wait(Delete, name(i))
	}
	f.wantWatches(".")
}

func TestStatDir(t *testing.T) {
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "file"), filepath.Join(dir, "sub")
	must(t, os.WriteFile(file, nil, 0o644))
	for path, want := range map[string]error{file: unix.ENOTDIR, file + "/x": unix.ENOTDIR, sub: unix.ENOENT} {
		if _, err := statDir(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	proc, err := statDir("/proc")
	must(t, err)
	sys, err := statDir("/sys")
	must(t, err)
	if proc == sys { // the roots of both file systems have inode 1
		t.Errorf("/proc and /sys have the same ID %+v", proc)
	}
	id, err := statDir(dir)
	must(t, err)
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BTIME, &st))
	if id.created != st.Btime {
		t.Errorf("created at %v, want %v", id.created, st.Btime)
	}
}

// TestWatcherFollowsAnyHistory changes directories and watches in any order. A caller that reads
// a directory after Watch, and reads it again when an event names it, must then know its
// entries. Each wanted directory or its nearest existing ancestor is watched, and nothing else.
func TestWatcherFollowsAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newHistoryFixture(rt, t.TempDir())
		names := rapid.Custom(func(t *rapid.T) string {
			parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 3).Draw(t, "name")
			return "tree/" + strings.Join(parts, "/")
		})
		rt.Repeat(map[string]func(*rapid.T){
			"mkdir":  func(t *rapid.T) { _ = os.MkdirAll(f.path(names.Draw(t, "dir")), 0o755) },
			"remove": func(t *rapid.T) { _ = os.RemoveAll(f.path(names.Draw(t, "dir"))) },
			"file":   func(t *rapid.T) { _ = os.WriteFile(f.path(names.Draw(t, "file")), nil, 0o644) },
			"rename": func(t *rapid.T) {
				from, to := names.Draw(t, "from"), names.Draw(t, "to")
				_ = os.Rename(f.path(from), f.path(to))
				f.rewatchBelow(from, to)
			},
			"watch":   func(t *rapid.T) { f.watchAndRead(names.Draw(t, "dir")) },
			"unwatch": func(t *rapid.T) { f.unwatchAndForget(names.Draw(t, "dir")) },
			"check":   func(t *rapid.T) { f.check() },
		})
		f.check()
	})
}

// historyFixture is a fixture with a caller that knows the entries of each directory that
// it watches.
type historyFixture struct {
	*fixture

	mu    sync.Mutex
	known map[string]string // path → its entries, "-" for a missing directory
}

func newHistoryFixture(t tester, dir string) *historyFixture {
	t.Helper()
	f := &historyFixture{fixture: newFixture(t, dir), known: map[string]string{}}
	f.r.onEvent = func(e *Event) { f.readAgain(string(e.Path)) }
	f.mkdir("tree")
	f.start()
	return f
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

func readEntries(path string) string {
	entries, err := os.ReadDir(path)
	if err != nil || !isDir(path) {
		return "-"
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// readAgain handles an event.
func (f *historyFixture) readAgain(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, dir := range []string{path, filepath.Dir(path)} {
		if _, wanted := f.known[dir]; wanted {
			f.known[dir] = readEntries(dir)
		}
	}
}

func (f *historyFixture) watchAndRead(dir string) {
	f.t.Helper()
	f.watch(dir)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[f.path(dir)] = readEntries(f.path(dir))
}

func (f *historyFixture) unwatchAndForget(dir string) {
	f.mu.Lock()
	delete(f.known, f.path(dir))
	f.mu.Unlock()
	f.unwatch(dir)
}

// rewatchBelow does what the documentation of Watcher demands: a directory that is
// renamed with an ancestor causes no event.
func (f *historyFixture) rewatchBelow(dirs ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for known := range f.known {
		for _, dir := range dirs {
			if strings.HasPrefix(known, f.path(dir)+"/") {
				must(f.t, f.w.Rewatch(known))
				f.known[known] = readEntries(known)
			}
		}
	}
}

func (f *historyFixture) check() {
	f.t.Helper()
	f.wantWatches(f.neededWatches()...)
	f.reset()
	f.r.wantResyncs(f.t, 0)
	must(f.t, f.w.Err())
	f.mu.Lock()
	defer f.mu.Unlock()
	for dir, known := range f.known {
		if now := readEntries(dir); now != known {
			f.t.Fatalf("%s contains %q, but the events led to %q", dir, now, known)
		}
	}
}

// neededWatches returns the wanted directories or their nearest existing ancestors.
func (f *historyFixture) neededWatches() []string {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for dir := range f.known {
		for !isDir(dir) {
			dir = filepath.Dir(dir)
		}
		rel, err := filepath.Rel(f.root, dir)
		must(f.t, err)
		list = append(list, rel)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func BenchmarkWatch(b *testing.B) {
	f := startFixture(b)
	const n = 1024
	name := func(i int) string { return fmt.Sprint("devices/", i) }
	for i := range n {
		f.mkdir(name(i))
	}
	for b.Loop() {
		for i := range n {
			f.watch(name(i))
		}
		for i := range n {
			f.unwatch(name(i))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/dir")
}
