// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

func TestWatcherReportsEntries(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d")
	f.mkdir("other")
	f.touch("d/old")
	f.watch("d")
	f.wantEvents() // the caller of Watch reads d itself

	f.mkdir("d/dir")
	f.wantEvents(observed{Create, "d/dir"})
	must(t, os.Symlink("x", f.path("d/link")))
	f.wantEvents(observed{Create, "d/link"})
	must(t, os.Truncate(f.path("d/old"), 1))
	f.wantEvents(observed{Write, "d/old"})
	must(t, os.Chmod(f.path("d/old"), 0o600))
	must(t, os.Chtimes(f.path("d/old"), time.Now(), time.Now()))
	f.wantEvents()
	f.rename("d/old", "other/old")
	f.wantEvents(observed{Delete, "d/old"})
	f.rename("other/old", "d/new")
	f.wantEvents(observed{Create, "d/new"})
	f.rename("d/new", "d/newer")
	f.wantEvents(observed{Delete, "d/new"}, observed{Create, "d/newer"})
	f.remove("d/newer")
	f.wantEvents(observed{Delete, "d/newer"})
	f.mkdir("d/dir/below")
	f.touch("other/x")
	f.wantEvents()
	f.r.wantResyncs(t, 0)
}

func TestInotifyEventHasOriginAndTime(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.mkdir("d")
	f.watch("d")
	before := time.Now()
	f.mkdir("d/x") // queued before Run
	got := make(chan Event, 1)
	f.r.onEvent = func(e *Event) { got <- Event{Origin: e.Origin, Time: e.Time} }
	f.start()
	e := await(t, "the event", got)
	if e.Origin != Inotify || e.Time.Before(before) || e.Time.After(time.Now()) {
		t.Errorf("origin %q at %v", e.Origin, e.Time)
	}
}

func TestEntryOfFileSystemRoot(t *testing.T) {
	f := newFixture(t, t.TempDir())
	must(t, f.w.Watch("/"))
	f.w.handle(fsnotify.Event{Name: "//entry", Op: fsnotify.Create}, f.r) // as fsnotify reports it
	if got, _ := f.r.all(); !slices.Equal(got, []observed{{Create, "/entry"}}) {
		t.Errorf("got %v, want Create of /entry", got)
	}
}

func TestWatchedEntryIsReportedOnce(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	f.remove("d/sub")
	f.wantEvents(observed{Delete, "d/sub"})
	f.mkdir("d/sub")
	f.wantEvents(observed{Create, "d/sub"})
}

func TestWatchRejectsRelativePath(t *testing.T) {
	f := newFixture(t, t.TempDir())
	for _, dir := range []string{"", ".", "d", "../d"} {
		if err := f.w.Watch(dir); err == nil {
			t.Errorf("Watch(%q) was accepted", dir)
		}
	}
	must(t, f.w.Watch(f.root+"/./d//e/../")) // absolute, but not clean
	f.unwatch("d/")
	f.wantWatches()
}

func TestRewatchReplacesWatches(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	for _, name := range []string{"d", "d/sub"} { // dead watches, as on sysfs
		must(t, f.w.inotify.Remove(f.path(name)))
	}
	f.mkdir("d/missed")
	f.wantEvents()
	f.rewatch("d")
	f.touch("d/x")
	f.wantEvents(observed{Create, "d/sub"}, observed{Create, "d/x"})
	f.touch("d/sub/y")
	f.wantEvents(observed{Create, "d/sub/y"})
	f.wantWatches("d", "d/sub")

	f.rewatch("new")
	f.mkdir("new")
	f.wantEvents(observed{Create, "new"})
}

func TestRewatchReportsDirectoriesBelowWithoutFurtherEvents(t *testing.T) {
	f := startFixture(t)
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	f.reset()
	f.rewatch("d")
	f.wait(Create, "d/sub")
}

func TestWatchKeepsPendingEvent(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	f.rewatch("d") // makes Create of d/sub pending
	f.watch("d/sub")
	f.start()
	f.wantEvents(observed{Create, "d/sub"})
}

func TestRewatchAfterAncestorWasRenamed(t *testing.T) {
	f := startFixture(t)
	f.mkdir("a/b/c")
	f.watch("a/b/c")
	f.rename("a", "old")
	f.mkdir("a/b/c")
	f.rewatch("a/b/c")
	f.touch("a/b/c/x")
	f.wait(Create, "a/b/c/x")
	f.touch("old/b/c/y")
	if events := f.sync(); slices.Contains(events, observed{Create, "a/b/c/y"}) {
		t.Errorf("got %v: an entry of the renamed directory is reported at its old path", events)
	}
}

