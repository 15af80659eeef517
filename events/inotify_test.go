package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

// place is a directory for a test, and a running Watcher.
type place struct {
	t      tester
	root   string
	w      *Watcher
	r      *recorder
	fences int
}

func newPlace(t testing.TB) *place {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	ok(t, err)
	w, err := NewWatcher()
	ok(t, err)
	t.Cleanup(func() { _ = w.Close() })
	p := &place{t: t, root: root, w: w, r: newRecorder()}
	p.mkdir("fence")
	p.watch("fence")
	return p
}

func startedPlace(t testing.TB) *place {
	t.Helper()
	p := newPlace(t)
	start(t, p.w, p.r)
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.root, name) }
func (p *place) mkdir(name string)       { p.t.Helper(); ok(p.t, os.MkdirAll(p.path(name), 0o755)) }
func (p *place) remove(name string)      { p.t.Helper(); ok(p.t, os.RemoveAll(p.path(name))) }
func (p *place) rename(from, to string)  { p.t.Helper(); ok(p.t, os.Rename(p.path(from), p.path(to))) }
func (p *place) watch(name string)       { p.t.Helper(); ok(p.t, p.w.Watch(p.path(name))) }
func (p *place) write(name, text string) {
	p.t.Helper()
	ok(p.t, os.WriteFile(p.path(name), []byte(text), 0o644))
}
func (p *place) wait(a Action, at string) { p.t.Helper(); p.r.waitFor(p.t, heard{a, p.path(at)}) }
func (p *place) forget()                  { p.r.mu.Lock(); p.r.events = nil; p.r.mu.Unlock() }

// settle returns when everything that happened before was heard, and says what that was. inotify keeps the order.
func (p *place) settle() []heard {
	p.t.Helper()
	p.fences++
	fence := fmt.Sprint("fence/", p.fences)
	p.write(fence, "")
	p.wait(Create, fence)
	var events []heard
	all, _ := p.r.all()
	for _, e := range all {
		if filepath.Dir(e.Path) == p.path("fence") {
			continue
		}
		if rel, err := filepath.Rel(p.root, e.Path); err == nil {
			e.Path = rel
		}
		events = append(events, e)
	}
	return events
}

func (p *place) watchList() []string {
	list := p.w.inotify.WatchList()
	var names []string
	for _, dir := range list {
		if rel, err := filepath.Rel(p.root, dir); err == nil && rel != "fence" {
			names = append(names, rel)
		}
	}
	slices.Sort(names)
	return names
}

func (p *place) wantWatches(want ...string) {
	p.t.Helper()
	if got := p.watchList(); !slices.Equal(got, want) {
		p.t.Errorf("watched are %q, want %q", got, want)
	}
}

func (p *place) wantHeard(want ...heard) {
	p.t.Helper()
	if got := p.settle(); !slices.Equal(got, want) {
		p.t.Errorf("heard %v, want %v", got, want)
	}
	p.forget()
}

func TestEntriesOfAWatchedDirectory(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("d")
	p.mkdir("other")
	p.write("d/old", "")
	p.watch("d")
	p.wantHeard() // who asks looks for himself

	p.mkdir("d/dir")
	p.wantHeard(heard{Create, "d/dir"})
	ok(t, os.Symlink("x", p.path("d/link")))
	p.wantHeard(heard{Create, "d/link"})
	ok(t, os.Truncate(p.path("d/old"), 1))
	p.wantHeard(heard{Write, "d/old"})
	ok(t, os.Chmod(p.path("d/old"), 0o600))
	ok(t, os.Chtimes(p.path("d/old"), time.Now(), time.Now()))
	p.wantHeard()
	p.rename("d/old", "other/old")
	p.wantHeard(heard{Delete, "d/old"})
	p.rename("other/old", "d/new")
	p.wantHeard(heard{Create, "d/new"})
	p.rename("d/new", "d/newer")
	p.wantHeard(heard{Delete, "d/new"}, heard{Create, "d/newer"})
	p.remove("d/newer")
	p.wantHeard(heard{Delete, "d/newer"})
	p.mkdir("d/dir/below")
	p.write("other/x", "")
	p.wantHeard() // not an entry
	if _, resyncs := p.r.all(); len(resyncs) != 0 {
		t.Errorf("Resyncs %q", resyncs)
	}
}

