// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
)

// fakeWatcher records its calls.
type fakeWatcher struct {
	calls []string
	err   error
}

func (w *fakeWatcher) Run(context.Context, events.Sink) error { return nil }
func (w *fakeWatcher) Unwatch(dir string)                     { w.calls = append(w.calls, "unwatch "+dir) }
func (w *fakeWatcher) Watch(dir string) error {
	w.calls = append(w.calls, "watch "+dir)
	return w.err
}

func (w *fakeWatcher) Rewatch(dir string) error {
	w.calls = append(w.calls, "rewatch "+dir)
	return w.err
}

// use makes the Watches adopt a watcher.
func use(t *testing.T, w *Watches, watcher Watcher) {
	t.Helper()
	if _, err := w.opener(func() (Watcher, error) { return watcher, nil })(); err != nil {
		t.Fatal(err)
	}
	w.adopt()
}

func TestWatches(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(w *Watches)
		want []string
	}{
		"a wanted directory is watched once": {
			do:   func(w *Watches) { w.Want("/a", 1); w.Want("/a", 1) },
			want: []string{"watch /a"},
		},
		"a new incarnation is watched again": {
			do:   func(w *Watches) { w.Want("/a", 1); w.Want("/a", 2) },
			want: []string{"watch /a", "rewatch /a"},
		},
		"a directory is dropped once": {
			do:   func(w *Watches) { w.Want("/a", 1); w.Drop("/a"); w.Drop("/a"); w.Want("/a", 1) },
			want: []string{"watch /a", "unwatch /a", "watch /a"},
		},
		"Set drops the others": {
			do: func(w *Watches) {
				w.Want("/a", 1)
				w.Want("/b", 1)
				w.Set(map[string]uint64{"/b": 1})
			},
			want: []string{"watch /a", "watch /b", "unwatch /a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, watcher := NewWatches(nil), &fakeWatcher{}
			w.Want("/before", 1) // ignored: there is no watcher yet
			use(t, w, watcher)
			tt.do(w)
			if diff := cmp.Diff(tt.want, watcher.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewWatcherWatchesEverythingAgain(t *testing.T) {
	w, second := NewWatches(nil), &fakeWatcher{}
	use(t, w, &fakeWatcher{})
	w.Want("/a", 1)
	use(t, w, second)
	w.Want("/a", 1)
	if diff := cmp.Diff([]string{"watch /a"}, second.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestDirectoriesThatAClosedWatcherCannotWatchAreNoError(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"closed": {fmt.Errorf("watch /a: %w", os.ErrClosed), 0},
		"full":   {events.ErrWatchLimit, 1},
	} {
		t.Run(name, func(t *testing.T) {
			logged := captureLog(t)
			w := NewWatches(nil)
			use(t, w, &fakeWatcher{err: tt.err})
			w.Want("/a", 1)
			if lines := logged("Cannot watch"); len(lines) != tt.want || !w.mayMissEvents() {
				t.Errorf("logged %q, want %d lines; events may be missed: %t", lines, tt.want, w.mayMissEvents())
			}
		})
	}
}

func TestEventsMayBeMissedWhileADirectoryCannotBeWatched(t *testing.T) {
	for name, end := range map[string]func(w *Watches){
		"retry": func(w *Watches) { w.retry() },
		"want":  func(w *Watches) { w.Want("/a", 2) },
		"drop":  func(w *Watches) { w.Drop("/a") },
		"adopt": func(w *Watches) {
			var other Watcher = &fakeWatcher{}
			w.opened.Store(&other)
			w.adopt()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, watcher := NewWatches(nil), &fakeWatcher{err: errors.New("no more watches")}
			use(t, w, watcher)
			w.Want("/a", 1)
			if w.retry(); !w.mayMissEvents() {
				t.Fatal("no event may be missed although a directory cannot be watched")
			}
			watcher.err = nil
			if end(w); w.mayMissEvents() {
				t.Error("events may still be missed")
			}
			if last := watcher.calls[len(watcher.calls)-1]; name == "retry" && last != "rewatch /a" {
				t.Errorf("last call %q, want the watch to be renewed", last)
			}
		})
	}
}
