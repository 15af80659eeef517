package events

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// place is a directory for a test, and a running Watcher.
type place struct {
	t      tester
	root   string
	w      *Watcher
	r      *recorder
	fences int
	runs   bool
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
	p.start()
	return p
}

func (p *place) start() {
	p.t.Helper()
	start(p.t, p.w, p.r)
	p.runs = true
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

// wantWatches checks which directories are watched when all is heard. That a directory was removed can come late, after a fence: the kernel says so when the
// last one who is just looking at it has finished, and that may be us.
func (p *place) wantWatches(want ...string) {
	p.t.Helper()
	got := p.watchList()
	for i := 0; i < 100 && p.runs && !slices.Equal(got, want); i++ {
		p.settle()
		got = p.watchList()
	}
	if !slices.Equal(got, want) {
		p.t.Fatalf("watched are %q, want %q", got, want)
	}
}

func (p *place) wantHeard(want ...heard) {
	p.t.Helper()
	if got := p.settle(); !slices.Equal(got, want) {
		p.t.Errorf("heard %v, want %v", got, want)
	}
	p.forget()
}
