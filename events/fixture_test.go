// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// fixture is a Watcher and a temporary directory. Paths are relative to the directory.
type fixture struct {
	t        tester
	root     string
	w        *Watcher
	r        *recorder
	barriers int
	running  bool
}

// newFixture returns a fixture with a Watcher that does not run yet.
func newFixture(t tester, dir string) *fixture {
	t.Helper()
	w, err := NewWatcher()
	must(t, err)
	return newFixtureOf(t, dir, w)
}

func newFixtureOf(t tester, dir string, w *Watcher) *fixture {
	t.Helper()
	t.Cleanup(func() { _ = w.Close() })
	root, err := filepath.EvalSymlinks(dir)
	must(t, err)
	f := &fixture{t: t, root: root, w: w, r: newRecorder()}
	f.mkdir("barrier")
	f.watch("barrier")
	return f
}

func startFixture(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t, t.TempDir())
	f.start()
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	start(f.t, f.w, f.r)
	f.running = true
}

func (f *fixture) path(name string) string { return filepath.Join(f.root, name) }

func (f *fixture) mkdir(name string) {
	f.t.Helper()
	must(f.t, os.MkdirAll(f.path(name), 0o755))
}

func (f *fixture) touch(name string) {
	f.t.Helper()
	must(f.t, os.WriteFile(f.path(name), nil, 0o644))
}

func (f *fixture) remove(name string) {
	f.t.Helper()
	must(f.t, os.RemoveAll(f.path(name)))
}

func (f *fixture) rename(from, to string) {
	f.t.Helper()
	must(f.t, os.Rename(f.path(from), f.path(to)))
}

func (f *fixture) watch(name string) {
	f.t.Helper()
	must(f.t, f.w.Watch(f.path(name)))
}

func (f *fixture) rewatch(name string) {
	f.t.Helper()
	must(f.t, f.w.Rewatch(f.path(name)))
}

func (f *fixture) unwatch(name string) { f.w.Unwatch(f.path(name)) }

func (f *fixture) wait(action Action, name string) {
	f.t.Helper()
	f.r.waitFor(f.t, observed{action, f.path(name)})
}

// sync waits until all earlier changes are reported and returns the events since the last
// reset. inotify keeps the order of events, so the event of a new file follows them.
func (f *fixture) sync() []observed {
	f.t.Helper()
	f.barriers++
	barrier := fmt.Sprint("barrier/", f.barriers)
	f.touch(barrier)
	f.wait(Create, barrier)
	var events []observed
	all, _ := f.r.all()
	for _, e := range all {
		if filepath.Dir(e.Path) == f.path("barrier") {
			continue
		}
		if rel, err := filepath.Rel(f.root, e.Path); err == nil {
			e.Path = rel
		}
		events = append(events, e)
	}
	return events
}

// reset waits like sync, and then forgets all events.
func (f *fixture) reset() {
	f.t.Helper()
	f.sync()
	f.r.mu.Lock()
	f.r.events = nil
	f.r.mu.Unlock()
}

// wantEvents checks the events since the last reset, and resets.
func (f *fixture) wantEvents(want ...observed) {
	f.t.Helper()
	if got := f.sync(); !slices.Equal(got, want) {
		f.t.Errorf("got events %v, want %v", got, want)
	}
	f.reset()
}

// watchList returns the directories that have an inotify watch.
func (f *fixture) watchList() []string {
	var names []string
	for _, dir := range f.w.inotify.WatchList() {
		if rel, err := filepath.Rel(f.root, dir); err == nil && rel != "barrier" {
			names = append(names, rel)
		}
	}
	slices.Sort(names)
	return names
}

// wantWatches checks which directories have an inotify watch. It retries, because the
// event of a removed directory may follow the barrier's: the kernel sends it when the
// last user of the directory is done, which may be this process.
func (f *fixture) wantWatches(want ...string) {
	f.t.Helper()
	got := f.watchList()
	for i := 0; f.running && (i == 0 || i < 100 && !slices.Equal(got, want)); i++ {
		f.sync()
		got = f.watchList()
	}
	if !slices.Equal(got, want) {
		f.t.Fatalf("watches are on %q, want %q", got, want)
	}
}

// nodes returns the number of nodes in the watch set.
func (f *fixture) nodes() int {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return len(f.w.set.nodes)
}
