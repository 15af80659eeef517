// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"

	"google.golang.org/grpc"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// An Observer receives what a [Manager] does, for example to count it. The Manager calls its
// methods at the time of the action, from several goroutines, so they must not block. resource is
// the full name of a resource, such as "color.example.com/yellow".
type Observer interface {
	// StreamOpened is called when the kubelet has called ListAndWatch, before the first list.
	// StreamClosed follows when the stream has ended; err is nil if the Manager ended it.
	StreamOpened(resource string)
	StreamClosed(resource string, err error)

	// ListSent is called after a list was handed to gRPC, once for each stream. The list contains
	// the given number of devices and bytes. state is the resource of the published Tree. With
	// [WithCDI], that is not the Tree of the plugin: its devices also have CDI names. If a Tree
	// omits the resource, state is an empty resource of no Tree.
	ListSent(resource string, state *devtree.Resource, devices, bytes int)

	// ListUnchanged is called instead of ListSent if the list of state equals the one that the
	// stream sent last, for example because only the edits of a device have changed.
	ListUnchanged(resource string, state *devtree.Resource)

	// Allocated is called once for each container of an Allocate call that succeeds, with the IDs
	// of its devices. If a call fails, it is called once, with the IDs of all containers and the
	// error, which has a gRPC status.
	Allocated(resource string, devices []string, err error)

	// Registered is called when a Register call has returned, unless the Manager has abandoned the
	// attempt because the kubelet restarted.
	Registered(resource string, err error)
}

// WithObserver adds an Observer. It may be given several times.
func WithObserver(o Observer) Option {
	return func(c *config) { c.observers = append(c.observers, o) }
}

// observeAllocations is a [grpc.UnaryServerInterceptor] that counts and reports the results of
// Allocate calls.
func (s *service) observeAllocations(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	response, err := handler(ctx, req)
	request, ok := req.(*pluginapi.AllocateRequest)
	if !ok {
		return response, err
	}
	var all []string
	for _, c := range request.GetContainerRequests() {
		if err == nil {
			for _, o := range s.observers {
				o.Allocated(s.name, c.GetDevicesIds(), nil)
			}
		}
		all = append(all, c.GetDevicesIds()...)
	}
	s.registration.counts.allocate(len(all), err)
	if err != nil {
		for _, o := range s.observers {
			o.Allocated(s.name, all, err)
		}
	}
	return response, err
}