func TestEventsOfInotifySayWhereTheyComeFrom(t *testing.T) {
	p := newPlace(t)
	p.mkdir("d")
	p.watch("d")
	before := time.Now()
	p.mkdir("d/x") // before Run: the kernel keeps it
	got := make(chan Event, 1)
	p.r.onEvent = func(e *Event) { got <- Event{Source: e.Source, Time: e.Time} }
	start(t, p.w, p.r)
	if e := within(t, "the event", got); e.Source != Inotify || e.Time.Before(before) || e.Time.After(time.Now()) {
		t.Errorf("source %q at %v", e.Source, e.Time)
	}
}

func TestDirectoryThatDoesNotExistYet(t *testing.T) {
	p := startedPlace(t)
	p.watch("a/b/c")
	p.wantWatches(".")
	p.mkdir("unrelated")
	p.mkdir("a")
	p.wantHeard() // nobody asked for those
	p.wantWatches("a")
	p.mkdir("a/b")
	p.wantHeard()
	p.wantWatches("a/b")
	p.mkdir("a/b/c")
	p.wait(Create, "a/b/c")
	p.wantHeard(heard{Create, "a/b/c"})
	p.wantWatches("a/b/c")
	p.write("a/b/c/x", "")
	p.wantHeard(heard{Create, "a/b/c/x"})
}

func TestDirectoriesMadeAtOnceAreNotMissed(t *testing.T) {
	p := startedPlace(t)
	p.watch("a/b/c/d/e/f")
	for range 200 {
		p.mkdir("a/b/c/d/e/f")
		p.wait(Create, "a/b/c/d/e/f")
		p.settle()
		p.wantWatches("a/b/c/d/e/f")
		p.forget()
		p.remove("a")
		p.wait(Delete, "a/b/c/d/e/f")
		p.settle()
		p.wantWatches(".")
		p.forget()
	}
}

func TestDirectoryThatComesBackUnderTheSameName(t *testing.T) {
	for _, parent := range []bool{false, true} {
		t.Run(fmt.Sprint("parent watched for: ", parent), func(t *testing.T) {
			p := startedPlace(t)
			p.mkdir("d/dev")
			if parent {
				p.watch("d")
			}
			p.watch("d/dev")
			for round := range 100 {
				p.remove("d/dev")
				p.mkdir("d/dev")
				p.wait(Create, "d/dev") // delete may be left out when it is back at once
				p.settle()
				p.forget()
				p.write("d/dev/x", "")
				p.wait(Create, "d/dev/x")
				if round%2 == 0 {
					p.settle()
					p.forget()
				}
			}
			p.settle()
			p.forget()
			p.remove("d/dev")
			p.wait(Delete, "d/dev")
			if _, resyncs := p.r.all(); len(resyncs) != 0 {
				t.Errorf("Resyncs %q", resyncs)
			}
		})
	}
}

func TestDirectoryRenamedAwayAndBack(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("d/sub")
	p.watch("d")
	p.watch("d/sub")
	p.rename("d", "e")
	p.wantHeard(heard{Delete, "d/sub"}, heard{Delete, "d"})
	p.wantWatches(".")
	p.write("e/x", "")
	p.wantHeard() // it is another directory now
	p.rename("e", "d")
	p.wantHeard(heard{Create, "d/sub"}, heard{Create, "d"})
	p.wantWatches("d", "d/sub")
	p.write("d/sub/y", "")
	p.wantHeard(heard{Create, "d/sub/y"})
}

func TestDirectoryRenamedFromOneWishToAnother(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("a")
	p.watch("a")
	p.watch("b")
	for range 50 {
		p.rename("a", "b")
		p.wait(Create, "b")
		p.wait(Delete, "a")
		p.settle()
		p.forget()
		p.write("b/x", "")
		p.wantHeard(heard{Create, "b/x"})
		p.remove("b/x")
		p.rename("b", "a")
		p.settle()
		p.forget()
		p.write("a/x", "")
		p.wantHeard(heard{Create, "a/x"})
		p.remove("a/x")
		p.settle()
		p.forget()
	}
	// Asked for by its new name before the renaming was heard of.
	p.remove("b")
	p.mkdir("c")
	p.watch("c")
	p.settle()
	for range 50 {
		p.forget()
		p.rename("c", "e")
		p.watch("e")
		p.settle()
		p.forget()
		p.write("e/x", "")
		p.wait(Create, "e/x")
		p.remove("e/x")
		p.w.Unwatch(p.path("e"))
		p.rename("e", "c")
		p.watch("c")
		p.settle()
	}
}

