// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/cdi"
	"qatplugin/devtree"
	"qatplugin/draapi/internal/apiclient"
	"qatplugin/draapi/internal/claims"
	"qatplugin/draapi/internal/inventory"
	"qatplugin/draapi/internal/kubelet"
	"qatplugin/draapi/internal/publisher"
)

const watchTimeout = 5 * time.Second // for Watch to return when Run ends

// A Driver offers the devices of a [Plugin] through DRA. Any goroutine may call its methods, also
// before and after Run.
type Driver struct {
	name     string
	plugin   Plugin
	preparer Preparer // nil if the Plugin has none
	config   config
	started  atomic.Bool

	mu        sync.Mutex // guards the fields below
	parts     *parts     // nil before Run
	tree      *devtree.Tree
	published bool                 // the plugin has published a Tree
	inventory *inventory.Inventory // nil before the first Tree
	history   history
	changed   chan struct{} // closed and replaced when inventory changes
	runtime   runtimeState
}

// parts are what Run consists of.
type parts struct {
	claims  *claims.Store
	kubelet *kubelet.Server
	slices  *publisher.Publisher
	client  *apiclient.Client
	first   chan struct{} // closed when the plugin has published its first Tree
	ask     chan struct{} // wakes watchRuntime; buffers one signal
	known   chan struct{} // closed when the container runtime is known
	log     klog.Logger
}

// NewDriver returns a Driver with that name, such as "color.example.com". It does nothing until
// [Driver.Run] is called, which also reports invalid arguments. A nil Option is ignored.
func NewDriver(name string, plugin Plugin, opts ...Option) *Driver {
	d := &Driver{
		name:     name,
		plugin:   plugin,
		preparer: find[Preparer](plugin),
		config:   defaultConfig(),
		changed:  make(chan struct{}),
	}
	for _, o := range opts {
		if o != nil {
			o(&d.config)
		}
	}
	return d
}

// Run offers the plugin's devices until ctx ends or Watch fails. Then calls of the kubelet in
// progress have up to 5 s to return, the sockets are removed, and Watch has up to 5 s to return.
// The ResourceSlices and the prepared claims stay, for the next instance; if there is none, the
// kubelet deletes the slices after 30 s. Run returns an error if Watch fails or does not return
// in time, and for an invalid argument. Otherwise it returns nil. It may be called once.
func (d *Driver) Run(ctx context.Context) error {
	if d.started.Swap(true) {
		return errors.New("a Driver can only run once")
	}
	if d.plugin == nil {
		return errors.New("the Plugin is nil")
	}
	if err := checkName(d.name); err != nil {
		return err
	}
	if err := d.config.resolve(); err != nil {
		return err
	}
	p, err := d.build(klog.FromContext(ctx))
	if err != nil {
		return err
	}
	p.log.V(1).Info("Starting the DRA driver", "driver", d.name, "node", d.config.nodeName,
		"kubeletRoot", d.config.kubeletRoot, "cdiDir", d.config.cdiDir)
	cdi.RemoveAbandoned(d.config.cdiDir, d.name+"-")
	if err := p.claims.Load(); err != nil {
		p.log.Error(err, "Cannot read the claims that earlier processes have prepared, trying again")
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		err := d.plugin.Watch(ctx, d.publish)
		switch {
		case ctx.Err() != nil: // Watch returns because Run ends
			err = nil
		case err != nil:
			p.log.Error(err, "Watch failed, stopping the DRA driver", "driver", d.name)
			err = fmt.Errorf("watch devices of %s: %w", d.name, err)
			cancel()
		default:
			p.log.V(1).Info("Watch returned, continuing to offer the last devices", "driver", d.name)
		}
		watched <- err
	}()
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.claims.RemoveUnused(ctx); err != nil {
			p.log.Error(err, "Cannot remove the metadata files of claims that have ended")
		}
	})
	running.Go(func() { d.watchRuntime(ctx) })
	running.Go(func() { p.claims.Watch(ctx) })
	running.Go(func() { d.refreshClaims(ctx) })
	running.Go(func() { p.slices.Run(ctx) })
	select {
	case <-p.first:
		p.kubelet.Run(ctx)
	case <-ctx.Done():
	}
	running.Wait()
	select {
	case err := <-watched:
		if err == nil {
			p.log.V(1).Info("Stopped the DRA driver", "driver", d.name)
		}
		return err
	case <-time.After(watchTimeout):
		return fmt.Errorf("stop DRA driver %s: the plugin's Watch does not return", d.name)
	}
}