func TestRewatchOfMissingDirectoryAfterAncestorWasRenamed(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(fmt.Sprint("replaced: ", replaced), func(t *testing.T) {
			f := startFixture(t)
			f.watch("a/b/c/d")
			f.mkdir("a/b/c")
			f.wantWatches("a/b/c")
			f.rename("a", "old") // no event: the watch moved along
			want := "."
			if replaced {
				f.mkdir("a/b/c")
				want = "a/b/c"
			}
			f.rewatch("a/b/c/d")
			f.wantWatches(want)
			f.mkdir("a/b/c/d")
			f.wait(Create, "a/b/c/d")
		})
	}
}

func TestRewatchOnSysfs(t *testing.T) {
	const dir, attribute = "/sys/devices/virtual/mem/null", "/sys/devices/virtual/mem/null/uevent"
	file, err := os.OpenFile(attribute, os.O_WRONLY, 0)
	if err != nil {
		testenv.Skip(t, "only root can write to sysfs: "+err.Error())
	}
	defer file.Close()
	f := startFixture(t)
	must(t, f.w.Watch(dir))
	must(t, f.w.Rewatch(dir))
	_, err = file.WriteString("change")
	must(t, err)
	f.r.waitFor(t, observed{Write, attribute})
}

func TestInotifyOverflowCausesResync(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	must(t, err)
	var queue int
	if _, err := fmt.Sscan(string(text), &queue); err != nil || queue > 100_000 {
		testenv.Skip(t, fmt.Sprintf("the inotify queue is too long to fill: %d, %v", queue, err))
	}
	f := newFixture(t, t.TempDir())
	f.mkdir("d/removed")
	f.watch("d")
	f.watch("d/removed")
	f.watch("d/created")
	for i := 0; i < queue/2+4096+10; i++ { // fsnotify reads up to 4096 events ahead
		name := f.path(fmt.Sprint("d/", i))
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		must(t, err)
		must(t, unix.Close(fd))
		must(t, unix.Unlink(name))
	}
	f.remove("d/removed")
	f.mkdir("d/created")
	f.start()
	f.r.waitForResyncs(t, 1)
	f.reset()
	f.touch("d/created/x")
	f.wait(Create, "d/created/x")
	f.mkdir("d/removed")
	f.wait(Create, "d/removed")
	f.touch("d/removed/y")
	f.wait(Create, "d/removed/y")
	f.r.wantResyncs(t, 1)
}

var errRead = errors.New("read failed")

// failReads passes an error to the Watcher n times, and returns when it has handled them.
func (f *fixture) failReads(n int, err error) {
	for range n {
		f.w.inotify.Errors <- err
	}
	f.w.inotify.Errors <- unix.EINVAL // ignored, but received only after the others
}

func TestFailedInotifyReadCausesResync(t *testing.T) {
	f := startFixture(t)
	f.failReads(1, errRead)
	f.r.waitForResyncs(t, 1)
	f.failReads(1, unix.EINVAL)
	f.touch("barrier/x")
	f.wait(Create, "barrier/x")
	f.r.wantResyncs(t, 1)
}

func TestResyncReplacesPendingEvents(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.mkdir("d/sub")
	f.watch("d")
	f.watch("d/sub")
	f.rewatch("d") // makes Create of d/sub pending
	f.failReads(1, fsnotify.ErrEventOverflow)
	must(t, f.w.handleWake(f.r))
	f.r.wantResyncs(t, 1)
	if events, _ := f.r.all(); len(events) != 0 {
		t.Errorf("got %v in addition to the Resync", events)
	}
}

func TestWatcherCountsConsecutiveFailures(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.failReads(maxFailures-1, errRead)
	must(t, f.w.handleWake(f.r))
	must(t, f.w.handleWake(f.r)) // reports no second Resync
	f.r.wantResyncs(t, 1)
	f.w.handle(fsnotify.Event{Name: f.path("barrier/x"), Op: fsnotify.Create}, f.r)
	f.failReads(maxFailures, fsnotify.ErrEventOverflow) // counts as none
	f.failReads(maxFailures-1, errRead)
	must(t, f.w.handleWake(f.r))
	f.r.wantResyncs(t, 2)
	f.failReads(1, errRead)
	if err := f.w.handleWake(f.r); !errors.Is(err, errRead) {
		t.Errorf("after %d failures in a row: %v, want %v", maxFailures, err, errRead)
	}
}

