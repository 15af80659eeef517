package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// Manager serves the devices of one Plugin to the kubelet.
type Manager struct {
	namespace string
	plugin    Plugin
	config    config

	started   atomic.Bool
	publisher devtree.Publisher
	calls     gate
	wake      chan struct{} // holds one signal for the keeper: there may be something to do

	mu     sync.Mutex
	served map[string]*service // by resource, as the keeper knows them; nil: refused for good
}

// NewManager makes a Manager for the resources "<namespace>/<resource of the plugin's Trees>". Nothing happens before Run.
func NewManager(namespace string, plugin Plugin, opts ...Option) *Manager {
	m := &Manager{
		namespace: namespace,
		plugin:    plugin,
		config:    defaultConfig(),
		wake:      make(chan struct{}, 1),
		served:    map[string]*service{},
	}
	for _, o := range opts {
		o(&m.config)
	}
	return m
}

// Run serves until ctx ends; then it closes the streams, removes the sockets, waits for the plugin's Watch and returns nil. It can be
// called once. Its errors: a namespace or directory that cannot be used, the plugin's own from Watch, and a plugin that does not end.
func (m *Manager) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return errors.New("a Manager runs once")
	}
	if err := m.check(); err != nil {
		return err
	}
	log := klog.FromContext(ctx)
	log.V(1).Info("Device plugin starts", "namespace", m.namespace, "directory", m.config.dir)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	publish, specsWritten := m.throughCDI(ctx)
	defer specsWritten()
	var failure error // written before watched closes
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		err := m.plugin.Watch(ctx, publish)
		switch {
		case ctx.Err() != nil: // the end, whatever the plugin calls it
		case err != nil:
			failure = err
			cancel()
		default:
			log.V(1).Info("The plugin watches no longer, its last devices stay served", "namespace", m.namespace)
		}
	}()

	k := newKeeper(m, log)
	k.run(ctx)
	if err := k.stop(watched); err != nil {
		return fmt.Errorf("stop the device plugin of %q: %w", m.namespace, err)
	}
	if failure != nil {
		return fmt.Errorf("watch the devices of %q: %w", m.namespace, failure)
	}
	log.V(1).Info("Device plugin ended", "namespace", m.namespace)
	return nil
}

// check finds what no Tree and no kubelet could make right.
func (m *Manager) check() error {
	if err := CheckNamespace(m.namespace); err != nil {
		return err
	}
	if err := m.checkCDI(); err != nil {
		return err
	}
	dir, err := filepath.Abs(m.config.dir)
	if err != nil {
		return fmt.Errorf("find the kubelet's directory %q: %w", m.config.dir, err)
	}
	m.config.dir = dir
	if err := checkSocketPath(filepath.Join(dir, kubeletSocket)); err != nil {
		return err
	}
	_, err = socketPath(dir, m.namespace, "x") // the shortest resource name there can be
	return err
}

// publish is what the plugin calls. The streams wake by themselves; the keeper is needed only for a new resource.
func (m *Manager) publish(t *devtree.Tree) {
	m.publisher.Publish(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	for r := range t.Resources() {
		if _, known := m.served[r.Name()]; !known {
			m.signal()
			return
		}
	}
}

// CheckRegistered is an error that names a resource of the newest Tree whose list the kubelet does not follow now, and how far it has come. It is
// nil while there are no resources. It may be called from any goroutine at any time.
func (m *Manager) CheckRegistered(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r := range m.publisher.Tree().Resources() {
		name := ResourceName(m.namespace, r.Name())
		s, known := m.served[r.Name()]
		switch {
		case !known:
			return fmt.Errorf("%s is not served yet", name)
		case s == nil:
			return fmt.Errorf("%s cannot be served; the log says why", name)
		}
		if err := s.standing.look().check(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default: // a signal is waiting already, and the keeper looks at everything
	}
}
