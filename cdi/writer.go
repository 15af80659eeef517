// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"qatplugin/devtree"
)

const (
	retryFirst     = time.Second
	retryMax       = time.Minute
	repeatInterval = 10 * time.Minute // between log lines for the same error

	pollInterval = 2 * time.Second // for changes that no event reports, such as a killed process

	repairFirst = 100 * time.Millisecond // between repairs of a file that others keep changing
	repairMax   = time.Minute
)

// Config selects the spec files that a Writer keeps. Several Writers, in one process or in several,
// may use the same Dir, Vendor and Class.
type Config struct {
	Dir    string // of the spec files, usually /var/run/cdi; created when missing
	Vendor string // vendor of all devices: "color.example.com"
	Class  string // class of all devices; if empty, each resource is a class of its own
}

// classOf returns the CDI class of the resource's devices.
func (c *Config) classOf(resource string) string {
	if c.Class == "" {
		return resource
	}
	return c.Class
}

// QualifiedName returns the CDI name of a device: "<vendor>/<class>=<ID>".
func (c *Config) QualifiedName(resource, id string) string {
	return parser.QualifiedName(c.Vendor, c.classOf(resource), id)
}

// Writer keeps CDI spec files in sync with the newest Tree. It retries failed writes and
// throttles its log.
type Writer struct {
	config  Config
	program string // name of the running program
	publish func(*devtree.Tree)

	mu    sync.Mutex         // serializes Update
	trees chan *devtree.Tree // the newest Tree, unless Run has taken it
}

// NewWriter returns a Writer. The Writer adds CDI names to the newest Tree and calls publish with
// the result, unless the result equals the Tree that it published last. The generations of the
// published Trees are their own, and not those of the Trees passed to Update. NewWriter returns an
// error if CDI does not allow the vendor or the class.
func NewWriter(config Config, publish func(*devtree.Tree)) (*Writer, error) {
	if err := parser.ValidateVendorName(config.Vendor); err != nil {
		return nil, fmt.Errorf("CDI vendor %q: %w", config.Vendor, err)
	}
	if config.Class != "" {
		if err := parser.ValidateClassName(config.Class); err != nil {
			return nil, fmt.Errorf("CDI class %q: %w", config.Class, err)
		}
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("CDI directory %q: %w", config.Dir, err)
	}
	config.Dir = dir
	return &Writer{
		config:  config,
		program: filepath.Base(os.Args[0]),
		publish: publish,
		trees:   make(chan *devtree.Tree, 1),
	}, nil
}

// Update makes the Tree the newest one. It never waits for the disk. Run skips Trees
// that are superseded before it takes them. Any goroutine may call Update.
func (w *Writer) Update(tree *devtree.Tree) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.trees:
	default:
	}
	w.trees <- tree
}

// Run writes specs and publishes Trees until ctx ends. It logs through the klog
// logger of ctx, and calls publish only from its own goroutine.
func (w *Writer) Run(ctx context.Context) { w.run(ctx, disk{replaceFile, removeFile, watchDir}) }

func (w *Writer) run(ctx context.Context, disk disk) {
	log := klog.FromContext(ctx)
	dirChanged := make(chan struct{}, 1)
	wake := func() {
		select {
		case dirChanged <- struct{}{}:
		default: // a pending wake-up covers this one
		}
	}
	syncer := newSyncer(w.config, w.program, log, w.publish, disk, wake)
	defer syncer.close()
	problemLog := newProblemLog(log)
	var (
		tree    *devtree.Tree
		pause   time.Duration // before the last retry
		repairs damper
		next    alarm
	)
	for {
		select {
		case <-ctx.Done():
			return
		case tree = <-w.trees:
		case <-next.c:
		case <-dirChanged:
			if wait := repairs.wait(time.Now()); wait > 0 {
				next.advance(wait)
				continue
			}
		}
		found := syncer.sync(tree)
		problemLog.write(found, time.Now())
		repairs.count(syncer.repairs, time.Now())
		next.stop()
		if found.polled() {
			next.advance(pollInterval)
		}
		if found.retryable() {
			pause = min(max(retryFirst, 2*pause), retryMax)
			next.advance(pause - rand.N(pause/2))
		} else {
			pause = 0
		}
	}
}

// alarm is a timer. The zero alarm is stopped.
type alarm struct {
	c  <-chan time.Time // nil if the alarm is stopped
	at time.Time
}

func (a *alarm) stop() { a.c = nil }

// advance makes the alarm go off after d, unless it goes off earlier.
func (a *alarm) advance(d time.Duration) {
	if at := time.Now().Add(d); a.c == nil || at.Before(a.at) {
		a.c, a.at = time.After(d), at
	}
}

// damper delays repairs of files that another process changes again and again. The first repair is
// made at once. The pause after a repair doubles each time, and starts over when no repair was
// needed for repairMax after a pause.
type damper struct {
	repairs int
	last    time.Time
	pause   time.Duration // after last
}

// count records the number of repairs so far.
func (d *damper) count(repairs int, now time.Time) {
	if repairs == d.repairs {
		return
	}
	if now.Sub(d.last) > d.pause+repairMax {
		d.pause = 0
	}
	d.repairs, d.last, d.pause = repairs, now, min(max(repairFirst, 2*d.pause), repairMax)
}

// wait returns how long the next repair must wait.
func (d *damper) wait(now time.Time) time.Duration { return d.last.Add(d.pause).Sub(now) }
