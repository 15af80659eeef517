package events

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// Whatever happens to directories and wishes, in whatever order: who looks after Watch, and again at what an event names, knows when it is quiet
// how it is. Then each wish is watched if its directory is there, else its nearest ancestor is, and nothing else.
func TestWishesFollowAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newHistoryPlace(rt, t.TempDir())
		names := rapid.Custom(func(t *rapid.T) string {
			parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 3).Draw(t, "name")
			return "tree/" + strings.Join(parts, "/")
		})
		rt.Repeat(map[string]func(*rapid.T){
			"mkdir":  func(t *rapid.T) { _ = os.MkdirAll(p.path(names.Draw(t, "dir")), 0o755) },
			"remove": func(t *rapid.T) { _ = os.RemoveAll(p.path(names.Draw(t, "dir"))) },
			"file":   func(t *rapid.T) { _ = os.WriteFile(p.path(names.Draw(t, "file")), nil, 0o644) },
			"rename": func(t *rapid.T) {
				from, to := names.Draw(t, "from"), names.Draw(t, "to")
				_ = os.Rename(p.path(from), p.path(to))
				p.afterRename(from, to)
			},
			"watch":   func(t *rapid.T) { p.want(names.Draw(t, "dir")) },
			"unwatch": func(t *rapid.T) { p.unwant(names.Draw(t, "dir")) },
			"quiet":   func(t *rapid.T) { p.check() },
		})
		p.check()
	})
}

// historyPlace is a place with a user of the Watcher, who knows of each directory that he wants what its entries are.
type historyPlace struct {
	place

	mu    sync.Mutex
	known map[string]string // path → its entries, or "-" when it is not there
}

func newHistoryPlace(t tester, dir string) *historyPlace {
	t.Helper()
	root, err := filepath.EvalSymlinks(dir)
	ok(t, err)
	w, err := NewWatcher()
	ok(t, err)
	p := &historyPlace{place: place{t: t, root: root, w: w, r: newRecorder()}, known: map[string]string{}}
	p.r.onEvent = func(e *Event) { p.lookAt(string(e.Path)) }
	p.mkdir("tree")
	p.mkdir("fence")
	p.watch("fence")
	p.start()
	return p
}

func entriesOf(path string) string {
	if !isDir(path) {
		return "-"
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "-"
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// lookAt is what an event leads to.
func (p *historyPlace) lookAt(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, dir := range []string{path, filepath.Dir(path)} {
		if _, wanted := p.known[dir]; wanted {
			p.known[dir] = entriesOf(dir)
		}
	}
}

func (p *historyPlace) want(dir string) {
	p.t.Helper()
	p.watch(dir)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[p.path(dir)] = entriesOf(p.path(dir))
}

func (p *historyPlace) unwant(dir string) {
	p.mu.Lock()
	delete(p.known, p.path(dir))
	p.mu.Unlock()
	p.w.Unwatch(p.path(dir))
}

// afterRename does what the documentation of Watcher asks for: a directory that is renamed with an ancestor gives no event.
func (p *historyPlace) afterRename(from, to string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for dir := range p.known {
		if strings.HasPrefix(dir, p.path(from)+"/") || strings.HasPrefix(dir, p.path(to)+"/") {
			ok(p.t, p.w.Rewatch(dir))
			p.known[dir] = entriesOf(dir)
		}
	}
}

func (p *historyPlace) check() {
	p.t.Helper()
	p.settle()
	p.wantWatches(p.neededWatches()...)
	p.forget()
	if _, resyncs := p.r.all(); len(resyncs) != 0 {
		p.t.Fatalf("Resyncs %q", resyncs)
	}
	ok(p.t, p.w.Err())
	p.mu.Lock()
	defer p.mu.Unlock()
	for dir, entries := range p.known {
		if now := entriesOf(dir); now != entries {
			p.t.Fatalf("%s holds %q, by the events it should be %q", dir, now, entries)
		}
	}
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// neededWatches are the wishes, or their nearest existing ancestors.
func (p *historyPlace) neededWatches() []string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for dir := range p.known {
		for !isDir(dir) {
			dir = filepath.Dir(dir)
		}
		rel, err := filepath.Rel(p.root, dir)
		ok(p.t, err)
		if !slices.Contains(list, rel) {
			list = append(list, rel)
		}
	}
	slices.Sort(list)
	return list
}

// setterFunc is called before each watch is set.
type setterFunc struct {
	watchSetter
	beforeAdd func(path string)
}

func (s *setterFunc) Add(path string) error {
	s.beforeAdd(path)
	return s.watchSetter.Add(path)
}

func TestDirectoryThatChangesWhileItsWatchIsSet(t *testing.T) {
	tests := map[string]struct {
		before func(p *place)
		change func(p *place)
		want   []string
	}{
		"it is replaced": {
			func(p *place) { p.mkdir("d"); p.mkdir("new") }, func(p *place) { p.rename("d", "old"); p.rename("new", "d") }, []string{"d"},
		},
		"it goes":           {func(p *place) { p.mkdir("d") }, func(p *place) { p.remove("d") }, []string{"."}},
		"it becomes a file": {func(p *place) { p.mkdir("d") }, func(p *place) { p.remove("d"); p.write("d", "") }, []string{"."}},
		"it comes":          {func(*place) {}, func(p *place) { p.mkdir("d") }, []string{"d"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			tt.before(p)
			once := false
			p.w.wishes.watches = &setterFunc{watchSetter: p.w.inotify, beforeAdd: func(string) {
				if !once {
					once = true
					tt.change(p)
				}
			}}
			p.watch("d")
			if !once {
				t.Fatal("no watch was set")
			}
			p.wantWatches(tt.want...)
			p.start()
			p.settle()
			p.wantWatches(tt.want...)
			p.forget()
			p.remove("d")
			p.settle()
			p.forget()
			p.mkdir("d")
			p.wantHeard(heard{Create, "d"})
			p.write("d/x", "")
			p.wantHeard(heard{Create, "d/x"})
		})
	}
}

func TestManyWishesAreCheap(t *testing.T) {
	// Not a matter of time, which a test cannot trust, but of watches: a thousand missing directories need one.
	p := startedPlace(t)
	const n = 1000
	for i := range n {
		p.watch(fmt.Sprint("bus/", i, "/qat"))
	}
	p.wantWatches(".")
	for i := range n {
		p.mkdir(fmt.Sprint("bus/", i, "/qat"))
	}
	for i := range n {
		p.wait(Create, fmt.Sprint("bus/", i, "/qat"))
	}
	p.settle()
	if got := len(p.watchList()); got != n {
		t.Errorf("%d watches for %d directories", got, n)
	}
	p.remove("bus")
	for i := range n {
		p.wait(Delete, fmt.Sprint("bus/", i, "/qat"))
	}
	p.settle()
	p.wantWatches(".")
}

func BenchmarkWatch(b *testing.B) {
	p := startedPlace(b)
	for i := range 1024 {
		p.mkdir(fmt.Sprint("devices/", i))
	}
	for b.Loop() {
		for i := range 1024 {
			p.watch(fmt.Sprint("devices/", i))
		}
		for i := range 1024 {
			p.w.Unwatch(p.path(fmt.Sprint("devices/", i)))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1024), "ns/dir")
}
