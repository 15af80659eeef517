// SPDX-License-Identifier: Apache-2.0

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

// Allocate answers for all containers of the request or fails it as a whole.
func (s *service) Allocate(ctx context.Context, req *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	resource := s.publisher.Tree().Resource(s.resource) // read once, so that all containers see the same Tree
	var containers [][]*devtree.Device
	requested := 0
	for _, c := range req.GetContainerRequests() {
		devices, err := s.find(resource, c.GetDevicesIds())
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			if d.Health != devtree.Healthy {
				return nil, status.Errorf(codes.FailedPrecondition, "device %q of %s is %s: %s",
					d.ID, s.name, d.Health, d.Reason)
			}
		}
		containers = append(containers, devices)
		requested += len(devices)
	}
	if requested > resource.Len() { // the kubelet requests each device at most once
		return nil, status.Errorf(codes.InvalidArgument, "%d devices of %s requested, there are %d",
			requested, s.name, resource.Len())
	}
	response := &pluginapi.AllocateResponse{}
	for _, devices := range containers {
		edits, err := s.edits(ctx, devices)
		if err != nil {
			return nil, s.pluginError("Allocate", err)
		}
		response.ContainerResponses = append(response.ContainerResponses, convertEdits(edits))
	}
	for _, c := range req.GetContainerRequests() {
		s.log.V(2).Info("Allocated", "resource", s.name, "devices", c.GetDevicesIds())
	}
	return response, nil
}

// edits returns what one container gets. The caller may modify it.
func (s *service) edits(ctx context.Context, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
	var chosen *devtree.ContainerEdits
	if a := s.plugin.allocator; a != nil {
		var err error
		chosen, err = a.Allocate(ctx, s.resource, slices.Clone(devices))
		if errors.Is(err, ErrUseDefault) {
			chosen = nil
		} else if err != nil {
			return nil, err
		}
	}
	edits := &devtree.ContainerEdits{Env: map[string]string{}, Annotations: map[string]string{}}
	if chosen != nil {
		edits.Merge(chosen)
	} else {
		for _, d := range devices {
			edits.Merge(&d.ContainerEdits)
		}
	}
	postAllocates := s.plugin.postAllocator != nil
	if postAllocates {
		if err := s.plugin.postAllocator.PostAllocate(ctx, s.resource, slices.Clone(devices), edits); err != nil {
			return nil, err
		}
	}
	if chosen == nil && !postAllocates {
		return edits, nil // merged from devices, which are valid
	}
	if err := edits.Validate(); err != nil {
		return nil, fmt.Errorf("invalid edits of the plugin for devices %q: %w", idsOf(devices), err)
	}
	s.dropOverriddenNames(edits, devices)
	return edits, nil
}

func idsOf(devices []*devtree.Device) (list []string) {
	for _, d := range devices {
		list = append(list, d.ID)
	}
	return list
}

func convertEdits(e *devtree.ContainerEdits) *pluginapi.ContainerAllocateResponse {
	out := &pluginapi.ContainerAllocateResponse{Envs: e.Env, Annotations: e.Annotations}
	for _, n := range e.DeviceNodes {
		d := &pluginapi.DeviceSpec{HostPath: n.HostPath, ContainerPath: n.ContainerPath, Permissions: n.Permissions}
		out.Devices = append(out.Devices, d)
	}
	for _, n := range e.Mounts {
		m := &pluginapi.Mount{HostPath: n.HostPath, ContainerPath: n.ContainerPath, ReadOnly: n.ReadOnly}
		out.Mounts = append(out.Mounts, m)
	}
	for _, name := range e.CDINames {
		out.CdiDevices = append(out.CdiDevices, &pluginapi.CDIDevice{Name: name})
	}
	return out
}