// build makes the parts of the Driver.
func (d *Driver) build(log klog.Logger) (*parts, error) {
	client, err := apiclient.New(d.config.rest)
	if err != nil {
		return nil, err
	}
	p := &parts{
		client: client,
		first:  make(chan struct{}),
		ask:    make(chan struct{}, 1),
		known:  make(chan struct{}),
		log:    log,
	}
	metadataDir := ""
	if d.config.metadata {
		metadataDir = filepath.Join(d.config.kubeletRoot, "plugins", d.name, "dra-device-metadata")
	}
	p.claims = claims.New(claims.Config{
		Driver:      d.name,
		Pool:        d.config.nodeName,
		CDIDir:      d.config.cdiDir,
		MetadataDir: metadataDir,
		GetClaim:    client.GetClaim,
		Inventory:   func() *inventory.Inventory { i, _ := d.newest(); return i },
		Attributes:  publisher.Attributes,
		BeforeWrite: d.askPreparer,
		Changed:     d.refresh,
		Log:         log,
	})
	p.kubelet, err = kubelet.New(kubelet.Config{
		Driver:     d.name,
		Pool:       d.config.nodeName,
		Root:       d.config.kubeletRoot,
		PodUID:     d.config.podUID,
		Prepare:    d.prepare,
		Unprepare:  d.unprepare,
		Inventory:  d.newest,
		Registered: d.registered,
		HealthSent: d.healthSent,
		Log:        log,
	})
	if err != nil {
		return nil, err
	}
	p.slices = d.newPublisher(p)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts = p
	return p, nil
}

// running returns the parts, or nil before Run.
func (d *Driver) running() *parts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.parts
}

// publish makes t the newest Tree.
func (d *Driver) publish(t *devtree.Tree) {
	d.mu.Lock()
	isFirst := !d.published
	d.tree, d.published = t, true
	d.mu.Unlock()
	d.refresh()
	if isFirst {
		close(d.parts.first)
	}
}

// refresh updates the inventory from the newest Tree and the claims, and publishes it once the
// container runtime is known.
func (d *Driver) refresh() {
	if tree := d.update(); tree != nil {
		d.observePublished(tree)
	}
}

// update does what refresh does, except for observers. It returns the newest Tree if the API server
// has it already, because only something has changed that DRA does not describe.
func (d *Driver) update() *devtree.Tree {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.published {
		return nil
	}
	next := inventory.New(d.inventory, d.runtime.withoutCDI(d.tree), d.parts.claims.Held())
	if next != d.inventory {
		d.logSkipped(next)
		d.inventory = next
		close(d.changed)
		d.changed = make(chan struct{})
	}
	if !d.runtime.known {
		return nil
	}
	if d.history.add(next, d.tree) {
		return d.tree
	}
	d.parts.slices.Update(next)
	return nil
}

// logSkipped logs which devices are skipped from now on. The caller holds mu.
func (d *Driver) logSkipped(next *inventory.Inventory) {
	var before []error
	if d.inventory != nil {
		before = d.inventory.Skipped
	}
	for _, err := range next.Skipped {
		if !slices.ContainsFunc(before, func(b error) bool { return b.Error() == err.Error() }) {
			d.parts.log.V(2).Info("Not offering a device", "reason", err.Error())
		}
	}
}

// newest returns the newest Inventory, or nil before the first Tree, and a channel that is closed
// when there is another.
func (d *Driver) newest() (*inventory.Inventory, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inventory, d.changed
}

// refreshClaims keeps the CDI specs of prepared claims up to date, until ctx ends.
func (d *Driver) refreshClaims(ctx context.Context) {
	for {
		_, changed := d.newest()
		d.parts.claims.Refresh(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// find returns the first of plugin and the values that it wraps that implements T, or nil.
func find[T any](plugin Plugin) (found T) {
	for next := any(plugin); next != nil; {
		if t, ok := next.(T); ok {
			return t
		}
		wrapper, ok := next.(interface{ Unwrap() Plugin })
		if !ok {
			return found
		}
		next = wrapper.Unwrap()
	}
	return found
}