func TestFileInPlaceOfADirectory(t *testing.T) {
	p := startedPlace(t)
	p.write("d", "")
	p.watch("d/sub")
	p.wantWatches(".")
	p.remove("d")
	p.mkdir("d/sub")
	p.wait(Create, "d/sub")
	p.settle()
	p.wantWatches("d/sub")
	p.remove("d")
	p.write("d", "")
	p.wait(Delete, "d/sub")
	p.settle()
	p.wantWatches(".")
}

func TestWishesShareWatches(t *testing.T) {
	p := startedPlace(t)
	p.watch("a/b")
	p.watch("a/c")
	p.watch("x")
	p.wantWatches(".")
	p.mkdir("a")
	p.settle()
	p.wantWatches(".", "a")
	p.w.Unwatch(p.path("x"))
	p.wantWatches("a")
	p.w.Unwatch(p.path("a/b"))
	p.wantWatches("a")
	p.w.Unwatch(p.path("a/c"))
	p.wantWatches()
	p.w.Unwatch(p.path("a/c"))
	p.w.Unwatch(p.path("never"))
	if n := len(p.w.wishes.nodes); n != len(filepath.SplitList(p.root))+depth(p.path("fence")) {
		t.Errorf("%d nodes are left, want those on the way to the fence alone", n)
	}
}

func depth(path string) int {
	n := 0
	for ; path != "/"; path = filepath.Dir(path) {
		n++
	}
	return n
}

func TestUnwatchKeepsWhatOthersWant(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("d/sub")
	p.watch("d")
	p.watch("d") // twice is once
	p.watch("d/sub")
	p.w.Unwatch(p.path("d"))
	p.wantWatches("d/sub")
	p.remove("d/sub")
	p.settle()
	p.wantWatches("d") // for sub to come back
	p.mkdir("d/sub")
	p.wait(Create, "d/sub")
	p.w.Unwatch(p.path("d/sub"))
	p.settle()
	p.wantWatches()
}

func TestOneOfManySiblingsRemovedTellsOfAll(t *testing.T) {
	// fsnotify leaves out that a directory was removed when it knows the parent; the first removal makes us watch the parent.
	for range 30 {
		p := startedPlace(t)
		const siblings = 50
		for i := range siblings {
			p.mkdir(fmt.Sprint("d/", i))
			p.watch(fmt.Sprint("d/", i))
		}
		for i := range siblings {
			p.remove(fmt.Sprint("d/", i))
			if i%3 == 0 {
				p.mkdir(fmt.Sprint("d/", i))
			}
		}
		for i := range siblings {
			if i%3 == 0 {
				p.wait(Create, fmt.Sprint("d/", i))
			} else {
				p.wait(Delete, fmt.Sprint("d/", i))
			}
		}
		p.settle()
		p.forget()
		for i := range siblings {
			p.mkdir(fmt.Sprint("d/", i, "/x"))
			if i%3 == 0 {
				p.wait(Create, fmt.Sprint("d/", i, "/x"))
			} else {
				p.wait(Create, fmt.Sprint("d/", i))
			}
		}
	}
}

func TestRewatchSetsANewWatch(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("d/sub")
	p.watch("d")
	p.watch("d/sub")
	// A watch that is dead without a word, as on sysfs.
	for _, name := range []string{"d", "d/sub"} {
		ok(t, p.w.inotify.Remove(p.path(name)))
	}
	p.mkdir("d/unheard")
	p.wantHeard()
	ok(t, p.w.Rewatch(p.path("d")))
	p.write("d/x", "")
	p.wantHeard(heard{Create, "d/sub"}, heard{Create, "d/x"})
	p.write("d/sub/y", "")
	p.wantHeard(heard{Create, "d/sub/y"})
	p.wantWatches("d", "d/sub")

	ok(t, p.w.Rewatch(p.path("new"))) // like Watch
	p.mkdir("new")
	p.wantHeard(heard{Create, "new"})
}

