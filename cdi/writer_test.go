// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// testWriter is a Writer that runs in a synctest bubble.
type testWriter struct {
	*Writer
	t         *testing.T
	log       logBuffer
	published []*devtree.Tree
	hold      chan struct{} // publish waits for it to be closed

	mu       sync.Mutex
	wake     func()      // tells the Writer that the directory has changed
	attempts []time.Time // at writing a file, since the last setError
	err      error       // what an attempt returns; nil to write the file
}

func (w *testWriter) setError(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.attempts = err, nil
}

// tries returns the number of attempts.
func (w *testWriter) tries() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.attempts)
}

func (w *testWriter) replace(path string, text []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = append(w.attempts, time.Now())
	if w.err != nil {
		return fmt.Errorf("replace %s: %w", path, w.err)
	}
	return replaceFile(path, text)
}

// watch watches nothing: the test calls wake.
func (w *testWriter) watch(_ string, _ func(fsnotify.Event) bool, wake func()) (*watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake = wake
	return nil, nil
}

// startWriter starts a Writer whose attempts fail with err. It ends with the test.
func startWriter(t *testing.T, err error) *testWriter {
	t.Helper()
	w := &testWriter{t: t, err: err, hold: make(chan struct{})}
	close(w.hold)
	publish := func(tree *devtree.Tree) {
		w.published = append(w.published, tree)
		<-w.hold
	}
	var invalid error
	w.Writer, invalid = NewWriter(Config{Dir: t.TempDir(), Vendor: vendor, Class: "vf"}, publish)
	if invalid != nil {
		t.Fatal(invalid)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), w.log.logger()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx, disk{w.replace, removeFile, w.watch})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return w
}

// names returns the CDI names that were published last.
func (w *testWriter) names() []string {
	w.t.Helper()
	if len(w.published) == 0 {
		w.t.Fatal("nothing was published")
	}
	return names(w.published[len(w.published)-1])
}

func TestInvalidVendorOrClassIsRefused(t *testing.T) {
	for _, tt := range []struct{ vendor, class, want string }{
		{vendor, "", ""},
		{vendor, "vf", ""},
		{vendor, "v f", `CDI class "v f": `},
		{"3color.example.com", "vf", `CDI vendor "3color.example.com": `},
	} {
		_, err := NewWriter(Config{Dir: "cdi", Vendor: tt.vendor, Class: tt.class}, nil)
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("vendor %q, class %q: %v, want %q", tt.vendor, tt.class, err, tt.want)
		}
	}
}

func TestDirectoryIsRelativeToTheStartDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	start, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(Config{Dir: "cdi", Vendor: vendor}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(start, "cdi"); w.config.Dir != want {
		t.Errorf("directory %q, want %q", w.config.Dir, want)
	}
}

// While a Tree is being published, the Writer takes no other. Of those that come
// meanwhile, it takes the newest.
func TestSupersededTreesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, nil)
		w.hold = make(chan struct{})
		first := with(t, nil, "yellow", color("1"))
		second := with(t, first, "yellow", color("2"))
		w.Update(first)
		synctest.Wait() // for Run to publish it
		w.Update(second)
		w.Update(with(t, second, "yellow", color("3")))
		close(w.hold)
		synctest.Wait()
		if len(w.published) != 2 || len(w.names()) != 3 {
			t.Errorf("%d Trees published, the last one with the names %v", len(w.published), w.names())
		}
		w.Update(nil)
		synctest.Wait()
		if len(w.published) != 3 || len(w.names()) != 0 {
			t.Errorf("%d Trees published, the last one with the names %v", len(w.published), w.names())
		}
	})
}

func TestFailedWriteIsRetriedWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, syscall.ENOSPC)
		w.Update(with(t, nil, "yellow", color("1")))
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.names(); len(got) != 0 {
			t.Errorf("published the names %v of specs that are not on disk", got)
		}
		pauses := w.pauses()
		for i, longest := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			longest *= time.Second
			if got := pauses[i]; got > longest || got < longest/2 {
				t.Errorf("pause %d is %v, want %v at most, and half of it at least", i, got, longest)
			}
		}
		if pauses[7] == pauses[8] {
			t.Errorf("two pauses of %v, want random ones", pauses[7])
		}
		if n := w.log.count("remedy"); n < 6 || n > 7 { // one in ten minutes
			t.Errorf("%d lines with a remedy in one hour:\n%s", n, &w.log)
		}

		w.setError(nil)
		time.Sleep(retryMax)
		synctest.Wait()
		if diff := cmp.Diff(runtimeDevices(t, w.config.Dir), w.names()); diff != "" || len(w.names()) != 1 {
			t.Errorf("on disk, and published (-want +got):\n%s", diff)
		}
		if w.log.count("CDI problem solved") != 1 {
			t.Errorf("the log does not say that the problem is solved:\n%s", &w.log)
		}

		// The next failure starts with a short pause again.
		w.setError(syscall.ENOSPC)
		w.Update(with(t, nil, "yellow", color("2")))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if pauses := w.pauses(); pauses[0] > time.Second {
			t.Errorf("the first pause after a success is %v", pauses[0])
		}
	})
}