// GetPreferredAllocation returns the plugin's choice for each container.
func (s *service) GetPreferredAllocation(
	ctx context.Context, req *pluginapi.PreferredAllocationRequest,
) (*pluginapi.PreferredAllocationResponse, error) {
	p := s.plugin.preferrer
	if p == nil {
		return s.UnimplementedDevicePluginServer.GetPreferredAllocation(ctx, req)
	}
	resource := s.publisher.Tree().Resource(s.resource)
	response := &pluginapi.PreferredAllocationResponse{}
	for _, c := range req.GetContainerRequests() {
		ids, err := s.preferred(ctx, p, resource, c)
		if err != nil {
			return nil, err
		}
		response.ContainerResponses = append(response.ContainerResponses,
			&pluginapi.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return response, nil
}

// preferred returns the plugin's choice for one container, or nothing if the plugin has no
// preference or breaks the rules. The kubelet then chooses itself: it has already allocated the
// devices that must be included and takes the rest from all that are available. An error, in
// contrast, fails the pod (pkg/kubelet/cm/devicemanager/manager.go of v1.36, devicesToAllocate).
func (s *service) preferred(
	ctx context.Context, p PreferredAllocator, resource *devtree.Resource,
	c *pluginapi.ContainerPreferredAllocationRequest,
) ([]string, error) {
	mustInclude, err := s.find(resource, c.GetMustIncludeDeviceIDs())
	if err != nil {
		return nil, err
	}
	var available []*devtree.Device
	for _, id := range c.GetAvailableDeviceIDs() {
		// The kubelet may not know yet that a device has gone or is unhealthy.
		if d := resource.Device(id); d != nil && d.Health == devtree.Healthy {
			available = append(available, d)
		}
	}
	ids, err := p.PreferredAllocation(ctx, s.resource, available, mustInclude, int(c.GetAllocationSize()))
	if errors.Is(err, ErrUseDefault) || err == nil && len(ids) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, s.pluginError("GetPreferredAllocation", err)
	}
	if err := checkChoice(ids, c); err != nil {
		s.log.Error(err, "Ignoring the preferred allocation", "resource", s.name, "chosen", ids)
		return nil, nil
	}
	return ids, nil
}

// checkChoice returns an error that states the rule that the choice breaks.
func checkChoice(ids []string, c *pluginapi.ContainerPreferredAllocationRequest) error {
	if len(ids) > int(c.GetAllocationSize()) {
		return fmt.Errorf("%d devices chosen, %d requested", len(ids), c.GetAllocationSize())
	}
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			return fmt.Errorf("device %q chosen twice", id)
		}
		if !slices.Contains(c.GetAvailableDeviceIDs(), id) && !slices.Contains(c.GetMustIncludeDeviceIDs(), id) {
			return fmt.Errorf("device %q chosen but not available", id)
		}
	}
	for _, id := range c.GetMustIncludeDeviceIDs() {
		if !slices.Contains(ids, id) {
			return fmt.Errorf("device %q must be included but is not chosen", id)
		}
	}
	return nil
}

// PreStartContainer passes the call to the plugin. It does not check the health of the
// devices: the container already has them.
func (s *service) PreStartContainer(
	ctx context.Context, req *pluginapi.PreStartContainerRequest,
) (*pluginapi.PreStartContainerResponse, error) {
	p := s.plugin.preStarter
	if p == nil {
		return s.UnimplementedDevicePluginServer.PreStartContainer(ctx, req)
	}
	devices, err := s.find(s.publisher.Tree().Resource(s.resource), req.GetDevicesIds())
	if err != nil {
		return nil, err
	}
	if err := p.PreStartContainer(ctx, s.resource, devices); err != nil {
		return nil, s.pluginError("PreStartContainer", err)
	}
	return &pluginapi.PreStartContainerResponse{}, nil
}

// find returns the devices with these IDs, in this order.
func (s *service) find(resource *devtree.Resource, ids []string) ([]*devtree.Device, error) {
	devices := make([]*devtree.Device, 0, len(ids))
	for _, id := range ids {
		d := resource.Device(id)
		if d == nil {
			return nil, status.Errorf(codes.NotFound, "unknown device %.200q of %s", id, s.name)
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// pluginError converts an error of the plugin, which may not use gRPC, to a gRPC status.
func (s *service) pluginError(call string, err error) error {
	code, message := codes.Unknown, err.Error()
	switch st, ok := status.FromError(err); {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		code = status.FromContextError(err).Code()
	case errors.Is(err, devtree.ErrGone):
		code = codes.NotFound
	case errors.Is(err, devtree.ErrUnfit):
		code = codes.FailedPrecondition
	case ok:
		code, message = st.Code(), st.Message()
	}
	return status.Errorf(code, "%s for %s: %s", call, s.name, message)
}