func TestRewatchSeesAnAncestorThatWasRenamed(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("a/b/c")
	p.watch("a/b/c")
	p.rename("a", "old")
	p.mkdir("a/b/c")
	ok(t, p.w.Rewatch(p.path("a/b/c")))
	p.write("a/b/c/x", "")
	p.wait(Create, "a/b/c/x")
	p.write("old/b/c/x2", "")
	p.settle()
	if all, _ := p.r.all(); slices.Contains(all, heard{Create, p.path("a/b/c/x2")}) {
		t.Error("an event of the directory that was renamed away came under its old name")
	}
}

func TestRewatchOfAMissingDirectoryLooksAtItsAncestors(t *testing.T) {
	p := startedPlace(t)
	p.watch("a/b/c/d")
	p.mkdir("a/b/c")
	p.settle()
	p.wantWatches("a/b/c")
	p.rename("a", "old") // in silence: what is watched went along
	ok(t, p.w.Rewatch(p.path("a/b/c/d")))
	p.wantWatches(".")
	p.mkdir("a/b/c/d")
	p.wait(Create, "a/b/c/d")
}

func TestRewatchOnSysfs(t *testing.T) {
	const dir, attribute = "/sys/devices/virtual/mem/null", "/sys/devices/virtual/mem/null/uevent"
	f, err := os.OpenFile(attribute, os.O_WRONLY, 0)
	if err != nil {
		testenv.Skip(t, "only root can write to sysfs: "+err.Error())
	}
	defer f.Close()
	p := startedPlace(t)
	ok(t, p.w.Watch(dir))
	ok(t, p.w.Rewatch(dir))
	if _, err := f.WriteString("change"); err != nil {
		t.Fatal(err)
	}
	p.r.waitFor(t, heard{Write, attribute})
}

func TestSameDirectoryUnderTwoNamesIsAnError(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("d")
	ok(t, os.Symlink("d", p.path("link")))
	p.watch("d")
	if err := p.w.Watch(p.path("link")); err == nil {
		t.Error("a second name was accepted")
	}
	if p.w.Err() == nil {
		t.Error("Err does not tell of it")
	}
	p.write("d/x", "")
	p.wait(Create, "d/x")
	p.w.Unwatch(p.path("link"))
	ok(t, p.w.Err())
}

func TestWatchRefusesPathsThatAreNotAbsolute(t *testing.T) {
	p := newPlace(t)
	for _, dir := range []string{"", ".", "d", "../d"} {
		if err := p.w.Watch(dir); err == nil {
			t.Errorf("Watch(%q) was accepted", dir)
		}
	}
	ok(t, p.w.Watch(p.root+"/./d//e/../"))
	p.w.Unwatch(p.path("d/"))
	p.wantWatches()
}

func TestQueueOverflowIsAResyncAndItHearsAfterwards(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	ok(t, err)
	var queue int
	if _, err := fmt.Sscan(string(text), &queue); err != nil || queue > 100_000 {
		testenv.Skip(t, fmt.Sprintf("the inotify queue of this machine is too long to fill: %d, %v", queue, err))
	}
	p := newPlace(t)
	p.mkdir("d/gone")
	p.watch("d")
	p.watch("d/gone")
	p.watch("d/coming")
	for i := 0; i < queue/2+4096+10; i++ { // fsnotify itself reads up to 4096 ahead
		name := p.path(fmt.Sprint("d/", i))
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		ok(t, err)
		ok(t, unix.Close(fd))
		ok(t, unix.Unlink(name))
	}
	p.remove("d/gone")
	p.mkdir("d/coming")
	start(t, p.w, p.r)
	p.r.waitForResyncs(t, 1)
	p.settle()
	p.forget()
	p.write("d/coming/x", "")
	p.wait(Create, "d/coming/x")
	p.mkdir("d/gone")
	p.wait(Create, "d/gone")
	p.write("d/gone/y", "")
	p.wait(Create, "d/gone/y")
	if _, resyncs := p.r.all(); len(resyncs) != 1 {
		t.Errorf("Resyncs %q, want one", resyncs)
	}
}