// pauses returns the times between attempts. One sync makes two attempts at once.
func (w *testWriter) pauses() (list []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.attempts); i++ {
		if d := w.attempts[i].Sub(w.attempts[i-1]); d > 0 {
			list = append(list, d)
		}
	}
	if len(list) == 0 {
		w.t.Fatal("there was no second attempt")
	}
	return list
}

func TestTreeDoesNotWaitForARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, syscall.ENOSPC)
		tree := with(t, nil, "yellow", color("1"))
		w.Update(tree)
		time.Sleep(10 * time.Minute) // the pauses are long now
		synctest.Wait()
		w.setError(nil)
		w.Update(with(t, tree, "yellow", color("2")))
		synctest.Wait()
		if got := w.names(); len(got) != 2 {
			t.Errorf("published the names %v", got)
		}
	})
}

func TestWriterWithoutProblemsDoesNotPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, syscall.ENOSPC)
		w.Update(with(t, nil, "yellow", color("1")))
		synctest.Wait()
		w.setError(nil)
		w.Update(with(t, nil, "yellow", color("1"), color("2"))) // before the retry
		synctest.Wait()
		if err := os.Remove(specPath(w.config.Dir, "vf")); err != nil {
			t.Fatal(err)
		}
		w.setError(nil) // forgets the attempts
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(w.attempts); n > 0 {
			t.Errorf("%d attempts to write", n)
		}
	})
}

// The first repair is made at once. Two processes that keep repairing the same file must not use up
// the machine.
func TestRepairsOfAFileThatOthersKeepChangingAreDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, nil)
		w.Update(with(t, nil, "yellow", color("1")))
		synctest.Wait()
		path := specPath(w.config.Dir, "vf")
		change := func() {
			writeFile(t, path, "{}")
			w.mu.Lock()
			wake := w.wake
			w.mu.Unlock()
			wake()
			synctest.Wait()
		}
		w.setError(nil) // forgets the attempts
		change()
		if w.tries() != 1 {
			t.Fatalf("%d repairs at once, want 1", w.tries())
		}
		for range 4 * 60 * 20 { // for four minutes
			time.Sleep(50 * time.Millisecond)
			change()
		}
		pauses := w.pauses()
		shortest := repairFirst
		for i := range 12 { // 100, 200, 400 ms and so on, then a minute
			if got := pauses[i]; got < shortest || got > shortest+50*time.Millisecond {
				t.Errorf("pause %d is %v, want %v", i, got, shortest)
			}
			shortest = min(2*shortest, repairMax)
		}
		if n := w.log.count("Restored a CDI spec"); n != w.tries() {
			t.Errorf("%d repairs, %d logged", w.tries(), n)
		}

		time.Sleep(2 * repairMax) // the last repair is made, and then nothing happens
		time.Sleep(2 * repairMax)
		w.setError(nil)
		change()
		if w.tries() != 1 {
			t.Errorf("%d repairs at once after a quiet time, want 1", w.tries())
		}
		change()
		time.Sleep(repairFirst)
		synctest.Wait()
		if w.tries() != 2 {
			t.Errorf("%d repairs %v later, want 2: the pauses start again", w.tries(), repairFirst)
		}
		if diff := cmp.Diff([]string{vendor + "/vf=1"}, runtimeDevices(t, w.config.Dir)); diff != "" {
			t.Errorf("on disk (-want +got):\n%s", diff)
		}
	})
}

// The name of a temporary file is in the error, and each second change needs no write.
func TestErrorsAreLoggedOnceByCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, nil)
		first := with(t, nil, "yellow", color("1"))
		second := with(t, first, "yellow", color("2"))
		w.Update(first)
		synctest.Wait()
		for i := range 200 {
			w.setError(&os.PathError{Op: "write", Path: fmt.Sprintf("/cdi/.x.%d.tmp", i), Err: syscall.ENOSPC})
			w.Update([]*devtree.Tree{second, first}[i%2])
			synctest.Wait()
		}
		if n := w.log.count("error") + w.log.count("solved"); n > 3 {
			t.Errorf("%d lines for 200 changes:\n%s", n, &w.log)
		}
	})
}

// A device that CDI cannot describe needs another Tree, and not a retry.
func TestProblemOfADeviceIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWriter(t, nil)
		w.Update(with(t, nil, "yellow", color("/dev/1"), color("2")))
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := w.log.count("Serving a device without its CDI name"); n != 1 {
			t.Errorf("%d lines in one hour, want 1:\n%s", n, &w.log)
		}
	})
}

func TestFilesStayWhenRunReturns(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	w, err := NewWriter(Config{Dir: dir, Vendor: vendor}, func(*devtree.Tree) { cancel() })
	if err != nil {
		t.Fatal(err)
	}
	w.Update(with(t, nil, "yellow", color("1")))
	w.Run(ctx)
	if diff := cmp.Diff([]string{vendor + "/yellow=1"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}
