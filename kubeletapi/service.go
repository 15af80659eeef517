// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// service implements the device plugin API for one resource. Its methods run on the
// goroutines of the gRPC server.
type service struct {
	pluginapi.UnimplementedDevicePluginServer

	resource     string // the plugin's name for it
	name         string // with the namespace, as pods and the kubelet name it
	plugin       any    // its methods decide which optional calls the service answers
	publisher    *devtree.Publisher
	registration *registration
	streamsCtx   context.Context // ends all streams
	log          klog.Logger
	lists        converter
}

// GetDevicePluginOptions returns which of the optional calls the plugin answers.
func (s *service) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return s.options(), nil
}

func (s *service) options() *pluginapi.DevicePluginOptions {
	_, preStarts := s.plugin.(ContainerPreStarter)
	_, prefers := s.plugin.(PreferredAllocator)
	return &pluginapi.DevicePluginOptions{PreStartRequired: preStarts, GetPreferredAllocationAvailable: prefers}
}

// logErrors is a [grpc.UnaryServerInterceptor] that logs the calls that fail.
func (s *service) logErrors(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	response, err := handler(ctx, req)
	switch {
	case errors.Is(err, errStopping):
		s.log.Info("Rejected a call because the device plugin is stopping", "resource", s.name,
			"method", info.FullMethod, "request", req)
	case err != nil:
		s.log.Error(err, "Call failed", "resource", s.name, "method", info.FullMethod, "request", req)
	}
	return response, err
}

// ListAndWatch sends the newest list at once, and again whenever it changes.
func (s *service) ListAndWatch(_ *pluginapi.Empty, stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	closeStream := s.registration.openStream()
	defer closeStream()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.streamsCtx, cancel)()
	subscription := s.publisher.Subscribe(s.resource)
	defer subscription.Close()
	var sent *pluginapi.ListAndWatchResponse
	for {
		resource, err := subscription.Next(ctx)
		if s.streamsCtx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		list := s.lists.convert(resource)
		unchanged := sent != nil && slices.EqualFunc(list.Devices, sent.Devices, equalDevices)
		sent = list
		if unchanged {
			continue // the kubelet would write its checkpoint for nothing
		}
		// Send blocks only while the reader of this stream leaves its window full. What
		// is published meanwhile becomes one list.
		if err := stream.Send(list); err != nil {
			return err
		}
		if v := s.log.V(4); v.Enabled() {
			healthy := 0
			for _, d := range list.Devices {
				if d.Health == pluginapi.Healthy {
					healthy++
				}
			}
			v.Info("Sent the list", "resource", s.name, "generation", s.publisher.Tree().Generation(),
				"devices", len(list.Devices), "healthy", healthy)
		}
	}
}

// converter converts the states of one resource to lists for all of its streams. Lists
// share the devices that did not change, so one change among a thousand devices converts
// and compares one device.
type converter struct {
	mu       sync.Mutex
	resource *devtree.Resource
	devices  []*devtree.Device // of resource, in the order of list.Devices
	list     *pluginapi.ListAndWatchResponse
}

// convert returns the list for r. It must not be modified.
func (c *converter) convert(r *devtree.Resource) *pluginapi.ListAndWatchResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list != nil && c.resource == r {
		return c.list
	}
	old := c.list.GetDevices()
	devices := make([]*devtree.Device, 0, r.Len())
	converted := make([]*pluginapi.Device, 0, r.Len())
	i := 0 // index into old, which is ascending by ID like r
	for d := range r.Devices() {
		for i < len(old) && old[i].ID < d.ID {
			i++
		}
		devices = append(devices, d)
		if i < len(old) && c.devices[i] == d {
			converted = append(converted, old[i])
		} else {
			converted = append(converted, convertDevice(d))
		}
	}
	c.resource, c.devices, c.list = r, devices, &pluginapi.ListAndWatchResponse{Devices: converted}
	return c.list
}

// equalDevices reports whether the kubelet would see no difference between a and b.
func equalDevices(a, b *pluginapi.Device) bool { return a == b || proto.Equal(a, b) }

func convertDevice(d *devtree.Device) *pluginapi.Device {
	out := &pluginapi.Device{ID: d.ID, Health: string(d.Health)}
	if len(d.NUMANodes) > 0 {
		out.Topology = &pluginapi.TopologyInfo{}
		for _, n := range d.NUMANodes {
			out.Topology.Nodes = append(out.Topology.Nodes, &pluginapi.NUMANode{ID: int64(n)})
		}
	}
	return out
}