func TestOutOfWatches(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const limit = "/proc/sys/user/max_inotify_watches"
	if err := os.WriteFile(limit, []byte("4"), 0); err != nil {
		testenv.Skip(t, "this kernel has no limit of watches for a user namespace: "+err.Error())
	}
	p := startedPlace(t) // one watch, for the fence
	for i := range 6 {
		p.mkdir(fmt.Sprint("d", i))
		err := p.w.Watch(p.path(fmt.Sprint("d", i)))
		if limited := i >= 3; errors.Is(err, ErrWatchLimit) != limited || errors.Is(err, unix.ENOSPC) != limited || (err != nil) != limited {
			t.Fatalf("directory %d: %v", i, err)
		}
	}
	if err := p.w.Err(); !errors.Is(err, ErrWatchLimit) {
		t.Errorf("Err: %v, want ErrWatchLimit", err)
	}
	p.write("d4/unheard", "")
	p.wantHeard()
	p.w.Unwatch(p.path("d0")) // one is free now
	got := p.settle()
	p.forget()
	if len(got) != 1 || got[0].Action != Create {
		t.Fatalf("heard %v, want that one of the others is watched now", got)
	}
	p.remove("d1") // and another: the root is watched for it to come back, which is the first to get it
	p.wait(Delete, "d1")
	p.settle()
	p.forget()
	ok(t, os.WriteFile(limit, []byte("100"), 0))
	ok(t, p.w.Watch(p.path("d1"))) // it is missing; each Watch tries the others again
	ok(t, p.w.Err())
	p.mkdir("d1")
	p.wait(Create, "d1")
	p.settle()
	p.forget()
	for i := 1; i < 6; i++ {
		p.write(fmt.Sprint("d", i, "/x"), "")
		p.wait(Create, fmt.Sprint("d", i, "/x"))
	}
}

func TestOutOfInstances(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("2"), 0); err != nil {
		testenv.Skip(t, "this kernel has no limit of instances for a user namespace: "+err.Error())
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

func TestWatchAndUnwatchFromTheSink(t *testing.T) {
	p := newPlace(t)
	p.mkdir("d")
	p.watch("d")
	p.r.onEvent = func(e *Event) {
		switch {
		case e.Action == Create:
			if err := p.w.Watch(string(e.Path)); err != nil {
				t.Error(err)
			}
		case e.Action == Delete:
			p.w.Unwatch(string(e.Path))
		}
	}
	start(t, p.w, p.r)
	for i := range 200 {
		p.mkdir(fmt.Sprint("d/", i, "/sub"))
		p.wait(Create, fmt.Sprint("d/", i))
		p.remove(fmt.Sprint("d/", i))
		p.wait(Delete, fmt.Sprint("d/", i))
	}
	p.settle()
	p.wantWatches("d")
}

// fsnotify reports a directory that is renamed and then removed as an error, under a lock that its Add needs.
func TestRenameAndRemoveAtOnceDoesNotLockUp(t *testing.T) {
	p := startedPlace(t)
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
				dir := p.path(fmt.Sprint("never/", g, "/", i%10))
				if err := p.w.Watch(dir); err != nil {
					t.Error(err)
					return
				}
				p.w.Unwatch(dir)
			}
		})
	}
	for range 500 {
		p.mkdir("d")
		p.watch("d")
		p.rename("d", "e")
		p.remove("e")
	}
	close(stop)
	wg.Wait()
	p.settle()
	p.forget()
	p.mkdir("d")
	p.wait(Create, "d")
	if _, resyncs := p.r.all(); len(resyncs) != 0 {
		t.Errorf("Resyncs %q", resyncs)
	}
}

func TestWatcherEndsAndCloses(t *testing.T) {
	before := openDescriptors(t)
	for i := range 200 { // the kernel takes milliseconds to close one
		w, err := NewWatcher()
		ok(t, err)
		dir := fmt.Sprint("/dev/null-", i, "/sub")
		ok(t, w.Watch(dir))
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
		ok(t, w.Close())
		wg.Wait()
		cancel()
		if err := w.Watch(dir); !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Watch after Close: %v", err)
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
}

func TestWatcherSaysThatItWasClosed(t *testing.T) {
	p := newPlace(t)
	p.r.onEvent = func(*Event) { _ = p.w.Close() } // from the sink
	done := make(chan error, 1)
	go func() { done <- p.w.Run(context.Background(), p.r) }()
	p.mkdir("fence/x")
	if err := within(t, "the end of Run", done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Run: %v, want os.ErrClosed", err)
	}
	if err := p.w.Run(context.Background(), p.r); err == nil || errors.Is(err, os.ErrClosed) {
		t.Errorf("second Run: %v, want an error that says so", err)
	}
}
