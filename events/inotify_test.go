package events

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

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
	p.r.onEvent = func(e *Event) { got <- Event{Origin: e.Origin, Time: e.Time} }
	p.start()
	if e := within(t, "the event", got); e.Origin != Inotify || e.Time.Before(before) || e.Time.After(time.Now()) {
		t.Errorf("source %q at %v", e.Origin, e.Time)
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
}

// fsnotify takes a directory that it knows for what it was called before, and lets go of it when it hears of the renaming.
func TestDirectoryAskedForByItsNewNameBeforeTheRenamingIsHeardOf(t *testing.T) {
	p := newPlace(t)
	p.mkdir("a")
	p.watch("a")
	p.write("fence/first", "") // nobody runs yet: fsnotify comes no further than this
	p.rename("a", "b")
	p.watch("b")
	p.start()
	p.settle()
	p.forget()
	p.write("b/x", "")
	p.wantHeard(heard{Create, "b/x"})
	p.wantWatches(".", "b")
	p.mkdir("a")
	p.wantHeard(heard{Create, "a"})
}

func TestDirectoryOfBothAWishAndAnEntryIsToldOnce(t *testing.T) {
	p := startedPlace(t)
	p.mkdir("d/sub")
	p.watch("d")
	p.watch("d/sub")
	p.remove("d/sub")
	p.wantHeard(heard{Delete, "d/sub"})
	p.mkdir("d/sub")
	p.wantHeard(heard{Create, "d/sub"})
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
	for range 10 {
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
