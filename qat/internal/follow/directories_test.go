package follow

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func adopt(t *testing.T, d *Directories, w Watcher) {
	t.Helper()
	if _, err := d.Open(func() (Watcher, error) { return w, nil })(); err != nil {
		t.Fatal(err)
	}
	d.Adopt()
}

// On sysfs the watch of a directory that went and came back under the same name is dead without a word.
func TestADirectoryThatCameBackIsWatchedAnew(t *testing.T) {
	r := &recordingWatcher{}
	w := NewDirectories()
	adopt(t, w, r)
	w.Want("/a", 1)
	w.Want("/a", 1)
	w.Want("/a", 2)
	w.Drop("/a")
	w.Drop("/a")
	w.Want("/a", 3)
	want := []string{"watch /a", "rewatch /a", "unwatch /a", "watch /a"}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestAnotherWatcherIsAskedForEverythingAnew(t *testing.T) {
	w, r := NewDirectories(), &recordingWatcher{}
	adopt(t, w, &recordingWatcher{})
	w.Want("/a", 1)
	adopt(t, w, r)
	w.Want("/a", 1)
	if diff := cmp.Diff([]string{"watch /a"}, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestADirectoryThatCouldNotBeWatchedIsAskedForAgain(t *testing.T) {
	w, r := NewDirectories(), &recordingWatcher{err: errors.New("no more watches")}
	adopt(t, w, r)
	w.Want("/a", 1)
	if w.Retry(); !w.Limited() {
		t.Errorf("nothing says that a directory is not watched")
	}
	r.err = nil
	if w.Retry(); w.Limited() {
		t.Errorf("it is still taken for limited after the watch could be had")
	}
	if diff := cmp.Diff([]string{"watch /a", "rewatch /a", "rewatch /a"}, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestLimitedEndsWithTheFailedWatch(t *testing.T) {
	for name, end := range map[string]func(d *Directories){
		"a new watcher is adopted":     func(d *Directories) { adopt(t, d, &recordingWatcher{}) },
		"a new incarnation is watched": func(d *Directories) { d.Want("/a", 2) },
		"the directory is dropped":     func(d *Directories) { d.Drop("/a") },
		"all but others are dropped":   func(d *Directories) { d.DropOthers(func(dir string) bool { return dir != "/a" }) },
		"the watch succeeds later":     func(d *Directories) { d.Retry() },
		"dropped and wanted again":     func(d *Directories) { d.Drop("/a"); d.Want("/a", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			d, w := NewDirectories(), &recordingWatcher{}
			adopt(t, d, w)
			d.Want("/b", 1)
			w.err = errors.New("no more watches")
			d.Want("/a", 1)
			if !d.Limited() {
				t.Fatal("not limited although a directory could not be watched")
			}
			w.err = nil
			d.Want("/b", 1)
			if !d.Limited() {
				t.Error("not limited any more although the directory is still not watched")
			}
			if end(d); d.Limited() {
				t.Error("still limited")
			}
		})
	}
}

func TestOnlyWhatIsKeptIsFollowed(t *testing.T) {
	w, r := NewDirectories(), &recordingWatcher{}
	w.Want("/before", 1) // there is no watcher yet
	adopt(t, w, r)
	w.Want("/a", 1)
	w.Want("/b", 1)
	w.DropOthers(func(dir string) bool { return dir == "/b" })
	if diff := cmp.Diff([]string{"watch /a", "watch /b", "unwatch /a"}, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
