// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/cdi"
	"qatplugin/devtree"
)

// service implements the device plugin API for one resource. Its methods run on the
// goroutines of the gRPC server.
type service struct {
	pluginapi.UnimplementedDevicePluginServer

	resource     string // name in the plugin's Trees
	name         string // full name, with the namespace
	plugin       methods
	publisher    *devtree.Publisher
	cdi          *cdi.Config // nil without CDI
	registration *registration
	observers    []Observer
	streamsCtx   context.Context // ends all streams
	log          klog.Logger
	pace         pace // initial pace of each stream
	lists        encoder
}

// GetDevicePluginOptions returns which of the optional calls the plugin answers.
func (s *service) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return s.options(), nil
}

func (s *service) options() *pluginapi.DevicePluginOptions {
	return &pluginapi.DevicePluginOptions{
		PreStartRequired:                s.plugin.preStarter != nil,
		GetPreferredAllocationAvailable: s.plugin.preferrer != nil,
	}
}

// logErrors is a [grpc.UnaryServerInterceptor] that logs the calls that fail.
func (s *service) logErrors(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	response, err := handler(ctx, req)
	switch {
	case errors.Is(err, errStopping):
		s.log.Info("Rejected a call because the device plugin is stopping", "resource", s.name,
			"method", info.FullMethod, "request", brief(req))
	case err != nil:
		s.log.Error(err, "Call failed", "resource", s.name, "method", info.FullMethod, "request", brief(req))
	}
	return response, err
}

// brief returns what the log contains of a request: the request, or its type and size if it is
// long.
func brief(req any) any {
	const long = 4 << 10 // bytes
	if m, ok := req.(proto.Message); ok && proto.Size(m) > long {
		return fmt.Sprintf("%T of %d bytes", req, proto.Size(m))
	}
	return req
}
