package kubeletapi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"qatplugin/devtree"
)

// WithCDI has the Manager keep specs of the Container Device Interface in dir (most often /var/run/cdi), which is made when it is not there. A
// device is then also the CDI device "<namespace>/<class>=<ID>", whose edits are the device's own nodes, mounts and environment, and whose
// name Allocate gives beside them: a runtime that knows no CDI lacks nothing. With class "" each resource is a class of its own.
//
// A spec is on disk before the kubelet can hear of its device. It goes when a Tree without the device has been published: from then on no
// Allocate gives the name out. It does not wait for the kubelet, which acknowledges no list. Nothing is written during Allocate.
//
// All devices of one class are in one file, "<namespace>-<class>_device-plugin.json", which is replaced as a whole: runtimes read all files
// again whenever one changes: 16 new devices beside 1008 others cost them one reading of 14 ms, with a file a device 16 of 44 ms
// (BenchmarkRuntimeReadsSpecs), for 0.2 ms more at the writer (BenchmarkCDIOneChange: 0.3 ms of 1024 devices, on tmpfs). When Run
// ends the files stay, for a container that starts again while the plugin does; the next Run takes them over with its first Tree, and
// removes what is stale. Files of others are never touched.
//
// A spec that cannot be written is logged with what to do, and tried again. Its device is served all the same, without a CDI name; so
// is one that CDI cannot have: with an ID that is no CDI name, or with nothing in its edits.
func WithCDI(dir, class string) Option {
	return func(c *config) { c.cdiDir, c.cdiClass = dir, class }
}

const (
	cdiRetryFirst = time.Second
	cdiRetryMax   = time.Minute
)

// cdiSpecs stands between the plugin and the Manager: it takes Trees, keeps the specs of their devices, and hands on the Trees with
// the names of those specs that are on disk. One goroutine does it all, for the newest Tree; those that it misses are skipped.
type cdiSpecs struct {
	dir, vendor, class string
	log                klog.Logger
	publish            func(*devtree.Tree)
	repeat             time.Duration                        // between log lines of an error that stays the same
	replace            func(path string, text []byte) error // see cdiFile

	mu     sync.Mutex
	newest *devtree.Tree // of the plugin; nil before the first
	wake   chan struct{} // holds one signal

	// Of the goroutine alone:
	resources map[string]*cdiResource // of the newest Tree that was handed on
	files     map[string]*cdiFile     // by class
	out       *devtree.Tree           // handed on last
	started   bool                    // what a former run left was looked at
	retry     backOff
	troubles  map[string]*throttledError // by path, or CDI name
}

// checkCDI finds what no Tree could make right. Without WithCDI there is nothing to check.
func (m *Manager) checkCDI() (err error) {
	if m.config.cdiDir == "" {
		return nil
	}
	if m.config.cdiDir, err = filepath.Abs(m.config.cdiDir); err != nil {
		return fmt.Errorf("find the CDI directory %q: %w", m.config.cdiDir, err)
	}
	if err := parser.ValidateVendorName(m.namespace); err != nil {
		return fmt.Errorf("namespace %q as the vendor of CDI devices: %w", m.namespace, err)
	}
	if m.config.cdiClass == "" {
		return nil
	}
	if err := parser.ValidateClassName(m.config.cdiClass); err != nil {
		return fmt.Errorf("class %q of CDI devices: %w", m.config.cdiClass, err)
	}
	return nil
}

// throughCDI returns what the plugin is to publish through. wait returns when ctx has ended and no spec is being written.
func (m *Manager) throughCDI(ctx context.Context) (publish func(*devtree.Tree), wait func()) {
	if m.config.cdiDir == "" {
		return m.publish, func() {}
	}
	c := newCDISpecs(&m.config, m.namespace, klog.FromContext(ctx), m.publish)
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx) })
	return c.take, running.Wait
}

func newCDISpecs(config *config, vendor string, log klog.Logger, publish func(*devtree.Tree)) *cdiSpecs {
	return &cdiSpecs{
		dir: config.cdiDir, vendor: vendor, class: config.cdiClass, log: log, publish: publish, repeat: config.repeatInterval, replace: replaceFile,
		wake:      make(chan struct{}, 1),
		resources: map[string]*cdiResource{},
		files:     map[string]*cdiFile{},
		retry:     backOff{min: cdiRetryFirst, max: cdiRetryMax},
		troubles:  map[string]*throttledError{},
	}
}

