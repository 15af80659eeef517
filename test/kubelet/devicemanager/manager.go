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

// The directory of the plugins' sockets and the registration socket in it, as Kubernetes fixes them.
const (
	SocketDir = "/var/lib/kubelet/device-plugins"
	Socket    = pluginapi.KubeletSocket
)

// ErrStopped is what a Manager answers while it is stopped.
var ErrStopped = errors.New("the device manager is stopped")

// Config is what a Manager may be told at birth. The zero value is a good one.
type Config struct {
	NUMANodes int          // NUMA nodes of the machine; 0 means 2
	OnUpdate  func(Update) // is called for each Update before the next one of that resource is read; nil for none
}

// Manager is the device manager of one node. Its methods may be called from any goroutine.
type Manager struct {
	config Config

	life sync.Mutex // held by Start and Stop
	pods sync.Mutex // held while a pod is admitted or started: the kubelet does so one at a time

	mu       sync.Mutex
	run      *run // nil while stopped
	starts   int
	active   map[types.UID]*v1.Pod
	affinity map[types.UID][]int
}

// run is the time from one Start to the next Stop: the life of a kubelet process.
type run struct {
	impl     *kubelet.ManagerImpl
	observer *observer
}

// New returns a Manager that is not started.
func New(config Config) *Manager {
	if config.NUMANodes == 0 {
		config.NUMANodes = 2
	}
	if config.OnUpdate == nil {
		config.OnUpdate = func(Update) {}
	}
	return &Manager{config: config, active: map[types.UID]*v1.Pod{}, affinity: map[types.UID][]int{}}
}

// Start makes a new device manager and starts it, as a kubelet process does: it reads the checkpoint, deletes every socket of the
// directory, and listens.
//
// The server that it starts is the kubelet's own, made by the call and with the arguments that NewManagerImpl makes it with, but for
// one: between the server and the device manager stands an observer that hands on each call and makes an [Update] of it.
func (m *Manager) Start() error {
	m.life.Lock()
	defer m.life.Unlock()
	if m.current() != nil {
		return errors.New("start the device manager: it is running")
	}
	var nodes []cadvisorapi.Node
	for i := range m.config.NUMANodes {
		nodes = append(nodes, cadvisorapi.Node{Id: i})
	}
	impl, err := kubelet.NewManagerImpl(nodes, topology{m})
	if err != nil {
		return fmt.Errorf("make a device manager: %w", err)
	}
	m.mu.Lock()
	m.starts++
	r := &run{impl: impl, observer: newObserver(impl, m.starts, m.config.OnUpdate)}
	m.mu.Unlock()
	if err := observe(impl, r.observer); err != nil {
		return err
	}
	if err := impl.Start(klog.Background(), m.activePods, sourcesReady{}, containermap.NewContainerMap(), sets.New[string]()); err != nil {
		return errors.Join(fmt.Errorf("start the device manager: %w", err), impl.Stop(klog.Background()))
	}
	m.mu.Lock()
	m.run = r
	m.mu.Unlock()
	return nil
}

// Stop ends the device manager as the end of a kubelet process does: the registration socket and every connection to a plugin are closed.
// The checkpoint and the plugins' sockets stay. Stopping twice is fine.
func (m *Manager) Stop() error {
	m.life.Lock()
	defer m.life.Unlock()
	m.mu.Lock()
	r := m.run
	m.run = nil
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	r.observer.close()
	if err := r.impl.Stop(klog.Background()); err != nil {
		return fmt.Errorf("stop the device manager: %w", err)
	}
	r.observer.disconnect()
	return nil
}

// Restart stops the device manager and starts a new one. Pods that were admitted stay, as they do when a kubelet restarts.
func (m *Manager) Restart() error {
	return errors.Join(m.Stop(), m.Start())
}

// Starts says how many times the Manager was started.
func (m *Manager) Starts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.starts
}

func (m *Manager) current() *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run
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

// sourcesReady says that the kubelet has heard of all its pods: only then does it free what pods that are gone had.
type sourcesReady struct{}

func (sourcesReady) AddSource(string) {}
func (sourcesReady) AllReady() bool   { return true }
