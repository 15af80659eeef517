// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// A Manager serves the devices of a [Plugin] to the kubelet.
type Manager struct {
	namespace string
	plugin    Plugin
	config    config // constant after Run has called resolve
	started   atomic.Bool
	publisher devtree.Publisher
	wake      signal // of the reconciler

	mu            sync.Mutex               // guards the fields below
	kubeletFound  bool                     // there was a kubelet.sock when the reconciler last looked
	omitted       map[string]time.Time     // registered resource → when the Trees began to omit it
	registrations map[string]*registration // by resource
}

// NewManager returns a Manager for the resources "<namespace>/<resource>", where resource
// is the name that the plugin's Trees use. The Manager does nothing until Run is called. Run also
// returns an error if an argument is invalid. A nil Option is ignored.
func NewManager(namespace string, plugin Plugin, opts ...Option) *Manager {
	m := &Manager{
		namespace:     namespace,
		plugin:        plugin,
		config:        defaultConfig(),
		wake:          make(signal, 1),
		registrations: map[string]*registration{},
		omitted:       map[string]time.Time{},
	}
	for _, o := range opts {
		if o != nil {
			o(&m.config)
		}
	}
	return m
}

// Run serves the plugin's devices until ctx ends or Watch fails. Then Watch's context ends, the
// sockets are removed, and new calls fail with codes.Unavailable. Calls in progress have up to 2.5
// s to return before the streams end, and PreStartContainer has its usual 30 s. Run waits up to 5 s
// for all methods, or up to 2.5 s after a longer PreStartContainer, and leaves a method that has
// not returned by then running. Run returns an error in that case, after a failure of Watch, and
// for an invalid namespace or option. Otherwise it returns nil. It may be called once.
func (m *Manager) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return errors.New("a Manager can only run once")
	}
	if m.plugin == nil {
		return errors.New("the Plugin is nil")
	}
	if err := checkNamespace(m.namespace); err != nil {
		return err
	}
	m.mu.Lock() // CheckRegistered may run concurrently
	err := m.config.resolve()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	log := klog.FromContext(ctx)
	log.V(1).Info("Starting the device plugin", "namespace", m.namespace, "directory", m.config.dir)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	publish, waitForCDI, err := m.startCDI(ctx)
	if err != nil {
		return err
	}
	defer waitForCDI()
	watched := make(chan struct{})
	failed := make(chan error, 1) // the error of Watch that ends Run
	go func() {
		defer close(watched)
		err := m.plugin.Watch(ctx, publish)
		switch {
		case ctx.Err() != nil: // Watch returns because Run ends
		case err != nil:
			// Run may take a while to return the error, so log it at once.
			log.Error(err, "Watch failed, stopping the device plugin", "namespace", m.namespace)
			failed <- fmt.Errorf("watch devices of %s: %w", m.namespace, err)
			cancel()
		default:
			log.V(1).Info("Watch returned, continuing to serve the last devices", "namespace", m.namespace)
		}
	}()

	r := newReconciler(m, log)
	r.run(ctx)
	if err = r.stop(watched); err != nil {
		err = fmt.Errorf("stop device plugin %s: %w", m.namespace, err)
	}
	select {
	case watchErr := <-failed:
		err = errors.Join(watchErr, err)
	default:
	}
	if err == nil {
		log.V(1).Info("Stopped the device plugin", "namespace", m.namespace)
	}
	return err
}

// publish makes t the newest Tree. That wakes the ListAndWatch streams of the resources
// that changed. The reconciler is woken only if a resource is new or was omitted.
func (m *Manager) publish(t *devtree.Tree) {
	m.publisher.Publish(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := m.publisher.Tree() // t, or one that was published at the same time
	for r := range newest.Resources() {
		if _, known := m.registrations[r.Name()]; !known {
			m.wake.send()
		}
	}
	for name := range m.registrations {
		if newest.Resource(name) != nil {
			delete(m.omitted, name)
		} else if _, known := m.omitted[name]; !known {
			m.omitted[name] = time.Now()
			m.wake.send()
		}
	}
}

// CheckRegistered returns nil if kubelet.sock exists, and if the kubelet receives the lists of all
// resources that have devices in the newest Tree. Otherwise the error states that kubelet.sock is
// missing, or names a resource and what is missing for its registration. Any goroutine may call
// CheckRegistered. It ignores its context.
func (m *Manager) CheckRegistered(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.kubeletFound {
		return fmt.Errorf("%s not found in %s", kubeletSocket, m.config.dir)
	}
	for resource := range m.publisher.Tree().Resources() {
		if resource.Len() == 0 {
			continue // without devices, a registration makes no difference to pods
		}
		name := fullName(m.namespace, resource.Name())
		r := m.registrations[resource.Name()]
		if r == nil {
			return fmt.Errorf("%s is not served yet", name)
		}
		if err := r.check(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// signal wakes a goroutine that receives from it. It has a buffer of one: a signal that
// is pending covers all that are sent meanwhile.
type signal chan struct{}

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}
