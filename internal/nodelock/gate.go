// SPDX-License-Identifier: Apache-2.0

// Package nodelock makes the device plugin and the DRA driver exclude each other on a node. The
// scheduler and the kubelet keep separate accounts of the devices of the two APIs, so a node that
// offers a device through both can give it to two pods.
//
// Both programs open the same file in the kubelet's directory for device plugins. The kubelet
// deletes only sockets there (pkg/kubelet/cm/devicemanager/manager.go, CleanupPluginDirectory, of
// Kubernetes 1.36). Each instance of a front has a shared lock on the byte of its front, so that
// two instances may overlap during an update. The locks are those of open file descriptions
// (fcntl(2), F_OFD_SETLK). They hold between containers, and the kernel releases them however a
// process ends. The file is empty and stays when the programs end.
//
// Limits: if the file is deleted while the DRA driver serves, a device plugin that starts
// later serves as well. The DRA driver reports that, and any other program that starts later and
// takes no lock, only in [Gate.Check].
package nodelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/dirwatch"
)

const (
	// lookInterval is the time between two looks at the lock while the front waits for it. A look
	// takes microseconds, and waiting in F_OFD_SETLKW could not be canceled.
	lookInterval = 2 * time.Second

	// settleTime is how long the lock must have been free before a front that has waited takes it.
	// So a front keeps the node when its process is restarted or updated, while pods hold devices.
	settleTime = 10 * time.Second

	// repeatInterval is how often the log says why the front waits.
	repeatInterval = 10 * time.Minute
)

// A Config describes a Gate.
type Config struct {
	Front     Front
	Dir       string // the kubelet's directory for device plugins
	Namespace string // of the resources, such as "qat.intel.com"; names the lock file

	// Ignored reports whether a device plugin may serve a resource, named without the namespace,
	// beside the DRA driver. Only Gates of the DRA driver call it. Nil means none.
	Ignored func(resource string) bool

	// OtherDriver is the registration socket of a DRA driver of another implementation with the
	// same name, which takes no lock. Only Gates of the DRA driver look at it. Empty means none.
	OtherDriver string
}

// A Gate lets a front serve while the other front does not.
type Gate struct {
	config Config
	path   string // of the lock file

	mu      sync.Mutex
	lock    io.Closer // nil: the front does not have the lock
	waiting error     // why the front does not serve; nil if it does, or Run has not looked yet
	joined  string    // the error that Check has logged last
}

// New returns a Gate. It does nothing before Run is called.
func New(config Config) *Gate {
	if config.Ignored == nil {
		config.Ignored = func(string) bool { return false }
	}
	return &Gate{config: config, path: filepath.Join(config.Dir, config.Namespace+".lock")}
}

// Run waits until the other front does not serve, takes the lock, calls serve and returns its
// error. If ctx ends before that, Run returns nil. The lock is held until Release, because a
// program may still answer calls when serve has returned.
//
// If the lock is free, Run calls serve at once. Otherwise it logs why it waits, at first and every
// ten minutes, and looks every two seconds. It then takes the lock when it was free for ten
// seconds, so that a restart or an update of the other front does not swap the fronts.
//
// A DRA driver also waits while a live process serves a socket of the namespace or OtherDriver, and
// if it cannot take the lock. A device plugin that cannot take the lock, for example because the
// directory is read-only, logs that and serves without it. If the directory does not exist, nobody
// can serve. A device plugin then looks at the lock as soon as the directory appears.
func (g *Gate) Run(ctx context.Context, serve func(context.Context) error) error {
	err := g.acquire(ctx)
	for g.config.Front == DevicePlugin && errors.Is(err, fs.ErrNotExist) {
		if !g.awaitDirectory(ctx) {
			return nil
		}
		err = g.acquire(ctx)
	}
	if err != nil && !g.wait(ctx, err) {
		return nil
	}
	return serve(ctx)
}

// Release releases the lock. It may be called more than once.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lock != nil {
		g.lock.Close()
		g.lock = nil
	}
}

// Waiting reports whether Run waits.
func (g *Gate) Waiting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting != nil
}

// Check returns an error while Run waits. In a DRA driver that serves, it also returns an error if
// a program that takes no lock has started since, and logs that. Any goroutine may call Check.
func (g *Gate) Check(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting != nil || g.lock == nil || g.config.Front == DevicePlugin {
		return g.waiting
	}
	err := g.checkSockets()
	if err == nil {
		g.joined = ""
	} else if g.joined != err.Error() {
		g.joined = err.Error()
		klog.FromContext(ctx).Error(err, "Pods can get the same device from two programs; "+
			"remove one of the two from the node")
	}
	return err
}

