package events

import (
	"os"
	"slices"
	"testing"

	"qatplugin/internal/testenv"
)

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
