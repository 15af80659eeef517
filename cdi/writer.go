// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"context"
	"fmt"
	"math/rand/v2"
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
)

// Config selects the spec files that a Writer keeps. A Writer owns all files of Vendor in
// Dir: two Writers with the same Dir and Vendor remove each other's files.
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

// Writer keeps CDI spec files in line with the newest Tree. It retries what fails and
// throttles its log, so that a consumer of Trees needs no loop of its own for CDI.
type Writer struct {
	config  Config
	publish func(*devtree.Tree)

	mu    sync.Mutex         // serializes Update
	trees chan *devtree.Tree // the newest Tree, unless Run has taken it
}

// NewWriter returns a Writer. publish gets the newest Tree with CDI names added, if it
// differs from the last one that was published, in a lineage of its own. NewWriter returns
// an error if CDI does not allow the vendor or the class.
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
	return &Writer{config: config, publish: publish, trees: make(chan *devtree.Tree, 1)}, nil
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
func (w *Writer) Run(ctx context.Context) { w.run(ctx, disk{replaceFile, removeFile}) }

func (w *Writer) run(ctx context.Context, disk disk) {
	log := klog.FromContext(ctx)
	syncer := newSyncer(w.config, log, w.publish, disk)
	var (
		tree  *devtree.Tree
		found problems
		pause time.Duration
		retry <-chan time.Time // nil if no retry is due
	)
	for {
		select {
		case <-ctx.Done():
			return
		case tree = <-w.trees:
		case <-retry:
		}
		before := found
		found = syncer.sync(tree)
		found.log(log, before, time.Now())
		if !found.retryable() {
			pause, retry = 0, nil
			continue
		}
		pause = min(max(retryFirst, 2*pause), retryMax)
		retry = time.After(pause - rand.N(pause/2))
	}
}
