package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

var (
	// ErrWatchLimit is wrapped by the errors of a Watcher that the kernel gives no further inotify watch.
	ErrWatchLimit = errors.New("out of inotify watches (sysctl fs.inotify.max_user_watches)")
	// ErrInstanceLimit is wrapped by the error of NewWatcher when the kernel gives no further inotify instance.
	ErrInstanceLimit = errors.New("out of inotify instances (sysctl fs.inotify.max_user_instances) or of file descriptors")
)

func watchError(dir string, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("watch %q: %w: %w", dir, ErrWatchLimit, err)
	}
	return fmt.Errorf("watch %q: %w", dir, err)
}

// Watcher hears, through inotify, what happens in directories. It is a Source.
//
// Its events are: Create, Write and Delete with the path of an entry of a directory that is watched for; and Create or Delete with the path of such
// a directory itself, when it comes or goes. Who hears that a directory came looks at its entries: there may be some already.
// Changes of permissions and times are not told.
//
// What inotify cannot see, it cannot tell:
//   - sysfs shows only what user space writes. Nothing that the kernel makes, changes or removes there gives an event, and the watch on a directory that
//     was removed and made again is dead: call [Watcher.Rewatch] when something else (a uevent) says that it is back.
//   - A directory that is renamed with an ancestor of it, and one that is removed while somebody holds a file in it open, gives no event
//     of its going; nor does a file system that is mounted or unmounted over it. Rewatch helps there too.
//
// Paths are absolute and real, without symbolic links: fsnotify can know a directory by one name only, and a second one is an error.
// All methods may be called from any goroutine, also from the sink.
type Watcher struct {
	inotify   *fsnotify.Watcher
	started   atomic.Bool
	collected chan struct{} // closed when collect has ended
	wake      chan struct{} // holds a signal for Run: somebody came, went, or was lost

	mu     sync.Mutex // held for system calls on directories, never while the sink is called
	closed bool
	wishes *wishes

	errMu    sync.Mutex // never held together with anything that waits, see collect
	overflow bool
	readErr  error // the last failed read of inotify
	failures int   // failed reads without an event between them

	// Of Run alone:
	event   Event
	notices []notice
}

// notice is an event of a directory that is watched for.
type notice struct {
	action Action
	path   string
}

// NewWatcher makes a Watcher that watches nothing yet. An error is [ErrInstanceLimit] when there are too many of them.
func NewWatcher() (*Watcher, error) {
	inotify, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		return nil, fmt.Errorf("make watcher: %w: %w", ErrInstanceLimit, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make watcher: %w", err)
	}
	w := &Watcher{inotify: inotify, collected: make(chan struct{}), wake: make(chan struct{}, 1), wishes: newWishes(inotify)}
	go w.collect() // ends with Close, which waits for it
	return w, nil
}

// Watch wishes for the events of dir's entries, and of dir itself coming and going. The kernel queues them from here on: look at dir after Watch,
// and nothing is missed. dir need not exist; when it comes, also after it went, there is an event Create of dir. To wish twice is to
// wish once.
//
// After an error ([ErrWatchLimit], or what is wrong with the path) the wish is kept if the path is absolute, and tried again
// whenever a watch of this Watcher becomes free, and with each Watch and Rewatch; when it succeeds there is an event Create of dir.
func (w *Watcher) Watch(dir string) error { return w.want(dir, false) }

// Rewatch is Watch that trusts nothing that was known of dir and what is watched below it, and sets new watches. Look at dir
// afterwards; for each directory below it that is watched for there is an event Create.
func (w *Watcher) Rewatch(dir string) error { return w.want(dir, true) }

func (w *Watcher) want(dir string, remade bool) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("watch %q: not an absolute path", dir)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("watch %q: %w", dir, os.ErrClosed)
	}
	defer w.signalNotices()
	w.wishes.freed = true // perhaps by another process
	return w.wishes.want(filepath.Clean(dir), remade)
}

// Unwatch takes the wish for dir back, and gives back every watch that was there only for it. Events that are on their way may still come.
func (w *Watcher) Unwatch(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	defer w.signalNotices()
	w.wishes.drop(filepath.Clean(dir))
}

// Err says which wishes cannot be heard of now, and why; nil when all can.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wishes.err()
}

