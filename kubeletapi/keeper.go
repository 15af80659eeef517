package kubeletapi

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// keeper keeps what is between the Manager and the kubelet: the directory, the kubelet's socket, ours, and the registrations. It is
// one goroutine, Run's own. Whatever wakes it, it does the same: it looks at what is there and does what is missing. So no order of
// the kubelet's doings has to be foreseen, and a wake-up too many costs a few system calls.
type keeper struct {
	m         *Manager
	log       klog.Logger
	endpoints []*endpoint    // in the order in which their resources appeared
	attempts  sync.WaitGroup // Register calls under way

	streams    context.Context // that of all ListAndWatch streams; not Run's, which ends before the last answers are out
	endStreams context.CancelFunc

	watch        *dirWatch // nil: the watch could not be had
	watchTrouble trouble
	rewatchAt    time.Time // without a watch: when to look and try again

	kubelet    fileID // kubelet.sock at the last look, zero when it was not there
	lives      int    // how often kubelet.sock was found to be another file
	waitingFor string // what the log was told last
}

func newKeeper(m *Manager, log klog.Logger) *keeper {
	k := &keeper{m: m, log: log}
	k.streams, k.endStreams = context.WithCancel(context.Background())
	return k
}

// run returns when ctx ends.
func (k *keeper) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	changed := true // the directory may have changed since the last look
	for ctx.Err() == nil {
		timer.Stop()
		if next := k.look(ctx, changed); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		changed = false
		events, failures := k.watch.channels()
		select {
		case <-ctx.Done():
		case <-k.m.wake:
		case <-timer.C:
		case ev, ok := <-events:
			changed = k.event(ev, ok)
		case err, ok := <-failures:
			changed = true
			if !ok || !errors.Is(err, fsnotify.ErrEventOverflow) {
				k.dropWatch(err)
			}
		}
	}
}

// event tells whether the event says that something of ours or the kubelet's changed.
func (k *keeper) event(ev fsnotify.Event, ok bool) bool {
	if !ok {
		k.dropWatch(errors.New("closed"))
		return true
	}
	ev.Name = filepath.Clean(ev.Name) // entries of "/" come as "//name"
	if k.watch.moved(ev) {
		k.rewatch()
		return true
	}
	if filepath.Dir(ev.Name) != k.m.config.dir {
		return false
	}
	if filepath.Base(ev.Name) == kubeletSocket {
		return true
	}
	for _, e := range k.endpoints {
		if ev.Name == e.path {
			return true
		}
	}
	return false // the kubelet's checkpoint, other plugins' sockets
}

// look does what is missing, and returns when it must look again at the latest; the zero time when nothing is to be waited for but
// events. changed says that what failed because of the directory may go now.
func (k *keeper) look(ctx context.Context, changed bool) time.Time {
	now := time.Now()
	if k.watch == nil && !now.Before(k.rewatchAt) {
		k.rewatch()
		changed = true
	}
	// The kubelet makes its socket when it has deleted ours. So first its socket is looked at, then ours: that we find ours after we
	// found a new one of its own means that ours will stay.
	k.findKubelet()
	k.addEndpoints()
	var next time.Time
	if k.watch == nil {
		next = k.rewatchAt
	}
	for _, e := range k.endpoints {
		next = earlier(next, e.tend(ctx, k.kubelet, now, changed))
	}
	return next
}

// findKubelet looks at the kubelet's socket.
func (k *keeper) findKubelet() {
	path := filepath.Join(k.m.config.dir, kubeletSocket)
	id, mode, err := identify(path)
	if err != nil || mode != fs.ModeSocket {
		k.kubelet = fileID{}
		if _, _, err := identify(k.m.config.dir); err != nil {
			k.await("Waiting for the kubelet's directory", k.m.config.dir)
		} else {
			k.await("Waiting for the kubelet's socket", path)
		}
		return
	}
	k.waitingFor = ""
	if id == k.kubelet {
		return
	}
	k.kubelet = id
	if k.lives++; k.lives > 1 {
		k.log.Info("The kubelet restarted, registering anew", "socket", path, "resources", len(k.endpoints))
	}
}

func (k *keeper) await(message, path string) {
	if k.waitingFor == message {
		return
	}
	k.waitingFor = message
	k.log.Info(message, "path", path)
}

// addEndpoints makes an endpoint for each resource that the newest Tree has and no Tree before it had.
func (k *keeper) addEndpoints() {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	for r := range k.m.publisher.Tree().Resources() {
		if _, known := k.m.served[r.Name()]; known {
			continue
		}
		e, err := newEndpoint(k, r.Name())
		if err != nil {
			k.m.served[r.Name()] = nil
			k.log.Error(err, "Cannot serve the resource", "resource", ResourceName(k.m.namespace, r.Name()))
			continue
		}
		k.m.served[r.Name()] = e.service
		k.endpoints = append(k.endpoints, e)
	}
}

// rewatch watches the directory as it is now.
func (k *keeper) rewatch() {
	k.watch.close()
	var err error
	if k.watch, err = k.m.config.watchDir(k.m.config.dir); err != nil {
		k.dropWatch(err)
		return
	}
	if k.watchTrouble.over() {
		k.log.Info("The kubelet's directory is watched again", "directory", k.m.config.dir)
	}
}

// dropWatch goes on without a watch, for a while.
func (k *keeper) dropWatch(err error) {
	k.watch.close()
	k.watch = nil
	every := k.m.config.checkInterval
	k.rewatchAt = time.Now().Add(every)
	k.watchTrouble.report(k.log, k.m.config.repeatInterval, err, "Cannot watch the kubelet's directory, looking at it from time to time", "directory", k.m.config.dir, "every", every)
}

// stop ends everything that run began, and waits for it and for watched; what has not ended in time is an error.
func (k *keeper) stop(watched <-chan struct{}) error {
	limit := time.NewTimer(k.m.config.stopDeadline)
	defer limit.Stop()
	answerLimit := time.NewTimer(k.m.config.stopDeadline / 2)
	defer answerLimit.Stop()

	k.watch.close()
	var ending sync.WaitGroup
	for _, e := range k.endpoints {
		e.socket.remove() // before the streams end, so that the kubelet finds nobody to connect to again
	}
	select {
	case <-k.m.calls.shut():
	case <-answerLimit.C:
	}
	k.endStreams()
	for _, e := range k.endpoints {
		ending.Go(e.stop)
	}
	done := make(chan struct{})
	go func() { ending.Wait(); k.attempts.Wait(); close(done) }()
	select {
	case <-done:
	case <-limit.C:
		return errors.New("a call of the plugin's Allocate, PreferredAllocation or PreStartContainer does not end")
	}
	select {
	case <-watched:
		return nil
	case <-limit.C:
		return errors.New("the plugin's Watch does not end")
	}
}

// earlier is the earlier of two times, of which the zero one stands for never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// trouble is an error that lasts. It keeps the log from being flooded with it.
type trouble struct {
	text string
	at   time.Time
}

// report logs the error when it is another than the one before it, or when that was long ago.
func (t *trouble) report(log klog.Logger, repeat time.Duration, err error, message string, keysAndValues ...any) {
	now := time.Now()
	if t.text == err.Error() && now.Sub(t.at) < repeat {
		return
	}
	t.text, t.at = err.Error(), now
	log.Error(err, message, keysAndValues...)
}

// over tells whether there was trouble, and forgets it.
func (t *trouble) over() bool {
	was := t.text != ""
	*t = trouble{}
	return was
}
