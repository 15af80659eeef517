package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// Allocate answers for all containers or for none.
func (s *service) Allocate(ctx context.Context, request *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	response, err := s.allocate(ctx, request)
	if err != nil {
		s.log.Error(err, "Refused to allocate", "resource", s.name)
		return nil, err
	}
	if v := s.log.V(2); v.Enabled() {
		for _, c := range request.GetContainerRequests() {
			v.Info("Allocated", "resource", s.name, "devices", c.GetDevicesIds())
		}
	}
	return response, nil
}

func (s *service) allocate(ctx context.Context, request *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	resource := s.publisher.Tree().Resource(s.resource) // one look: all containers see the same Tree
	containers := make([][]*devtree.Device, 0, len(request.GetContainerRequests()))
	for _, c := range request.GetContainerRequests() {
		devices, err := s.find(resource, c.GetDevicesIds())
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			if d.Health != devtree.Healthy {
				return nil, status.Errorf(codes.FailedPrecondition, "device %q of %q is %s: %s", d.ID, s.name, d.Health, d.Reason)
			}
		}
		containers = append(containers, devices)
	}
	response := &pluginapi.AllocateResponse{}
	for _, devices := range containers {
		edits, err := s.edits(ctx, devices)
		if err != nil {
			return nil, s.pluginError("allocate", err)
		}
		response.ContainerResponses = append(response.ContainerResponses, convertEdits(edits))
	}
	return response, nil
}

// edits are what one container gets; they belong to the caller.
func (s *service) edits(ctx context.Context, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
	edits := &devtree.ContainerEdits{Env: map[string]string{}, Annotations: map[string]string{}}
	own, err := (*devtree.ContainerEdits)(nil), ErrUseDefault
	if a, ok := s.plugin.(Allocator); ok {
		own, err = a.Allocate(ctx, s.resource, slices.Clone(devices))
	}
	switch {
	case err == nil && own != nil:
		edits.Merge(own)
	case err == nil || errors.Is(err, ErrUseDefault):
		for _, d := range devices {
			edits.Merge(&d.ContainerEdits)
		}
	default:
		return nil, err
	}
	if p, ok := s.plugin.(PostAllocator); ok {
		if err := p.PostAllocate(ctx, s.resource, slices.Clone(devices), edits); err != nil {
			return nil, err
		}
	}
	return edits, nil
}

// GetPreferredAllocation passes the plugin's choice on, for each container.
func (s *service) GetPreferredAllocation(ctx context.Context, request *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	p, ok := s.plugin.(PreferredAllocator)
	if !ok {
		return s.UnimplementedDevicePluginServer.GetPreferredAllocation(ctx, request)
	}
	resource := s.publisher.Tree().Resource(s.resource)
	response := &pluginapi.PreferredAllocationResponse{}
	for _, c := range request.GetContainerRequests() {
		must, err := s.find(resource, c.GetMustIncludeDeviceIDs())
		if err != nil {
			return nil, err
		}
		var available []*devtree.Device
		for _, id := range c.GetAvailableDeviceIDs() {
			// One that just went, or became unhealthy, is simply not to be chosen: the kubelet's list is a moment old.
			if d := resource.Device(id); d != nil && d.Health == devtree.Healthy {
				available = append(available, d)
			}
		}
		size := int(c.GetAllocationSize())
		chosen, err := p.PreferredAllocation(ctx, s.resource, available, must, size)
		if err != nil {
			return nil, s.pluginError("choose devices", err)
		}
		if err := checkChoice(chosen, c); err != nil {
			// Without advice the kubelet chooses itself; with an error the pod would fail.
			s.log.Error(err, "The plugin's choice of devices is left out", "resource", s.name, "chosen", chosen)
			chosen = nil
		}
		response.ContainerResponses = append(response.ContainerResponses, &pluginapi.ContainerPreferredAllocationResponse{DeviceIDs: chosen})
	}
	return response, nil
}

// checkChoice names the rule that the choice breaks.
func checkChoice(chosen []string, c *pluginapi.ContainerPreferredAllocationRequest) error {
	if len(chosen) > int(c.GetAllocationSize()) {
		return fmt.Errorf("%d devices chosen where %d were asked for", len(chosen), c.GetAllocationSize())
	}
	seen := map[string]bool{}
	for _, id := range chosen {
		if seen[id] {
			return fmt.Errorf("device %q is chosen twice", id)
		}
		seen[id] = true
		if !slices.Contains(c.GetAvailableDeviceIDs(), id) && !slices.Contains(c.GetMustIncludeDeviceIDs(), id) {
			return fmt.Errorf("device %q is chosen but not available", id)
		}
	}
	for _, id := range c.GetMustIncludeDeviceIDs() {
		if !seen[id] {
			return fmt.Errorf("device %q must be included and is not", id)
		}
	}
	return nil
}

// PreStartContainer passes the call on. The health of the devices is for the plugin to judge: the container has them already.
func (s *service) PreStartContainer(ctx context.Context, request *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	p, ok := s.plugin.(ContainerPreStarter)
	if !ok {
		return s.UnimplementedDevicePluginServer.PreStartContainer(ctx, request)
	}
	devices, err := s.find(s.publisher.Tree().Resource(s.resource), request.GetDevicesIds())
	if err == nil {
		if err = p.PreStartContainer(ctx, s.resource, devices); err == nil {
			return &pluginapi.PreStartContainerResponse{}, nil
		}
		err = s.pluginError("prepare devices", err)
	}
	s.log.Error(err, "Refused to start a container", "resource", s.name, "devices", request.GetDevicesIds())
	return nil, err
}

// find looks the devices up, in the order of the IDs.
func (s *service) find(resource *devtree.Resource, ids []string) ([]*devtree.Device, error) {
	devices := make([]*devtree.Device, 0, len(ids))
	for _, id := range ids {
		d := resource.Device(id)
		if d == nil {
			return nil, status.Errorf(codes.NotFound, "device %q of %q is unknown", id, s.name)
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// pluginError gives an error of the plugin the form that gRPC sends; a plugin need not know gRPC.
func (s *service) pluginError(operation string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	switch {
	case errors.Is(err, devtree.ErrGone):
		return status.Errorf(codes.NotFound, "%s of %q: %v", operation, s.name, err)
	case errors.Is(err, devtree.ErrUnfit):
		return status.Errorf(codes.FailedPrecondition, "%s of %q: %v", operation, s.name, err)
	}
	st, _ := status.FromError(err) // Unknown, with the error's text, when it is not a status
	return status.Errorf(st.Code(), "%s of %q: %s", operation, s.name, st.Message())
}
