package devicemanager

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	kubelet "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	plugin "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

// Kind is what a plugin did.
type Kind string

// The kinds of Update.
const (
	Connected    Kind = "connected"    // a registration succeeded: the plugin answered on its socket
	Listed       Kind = "listed"       // a ListAndWatch message came
	Disconnected Kind = "disconnected" // the ListAndWatch stream ended
)

// Update is one thing that the device manager was told by a plugin.
type Update struct {
	Kind     Kind
	Resource string    // with its namespace: qat.intel.com/generic
	Start    int       // the Start it belongs to, from 1
	Devices  []Device  // the list of a Listed, ascending by ID; not to be changed
	Received time.Time // when the message was there, before the device manager had it
	Applied  time.Time // when the device manager had taken it in and written its checkpoint
}

// Device is a device as a plugin told it.
type Device struct {
	ID        string
	Health    string // Healthy or Unhealthy
	NUMANodes []int64
}

// Healthy tells whether the device may be given to a container.
func (d Device) Healthy() bool { return d.Health == pluginapi.Healthy }

// observer stands between the kubelet's server and its device manager. It hands on each call, and keeps what it heard.
type observer struct {
	impl     *kubelet.ManagerImpl
	start    int
	onUpdate func(Update)

	mu      sync.Mutex
	closed  bool
	clients []plugin.Client
	lists   map[string][]Device // a list does not change, it is replaced
}

func newObserver(impl *kubelet.ManagerImpl, start int, onUpdate func(Update)) *observer {
	return &observer{impl: impl, start: start, onUpdate: onUpdate, lists: map[string][]Device{}}
}

// observe gives the device manager, before its Start, a server whose calls go through the observer.
//
// Its field is private, so this is done by reflection; a Kubernetes release that changes the field makes it an error.
func observe(impl *kubelet.ManagerImpl, o *observer) error {
	field := reflect.ValueOf(impl).Elem().FieldByName("server")
	if !field.IsValid() || field.Type() != reflect.TypeFor[plugin.Server]() {
		return fmt.Errorf("observe the device manager: this Kubernetes release has no field \"server\" of type %s in %T", reflect.TypeFor[plugin.Server](), impl)
	}
	server, err := plugin.NewServer(klog.Background(), Socket, impl, o)
	if err != nil {
		return fmt.Errorf("make the kubelet's registration server: %w", err)
	}
	*(*plugin.Server)(field.Addr().UnsafePointer()) = server
	return nil
}

// PluginConnected is called by the server when a plugin has registered.
func (o *observer) PluginConnected(ctx context.Context, resource string, p plugin.DevicePlugin) error {
	received := time.Now()
	client, _ := p.(plugin.Client) // it is the same object
	o.mu.Lock()
	closed := o.closed
	if !closed && client != nil {
		o.clients = append(o.clients, client)
	}
	o.mu.Unlock()
	if closed {
		if client != nil {
			_ = client.Disconnect(klog.Background()) // it only returns nil
		}
		return ErrStopped
	}
	if err := o.impl.PluginConnected(ctx, resource, p); err != nil {
		return err
	}
	o.tell(Update{Kind: Connected, Resource: resource, Received: received})
	return nil
}

// PluginDisconnected is called when a plugin's stream has ended.
func (o *observer) PluginDisconnected(logger klog.Logger, resource string) {
	received := time.Now()
	o.impl.PluginDisconnected(logger, resource)
	o.mu.Lock()
	if devices, ok := o.lists[resource]; ok {
		devices = slices.Clone(devices) // others may read it
		for i := range devices {
			devices[i].Health = pluginapi.Unhealthy // as the device manager marks them
		}
		o.lists[resource] = devices
	}
	o.mu.Unlock()
	o.tell(Update{Kind: Disconnected, Resource: resource, Received: received})
}

// PluginListAndWatchReceiver is called with each message of a plugin's stream.
func (o *observer) PluginListAndWatchReceiver(logger klog.Logger, resource string, resp *pluginapi.ListAndWatchResponse) {
	received := time.Now()
	o.impl.PluginListAndWatchReceiver(logger, resource, resp)
	applied := time.Now()
	devices := make([]Device, 0, len(resp.Devices))
	for _, d := range resp.Devices {
		device := Device{ID: d.ID, Health: d.Health}
		for _, n := range d.GetTopology().GetNodes() {
			device.NUMANodes = append(device.NUMANodes, n.ID)
		}
		devices = append(devices, device)
	}
	slices.SortFunc(devices, func(a, b Device) int { return cmp.Compare(a.ID, b.ID) })
	o.mu.Lock()
	o.lists[resource] = devices
	o.mu.Unlock()
	o.tell(Update{Kind: Listed, Resource: resource, Devices: devices, Received: received, Applied: applied})
}

// tell reports the update, unless the Manager was stopped: what ends with a kubelet's process is heard by nobody.
func (o *observer) tell(u Update) {
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		return
	}
	u.Start = o.start
	if u.Applied.IsZero() {
		u.Applied = time.Now()
	}
	o.onUpdate(u)
}

// list is the newest list of the resource, and whether there ever was one since Start.
func (o *observer) list(resource string) ([]Device, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	devices, ok := o.lists[resource]
	return devices, ok
}

// close ends the reports.
func (o *observer) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// disconnect closes the connections that the server's Stop leaves open: those of registrations that it overtook or replaced. In
// a kubelet the end of the process closes them.
func (o *observer) disconnect() {
	o.mu.Lock()
	clients := o.clients
	o.clients = nil
	o.mu.Unlock()
	for _, c := range clients {
		_ = c.Disconnect(klog.Background()) // it only returns nil
	}
}