// Run hands every event to sink until ctx ends, and then closes the Watcher and returns nil. It is called once. An error is
// [os.ErrClosed] when Close ended it, or what went wrong with inotify several times in a row.
func (w *Watcher) Run(ctx context.Context, sink Sink) error {
	if !w.started.CompareAndSwap(false, true) {
		return errors.New("run watcher: it was run before")
	}
	defer w.Close()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e, ok := <-w.inotify.Events:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("watch directories: %w", os.ErrClosed)
			}
			w.handle(e, sink)
		case <-w.wake:
			if err := w.attend(sink); err != nil {
				return fmt.Errorf("watch directories: %w", err)
			}
		}
	}
	return nil
}

// handle works on one event of fsnotify, whose path is that of a watched directory, or of an entry of one.
func (w *Watcher) handle(e fsnotify.Event, sink Sink) {
	now := time.Now()
	action, ok := actionOf(e.Op)
	if !ok {
		return
	}
	path := e.Name
	if len(path) > 1 && path[1] == '/' { // an entry of "/"
		path = path[1:]
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	dir, n := w.wishes.nodes[filepath.Dir(path)], w.wishes.nodes[path]
	if n != nil && action != Write {
		w.wishes.changed(n)
	}
	tell := dir != nil && dir.wanted
	if tell && n != nil && n.told && n.exists == (action == Create) {
		w.wishes.untell(n) // it says the same
	}
	w.takeNotices()
	w.mu.Unlock()

	if tell {
		w.deliver(sink, action, path, now)
	}
	w.deliverNotices(sink, now)

	w.errMu.Lock()
	w.failures = 0
	w.errMu.Unlock()
}

func actionOf(op fsnotify.Op) (Action, bool) {
	switch {
	case op.Has(fsnotify.Create):
		return Create, true
	case op.Has(fsnotify.Remove), op.Has(fsnotify.Rename): // fsnotify's Rename is of the old name
		return Delete, true
	case op.Has(fsnotify.Write):
		return Write, true
	}
	return 0, false
}

// attend does what was put off for Run. An error is one that Run ends with.
func (w *Watcher) attend(sink Sink) error {
	now := time.Now()
	w.errMu.Lock()
	overflow, readErr, failures := w.overflow, w.readErr, w.failures
	w.overflow, w.readErr = false, nil
	w.errMu.Unlock()
	if failures >= maxFailures {
		return readErr
	}

	w.mu.Lock()
	if (overflow || readErr != nil) && !w.closed {
		if root := w.wishes.nodes["/"]; root != nil {
			w.wishes.changed(root)
		}
	}
	w.takeNotices()
	w.mu.Unlock()

	if overflow {
		sink.Resync("inotify queue overflow")
	}
	if readErr != nil {
		sink.Resync("inotify: " + readErr.Error())
	}
	if !overflow && readErr == nil { // a Resync stands for them
		w.deliverNotices(sink, now)
	}
	return nil
}

// takeNotices moves what happened to wanted directories out of reach of the lock.
func (w *Watcher) takeNotices() {
	w.notices = w.notices[:0]
	for _, n := range w.wishes.told {
		n.told = false
		switch {
		case !n.wanted:
		case n.exists:
			w.notices = append(w.notices, notice{Create, n.path})
		default:
			w.notices = append(w.notices, notice{Delete, n.path})
		}
	}
	clear(w.wishes.told)
	w.wishes.told = w.wishes.told[:0]
}

func (w *Watcher) deliverNotices(sink Sink, at time.Time) {
	for _, n := range w.notices {
		w.deliver(sink, n.action, n.path, at)
	}
}

func (w *Watcher) deliver(sink Sink, action Action, path string, at time.Time) {
	w.event.Origin, w.event.Action, w.event.Time = Inotify, action, at
	w.event.Path = append(w.event.Path[:0], path...)
	sink.Event(&w.event)
}

func (w *Watcher) signalNotices() {
	if len(w.wishes.told) > 0 {
		w.signal()
	}
}

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// collect takes the errors of fsnotify as they come. It must never wait for w.mu: fsnotify sends one of its errors (of a directory that was renamed
// and then removed) under the lock that its Add needs, and we call Add under w.mu.
func (w *Watcher) collect() {
	defer close(w.collected)
	for err := range w.inotify.Errors {
		if errors.Is(err, unix.EINVAL) {
			continue // a watch that it wanted to remove went by itself
		}
		w.errMu.Lock()
		if errors.Is(err, fsnotify.ErrEventOverflow) {
			w.overflow = true
		} else {
			w.readErr = err
			w.failures++
		}
		w.errMu.Unlock()
		w.signal()
	}
}

// Close gives back all watches and ends Run. It may be called more than once.
func (w *Watcher) Close() error {
	w.mu.Lock() // fsnotify uses the number of its descriptor in Add and Remove, also when Close has given it to another file
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	err := w.inotify.Close()
	<-w.collected
	return err
}