func TestRunFailsWhenInotifyReadsKeepFailing(t *testing.T) {
	f := newFixture(t, t.TempDir())
	done := goRun(context.Background(), f.w, f.r)
	for range maxFailures { // Run closes the Watcher after the last one
		f.w.inotify.Errors <- errRead
	}
	if err := await(t, "the end of Run", done); !errors.Is(err, errRead) {
		t.Errorf("Run: %v, want %v", err, errRead)
	}
}

func TestInstanceLimit(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("2"), 0); err != nil {
		testenv.Skip(t, "this kernel has no instance limit per user namespace: "+err.Error())
	}
	for i := range 3 {
		w, err := NewWatcher()
		if limited := i >= 2; errors.Is(err, ErrInstanceLimit) != limited || (err != nil) != limited {
			t.Fatalf("watcher %d: %v", i, err)
		}
		if err == nil {
			defer w.Close()
		}
	}
}

func TestSinkMayWatchAndUnwatch(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.mkdir("d")
	f.watch("d")
	f.r.onEvent = func(e *Event) {
		switch e.Action {
		case Create:
			if err := f.w.Watch(string(e.Path)); err != nil {
				t.Error(err)
			}
		case Delete:
			f.w.Unwatch(string(e.Path))
		}
	}
	f.start()
	for i := range 200 {
		dir := fmt.Sprint("d/", i)
		f.mkdir(dir + "/sub")
		f.wait(Create, dir)
		f.remove(dir)
		f.wait(Delete, dir)
	}
	f.wantWatches("d")
}

// fsnotify reports the renaming and removal of a directory as an error, while it holds
// the lock that its Add needs.
func TestRenameAndRemoveDoesNotDeadlock(t *testing.T) {
	f := startFixture(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for g := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				dir := f.path(fmt.Sprint("never/", g, "/", i%10))
				if err := f.w.Watch(dir); err != nil {
					t.Error(err)
					return
				}
				f.w.Unwatch(dir)
			}
		})
	}
	for range 300 {
		f.mkdir("d")
		f.watch("d")
		f.rename("d", "e")
		f.remove("e")
	}
	close(stop)
	wg.Wait()
	f.reset()
	f.mkdir("d")
	f.wait(Create, "d")
	f.r.wantResyncs(t, 0)
}

// TestWatcherReleasesItsResources closes watchers before, during and after Run, by
// context and by Close, from several goroutines, while others watch and unwatch.
func TestWatcherReleasesItsResources(t *testing.T) {
	wantNoDescriptorLeft(t, func() {
		for i := range 200 { // the kernel takes milliseconds to close one
			w, err := NewWatcher()
			must(t, err)
			dir := fmt.Sprint("/dev/null-", i, "/sub")
			must(t, w.Watch(dir))
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			if i%3 != 0 {
				wg.Go(func() {
					if err := w.Run(ctx, newRecorder()); err != nil && !errors.Is(err, os.ErrClosed) {
						t.Errorf("Run: %v", err)
					}
				})
			}
			if i%2 == 0 {
				wg.Go(cancel)
			}
			wg.Go(func() { w.Unwatch(dir) })
			wg.Go(func() {
				if err := w.Watch(dir); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Errorf("Watch: %v", err)
				}
			})
			wg.Go(func() { _ = w.Close() })
			must(t, w.Close())
			wg.Wait()
			cancel()
			if err := w.Watch(dir); !errors.Is(err, os.ErrClosed) {
				t.Fatalf("Watch after Close: %v", err)
			}
		}
	})
}

func TestRunLeavesWatcherClosed(t *testing.T) {
	f := newFixture(t, t.TempDir())
	start(t, f.w, f.r)()
	if err := f.w.Watch(f.root); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Watch after Run: %v, want os.ErrClosed", err)
	}
	wantSecondRunRefused(t, f.w)
	f.w.handle(fsnotify.Event{Name: f.path("barrier/x"), Op: fsnotify.Create}, f.r)
	if events, _ := f.r.all(); len(events) != 0 {
		t.Errorf("got %v from a closed Watcher", events)
	}
}

func TestSinkMayCloseWatcher(t *testing.T) {
	f := newFixture(t, t.TempDir())
	f.r.onEvent = func(*Event) { _ = f.w.Close() }
	done := goRun(context.Background(), f.w, f.r)
	f.touch("barrier/x")
	if err := await(t, "the end of Run", done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
}
