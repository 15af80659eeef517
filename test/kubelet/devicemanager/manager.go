// SPDX-License-Identifier: Apache-2.0

package devicemanager

import (
	"errors"
	"fmt"
	"sync"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	kubelet "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
)

// The directory of the plugins' sockets, and the registration socket in it. Kubernetes fixes both.
const (
	SocketDir = "/var/lib/kubelet/device-plugins"
	Socket    = pluginapi.KubeletSocket
)

const numaNodes = 2 // of the machine, as far as the device manager knows

var errStopped = errors.New("the device manager is stopped")

// Manager is the device manager of one node. Its methods may be called from any goroutine.
type Manager struct {
	onUpdate func(Update)

	startStop sync.Mutex // held during Start and Stop
	pods      sync.Mutex // held while a pod is admitted or started: a kubelet does one at a time

	mu       sync.Mutex // guards all following fields
	current  *instance  // nil while stopped
	starts   int
	active   map[types.UID]*v1.Pod
	affinity map[types.UID][]int // NUMA nodes of a pod; see Align
}

// instance is the kubelet's device manager between a Start and the next Stop.
type instance struct {
	impl     *kubelet.ManagerImpl
	observer *observer
}

// New returns a stopped Manager. It calls onUpdate for each Update, before it receives the next
// one of the same resource.
func New(onUpdate func(Update)) *Manager {
	return &Manager{onUpdate: onUpdate, active: map[types.UID]*v1.Pod{}, affinity: map[types.UID][]int{}}
}

// Start creates and starts a new device manager, as a kubelet process does: it reads the
// checkpoint, deletes all sockets in SocketDir, and listens.
//
// The registration server is the kubelet's own. It is created like in NewManagerImpl, except that
// its callbacks go to an observer, which passes each call on and makes an [Update] of it.
func (m *Manager) Start() error {
	m.startStop.Lock()
	defer m.startStop.Unlock()
	if m.running() != nil {
		return errors.New("start the device manager: it is running")
	}
	var nodes []cadvisorapi.Node
	for i := range numaNodes {
		nodes = append(nodes, cadvisorapi.Node{Id: i})
	}
	impl, err := kubelet.NewManagerImpl(nodes, topology{m})
	if err != nil {
		return fmt.Errorf("create the device manager: %w", err)
	}
	m.mu.Lock()
	m.starts++
	started := &instance{impl: impl, observer: newObserver(impl, m.starts, m.onUpdate)}
	m.mu.Unlock()
	if err := observe(impl, started.observer); err != nil {
		return err
	}
	log := klog.Background()
	err = impl.Start(log, m.activePods, sourcesReady{}, containermap.NewContainerMap(), sets.New[string]())
	if err != nil {
		return errors.Join(fmt.Errorf("start the device manager: %w", err), impl.Stop(log))
	}
	m.mu.Lock()
	m.current = started
	m.mu.Unlock()
	return nil
}

// Stop stops the device manager like the end of a kubelet process: it closes the registration
// socket and all connections to plugins. The checkpoint and the plugins' sockets stay. Stop may be
// called more than once.
func (m *Manager) Stop() error {
	m.startStop.Lock()
	defer m.startStop.Unlock()
	m.mu.Lock()
	stopped := m.current
	m.current = nil
	m.mu.Unlock()
	if stopped == nil {
		return nil
	}
	stopped.observer.close()
	if err := stopped.impl.Stop(klog.Background()); err != nil {
		return fmt.Errorf("stop the device manager: %w", err)
	}
	stopped.observer.disconnect()
	return nil
}

// Restart stops the device manager and starts a new one. Admitted pods stay, as they do when a
// kubelet restarts.
func (m *Manager) Restart() error {
	return errors.Join(m.Stop(), m.Start())
}

// Starts returns how often the device manager was started.
func (m *Manager) Starts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.starts
}

// running returns the running instance, or nil.
func (m *Manager) running() *instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

func (m *Manager) activePods() []*v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	pods := make([]*v1.Pod, 0, len(m.active))
	for _, p := range m.active {
		pods = append(pods, p)
	}
	return pods
}

// sourcesReady reports that the kubelet knows all its pods. Before that the device manager does not
// free the devices of pods that are gone.
type sourcesReady struct{}

func (sourcesReady) AddSource(string) {}
func (sourcesReady) AllReady() bool   { return true }