// acquire takes the lock. It returns nil, too, if the front serves without the lock.
func (g *Gate) acquire(ctx context.Context) error {
	lock, err := acquire(g.path, g.config.Front)
	if err == nil && g.config.Front == DRADriver {
		// A device plugin that starts from now on finds the lock. One that takes no lock may
		// already serve.
		if err = g.checkSockets(); err != nil {
			lock.Close()
		}
	}
	if err != nil && g.mustWait(err) {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = nil
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot take the lock of this node, serving its devices without it")
		return nil
	}
	g.lock = lock
	return nil
}

// checkSockets returns an error that wraps errHeld if a program that takes no lock serves the
// devices.
func (g *Gate) checkSockets() error {
	if path := g.config.OtherDriver; path != "" && isServed(path) {
		return fmt.Errorf("another DRA driver serves %s: %w", path, errHeld)
	}
	return checkSockets(g.config.Dir, g.config.Namespace, g.config.Ignored)
}

// mustWait reports whether the front must not serve because of an error. A device plugin serves if
// it cannot take the lock for a reason of its own.
func (g *Gate) mustWait(err error) bool {
	return g.config.Front == DRADriver || errors.Is(err, errHeld) || errors.Is(err, fs.ErrNotExist)
}

// look returns why the front must not serve, or nil. It takes no lock.
func (g *Gate) look() error {
	err := look(g.path, g.config.Front)
	if err == nil && g.config.Front == DRADriver {
		err = g.checkSockets()
	}
	if err != nil && g.mustWait(err) {
		return err
	}
	return nil
}

// wait waits until the lock is free, and takes it. err is why it was not free at first. wait
// returns false if ctx ended before.
func (g *Gate) wait(ctx context.Context, err error) bool {
	log := klog.FromContext(ctx)
	var loggedAt time.Time
	var logged string
	for free := time.Duration(0); ; free += lookInterval {
		if err != nil {
			free = 0
			g.mu.Lock()
			g.waiting = err
			g.mu.Unlock()
			if now := time.Now(); err.Error() != logged || now.Sub(loggedAt) >= repeatInterval {
				g.report(log, err)
				logged, loggedAt = err.Error(), now
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(lookInterval):
		}
		if free < settleTime {
			err = g.look()
			continue
		}
		if err = g.acquire(ctx); err == nil {
			log.Info("Serving the devices of this node after waiting for its lock", "lock", g.path)
			return true
		}
	}
}

// report logs why the front waits.
func (g *Gate) report(log klog.Logger, err error) {
	switch {
	case errors.Is(err, errHeld):
		log.Error(err, "Not serving the devices of this node, because another program serves them; "+
			"remove one of the two from the node")
	case errors.Is(err, fs.ErrNotExist):
		log.Info("Waiting for the kubelet's directory for device plugins", "path", g.config.Dir)
	default:
		log.Error(err, "Cannot take the lock of this node, not serving its devices", "lock", g.path)
	}
}

// awaitDirectory waits until the kubelet's directory exists. It returns false if ctx ended before.
// It logs nothing, because what serves the kubelet waits for the directory, too, and logs that.
func (g *Gate) awaitDirectory(ctx context.Context) bool {
	g.mu.Lock()
	g.waiting = &fs.PathError{Op: "wait for", Path: g.config.Dir, Err: fs.ErrNotExist}
	g.mu.Unlock()
	for ctx.Err() == nil {
		watch, err := dirwatch.New(g.config.Dir)
		exists := dirwatch.Exists(g.config.Dir)
		switch {
		case exists:
		case err == nil:
			awaitMove(ctx, watch)
		default: // inotify is not available
			select {
			case <-ctx.Done():
			case <-time.After(lookInterval):
			}
		}
		watch.Close()
		if exists {
			return true
		}
	}
	return false
}

// awaitMove returns when the watched directory, or one above it, may have appeared or disappeared,
// and at the latest after lookInterval, because mounts and links cause no event.
func awaitMove(ctx context.Context, watch *dirwatch.Watch) {
	timer := time.NewTimer(lookInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-watch.Errors:
			return
		case event := <-watch.Events:
			if watch.Moved(event) {
				return
			}
		}
	}
}
