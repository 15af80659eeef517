package qat

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
)

// recordingWatcher notes what is asked of it.
type recordingWatcher struct {
	calls []string
	err   error
}

func (w *recordingWatcher) Run(context.Context, events.Sink) error { return nil }
func (w *recordingWatcher) Watch(dir string) error {
	w.calls = append(w.calls, "watch "+dir)
	return w.err
}
func (w *recordingWatcher) Unwatch(dir string) { w.calls = append(w.calls, "unwatch "+dir) }
func (w *recordingWatcher) Rewatch(dir string) error {
	w.calls = append(w.calls, "rewatch "+dir)
	return w.err
}

// On sysfs the watch of a directory that went and came back under the same name is dead without a word.
func TestADirectoryThatCameBackIsWatchedAnew(t *testing.T) {
	r := &recordingWatcher{}
	w := newWatches()
	w.adopt(r)
	w.ensure("/a", 1)
	w.ensure("/a", 1)
	w.ensure("/a", 2)
	f := &Function{Dir: "/a", Family: &families[0]}
	w.drop(&host{}, f)
	w.drop(&host{}, f)
	w.ensure("/a", 3)
	want := []string{"watch /a", "rewatch /a", "unwatch /a", "watch /a"}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestAnotherWatcherIsAskedForEverythingAnew(t *testing.T) {
	w, r := newWatches(), &recordingWatcher{}
	w.adopt(&recordingWatcher{})
	w.ensure("/a", 1)
	w.adopt(r)
	w.ensure("/a", 1)
	if diff := cmp.Diff([]string{"watch /a"}, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestADirectoryThatCouldNotBeWatchedIsAskedForAgain(t *testing.T) {
	w, r := newWatches(), &recordingWatcher{err: errors.New("no more watches")}
	w.adopt(r)
	w.ensure("/a", 1)
	if w.retry(); !w.limited() {
		t.Errorf("nothing says that a directory is not watched")
	}
	r.err = nil
	if w.retry(); w.limited() {
		t.Errorf("it is still taken for limited after the watch could be had")
	}
	if diff := cmp.Diff([]string{"watch /a", "rewatch /a", "rewatch /a"}, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
