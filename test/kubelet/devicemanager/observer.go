// SPDX-License-Identifier: Apache-2.0

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
	Connected    Kind = "connected"    // the plugin registered and answered on its socket
	Listed       Kind = "listed"       // the plugin sent a list
	Disconnected Kind = "disconnected" // the ListAndWatch stream ended
)

// Update is one thing that a plugin did.
type Update struct {
	Kind     Kind
	Resource string    // full name, such as qat.intel.com/generic
	Start    int       // which start of the device manager it belongs to, from 1
	Devices  []Device  // for Listed: the list, sorted by ID; not to be changed
	Received time.Time // when it arrived, before the device manager handled it
	Applied  time.Time // when the device manager had handled it and written its checkpoint
}

// Device is a device in a plugin's list.
type Device struct {
	ID        string
	Health    string // Healthy or Unhealthy
	NUMANodes []int64
}

// Healthy reports whether the device can be allocated.
func (d Device) Healthy() bool { return d.Health == pluginapi.Healthy }

// observer is between the kubelet's registration server and its device manager. It passes each call
// on, reports it as an Update, and keeps the newest lists.
type observer struct {
	impl     *kubelet.ManagerImpl
	start    int
	onUpdate func(Update)

	mu      sync.Mutex // guards all following fields
	closed  bool
	clients []plugin.Client
	lists   map[string][]Device // lists are replaced, never changed
}

func newObserver(impl *kubelet.ManagerImpl, start int, onUpdate func(Update)) *observer {
	return &observer{impl: impl, start: start, onUpdate: onUpdate, lists: map[string][]Device{}}
}

// observe replaces the server of a device manager that is not started by one whose callbacks go to
// the observer. It uses reflection, because the field is private. It returns an error if the
// Kubernetes release has another field.
func observe(impl *kubelet.ManagerImpl, o *observer) error {
	field, want := reflect.ValueOf(impl).Elem().FieldByName("server"), reflect.TypeFor[plugin.Server]()
	if !field.IsValid() || field.Type() != want {
		return fmt.Errorf("observe the device manager: %T has no field server of type %s in this Kubernetes release",
			impl, want)
	}
	server, err := plugin.NewServer(klog.Background(), Socket, impl, o)
	if err != nil {
		return fmt.Errorf("create the kubelet's registration server: %w", err)
	}
	*(*plugin.Server)(field.Addr().UnsafePointer()) = server
	return nil
}

// PluginConnected is called when a plugin has registered.
func (o *observer) PluginConnected(ctx context.Context, resource string, p plugin.DevicePlugin) error {
	received := time.Now()
	client, _ := p.(plugin.Client) // the kubelet's server passes its client
	o.mu.Lock()
	closed := o.closed
	if !closed && client != nil {
		o.clients = append(o.clients, client)
	}
	o.mu.Unlock()
	if closed {
		if client != nil {
			_ = client.Disconnect(klog.Background()) // always nil
		}
		return errStopped
	}
	if err := o.impl.PluginConnected(ctx, resource, p); err != nil {
		return err
	}
	o.report(Update{Kind: Connected, Resource: resource, Received: received})
	return nil
}

// PluginDisconnected is called when a plugin's stream has ended.
func (o *observer) PluginDisconnected(logger klog.Logger, resource string) {
	received := time.Now()
	o.impl.PluginDisconnected(logger, resource)
	o.mu.Lock()
	if devices, ok := o.lists[resource]; ok {
		devices = slices.Clone(devices)
		for i := range devices {
			devices[i].Health = pluginapi.Unhealthy // as in the device manager
		}
		o.lists[resource] = devices
	}
	o.mu.Unlock()
	o.report(Update{Kind: Disconnected, Resource: resource, Received: received})
}

// PluginListAndWatchReceiver is called with each message of a plugin's stream.
func (o *observer) PluginListAndWatchReceiver(
	logger klog.Logger, resource string, resp *pluginapi.ListAndWatchResponse,
) {
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
	o.report(Update{Kind: Listed, Resource: resource, Devices: devices, Received: received, Applied: applied})
}

// report calls onUpdate unless the Manager was stopped: nobody sees what a plugin does after the
// end of the kubelet's process.
func (o *observer) report(u Update) {
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

// list returns the newest list of a resource, and false if there was none yet.
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

// disconnect closes the connections that the server's Stop leaves open: those of registrations that
// were in progress or have been replaced. In a kubelet the end of the process closes them.
func (o *observer) disconnect() {
	o.mu.Lock()
	clients := o.clients
	o.clients = nil
	o.mu.Unlock()
	for _, c := range clients {
		_ = c.Disconnect(klog.Background()) // always nil
	}
}
