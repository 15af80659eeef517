package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

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
	p.start()
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
	p.start()
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
	for range 300 {
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