// take is what the plugin calls. It waits for no disk.
func (c *cdiSpecs) take(tree *devtree.Tree) {
	if tree == nil {
		tree = &devtree.Tree{}
	}
	c.mu.Lock()
	c.newest = tree
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // a signal is waiting already, and it stands for this Tree too
	}
}

func (c *cdiSpecs) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		c.mu.Lock()
		tree := c.newest
		c.mu.Unlock()
		if c.bring(tree) {
			c.retry.reset()
			timer.Stop()
			continue
		}
		timer.Reset(c.retry.next())
	}
}

// bring brings the specs in line with the Tree, and hands the Tree on: what is new is written before, what is gone is removed after. It
// tells whether all went well.
func (c *cdiSpecs) bring(tree *devtree.Tree) bool {
	next := c.render(tree)
	wanted := c.byClass(next)
	ok := true
	for class, w := range wanted {
		f := c.file(class)
		ok = c.keep(f, union(f.devices, w)) && ok
	}
	c.handOn(tree, next)
	for class, f := range c.files {
		ok = c.keep(f, wanted[class]) && ok
	}
	if !c.started {
		c.started = c.removeStale(wanted)
		ok = ok && c.started
	}
	return ok
}

// file is the file of the class.
func (c *cdiSpecs) file(class string) *cdiFile {
	f := c.files[class]
	if f == nil {
		f = newCDIFile(c, class)
		c.files[class] = f
	}
	return f
}

// keep has the file hold these devices, and tells whether it does.
func (c *cdiSpecs) keep(f *cdiFile, devices []*cdiDevice) bool {
	before := f.id
	err := f.write(devices)
	switch {
	case err != nil:
		f.verify()
	case f.id != before:
		c.log.V(2).Info("The CDI specs changed", "file", f.path, "devices", len(devices))
	}
	return c.report(f.path, err)
}

// report logs what became of a file, an error not too often. It tells whether there was none.
func (c *cdiSpecs) report(path string, err error) bool {
	t := c.troubles[path]
	if err != nil {
		if t == nil {
			t = &throttledError{log: c.log, interval: c.repeat}
			c.troubles[path] = t
		}
		t.report(err, "Cannot keep the CDI specs, serving what is new without and trying again", "file", path, "toDo", remedy(err))
		return false
	}
	if t != nil && t.clear() {
		c.log.Info("The CDI specs are kept again", "file", path)
	}
	return true
}

// handOn publishes the Tree with the CDI names of the devices whose specs are on disk. It touches what changed since the Tree before.
func (c *cdiSpecs) handOn(tree *devtree.Tree, next map[string]*cdiResource) {
	b := c.out.Edit()
	for name, old := range c.resources {
		if next[name] == nil {
			for _, e := range old.entries {
				b.Remove(name, e.device.ID)
			}
		}
	}
	for r := range tree.Resources() {
		name := r.Name()
		if err := b.Keep(name); err != nil {
			c.log.Error(err, "Left a resource out", "resource", name)
			continue
		}
		old := []*cdiEntry(nil)
		if before := c.resources[name]; before != nil {
			old = before.entries
		}
		i := 0 // walks the old devices; both are ascending by ID
		for k, e := range next[name].entries {
			for ; i < len(old) && old[i].device.ID < e.device.ID; i++ {
				b.Remove(name, old[i].device.ID)
			}
			named := c.named(name, e)
			if i < len(old) && old[i].device.ID == e.device.ID {
				i++
				if old[i-1].device == e.device && old[i-1].named == named {
					next[name].entries[k] = old[i-1]
					continue
				}
			}
			e.named = named
			if err := b.Put(name, c.withName(name, e)); err != nil {
				c.log.Error(err, "Left a device out", "resource", name, "device", e.device.ID)
			}
		}
		for ; i < len(old); i++ {
			b.Remove(name, old[i].device.ID)
		}
	}
	c.resources = next
	if out := b.Build(); out != c.out {
		c.out = out
		c.publish(out)
	}
}

// named tells whether the spec of the device is on disk as it should be.
func (c *cdiSpecs) named(resource string, e *cdiEntry) bool {
	return e.spec != nil && c.file(c.classOf(resource)).holds(e.spec)
}

func (c *cdiSpecs) withName(resource string, e *cdiEntry) *devtree.Device {
	if !e.named {
		return e.device
	}
	d := *e.device
	d.CDINames = append(slices.Clone(d.CDINames), parser.QualifiedName(c.vendor, c.classOf(resource), e.spec.name))
	return &d
}

func (c *cdiSpecs) classOf(resource string) string {
	if c.class == "" {
		return resource
	}
	return c.class
}
