package kubeletapi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// service answers the kubelet for one resource. Its methods run on the gRPC server's goroutines.
type service struct {
	pluginapi.UnimplementedDevicePluginServer

	resource  string // as the plugin calls it
	name      string // as the kubelet calls it
	plugin    any    // whose methods say which optional calls it answers
	publisher *devtree.Publisher
	log       klog.Logger
	signal    func()          // wakes the keeper
	ending    context.Context // ends when all streams are to end
	standing  standing
	converter converter
}

func newService(m *Manager, log klog.Logger, ending context.Context, resource string) *service {
	return &service{
		resource:  resource,
		name:      ResourceName(m.namespace, resource),
		plugin:    offers(m.plugin),
		publisher: &m.publisher,
		log:       log,
		signal:    m.signal,
		ending:    ending,
	}
}

// GetDevicePluginOptions tells which of the optional calls the plugin answers.
func (s *service) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return s.options(), nil
}

func (s *service) options() *pluginapi.DevicePluginOptions {
	_, starts := s.plugin.(ContainerPreStarter)
	_, prefers := s.plugin.(PreferredAllocator)
	if p, ok := s.plugin.(preferenceAvailable); ok {
		prefers = prefers && p.PreferenceAvailable()
	}
	return &pluginapi.DevicePluginOptions{PreStartRequired: starts, GetPreferredAllocationAvailable: prefers}
}

// ListAndWatch sends the newest list at once, and then each time that it is another.
func (s *service) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	end := s.standing.open()
	defer func() {
		if end() {
			s.signal()
		}
	}()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	subscription := s.publisher.Subscribe(s.resource)
	defer subscription.Close()
	var sent *listing
	for {
		r, err := subscription.Next(ctx)
		switch {
		case s.ending.Err() != nil:
			return nil
		case err != nil:
			return status.FromContextError(err).Err()
		}
		l := s.converter.convert(r)
		if l == sent {
			continue // what changed is nothing to the kubelet, which would write its checkpoint for it
		}
		// Send waits only while this stream's reader leaves the window full; what is published meanwhile is one list afterwards.
		if err := stream.Send(l.response); err != nil {
			return err
		}
		sent = l
		if v := s.log.V(4); v.Enabled() {
			v.Info("Sent the list", "resource", s.name, "generation", s.publisher.Tree().Generation(), "devices", len(l.response.Devices), "healthy", l.healthy)
		}
	}
}
