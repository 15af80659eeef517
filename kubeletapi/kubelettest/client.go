// SPDX-License-Identifier: Apache-2.0

package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const dialTimeout = 10 * time.Second // of the real kubelet (plugin/v1beta1/client.go, dial)

// client is the connection to a plugin that has registered a resource.
type client struct {
	resource string
	conn     *grpc.ClientConn
	api      pluginapi.DevicePluginClient
	options  *pluginapi.DevicePluginOptions
}

// registrationServer is the service behind kubelet.sock.
type registrationServer struct {
	pluginapi.UnimplementedRegistrationServer
	kubelet *Kubelet
	process *process
}

// Register connects to the plugin and gets its options before it answers.
func (s *registrationServer) Register(
	ctx context.Context, r *pluginapi.RegisterRequest,
) (*pluginapi.Empty, error) {
	k := s.kubelet
	k.mu.Lock()
	k.registrations = append(k.registrations, r)
	k.mu.Unlock()
	if k.onRegister != nil {
		err := k.onRegister(ctx, r)
		if errors.Is(err, ErrIgnore) {
			return &pluginapi.Empty{}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if r.Version != pluginapi.Version {
		return nil, fmt.Errorf("API version %q is not supported, only %q", r.Version, pluginapi.Version)
	}
	if namespace, name, ok := strings.Cut(r.ResourceName, "/"); !ok || namespace == "" || name == "" {
		return nil, fmt.Errorf("the ResourceName %q is invalid", r.ResourceName)
	}
	c, err := connect(ctx, r.ResourceName, filepath.Join(k.dir, r.Endpoint))
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.clients[r.ResourceName] = c
	k.mu.Unlock()
	// The server, which waits for its handlers, is still in running.
	s.process.running.Go(func() { k.follow(s.process, c) })
	return &pluginapi.Empty{}, nil
}

func connect(ctx context.Context, resource, socket string) (*client, error) {
	conn, err := grpc.NewClient("passthrough:///"+filepath.Base(socket),
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, err
	}
	c := &client{resource: resource, conn: conn, api: pluginapi.NewDevicePluginClient(conn)}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c.options, err = c.api.GetDevicePluginOptions(ctx, &pluginapi.Empty{}, grpc.WaitForReady(true))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("failed to get device plugin options: %w", err)
	}
	return c, nil
}

// follow receives the lists of one stream until it ends, and then drops the client that
// the resource has by then, like runClient of plugin/v1beta1/handler.go.
func (k *Kubelet) follow(p *process, c *client) {
	defer c.conn.Close()
	if stream, err := c.api.ListAndWatch(p.ctx, &pluginapi.Empty{}); err == nil {
		for {
			r, err := stream.Recv()
			if err != nil {
				break
			}
			k.receive(p, c.resource, r.Devices, time.Now())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.ctx.Err() != nil {
		return // the clients may be those of the next process
	}
	if current := k.clients[c.resource]; current != nil {
		delete(k.clients, c.resource)
		current.conn.Close()
		if list, ok := k.lists[c.resource]; ok {
			list.Live = false
			k.lists[c.resource] = list
		}
		k.notify()
	}
}

func (k *Kubelet) receive(p *process, resource string, devices []*pluginapi.Device, at time.Time) {
	k.mu.Lock()
	if p.ctx.Err() != nil {
		k.mu.Unlock()
		return
	}
	_, live := k.clients[resource] // not if the end of another stream has dropped the client
	list := List{Resource: resource, Devices: devices, Time: at, Seq: k.lists[resource].Seq + 1, Live: live}
	k.lists[resource] = list
	k.notify()
	k.mu.Unlock()
	if k.onList != nil {
		k.onList(list)
	}
}

// client returns the client of the resource.
func (k *Kubelet) client(resource string) (*client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.clients[resource]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no plugin is registered for %q", resource)
}

// Disconnect closes the connection to the plugin of the resource if there is one. The
// plugin sees its stream end, as if the connection had broken.
func (k *Kubelet) Disconnect(resource string) {
	if c, err := k.client(resource); err == nil {
		c.conn.Close()
	}
}

// Options returns the options of the plugin that has registered the resource, nil if
// there is none.
func (k *Kubelet) Options(resource string) *pluginapi.DevicePluginOptions {
	c, err := k.client(resource)
	if err != nil {
		return nil
	}
	return c.options
}

// Allocate asks the plugin for devices, one list of IDs per container. The real kubelet
// sends one request per container.
func (k *Kubelet) Allocate(
	ctx context.Context, resource string, containers ...[]string,
) (*pluginapi.AllocateResponse, error) {
	c, err := k.client(resource)
	if err != nil {
		return nil, err
	}
	r := &pluginapi.AllocateRequest{}
	for _, ids := range containers {
		r.ContainerRequests = append(r.ContainerRequests, &pluginapi.ContainerAllocateRequest{DevicesIds: ids})
	}
	return c.api.Allocate(ctx, r)
}

// GetPreferredAllocation asks the plugin to choose size of the available devices for one
// container, all of mustInclude among them.
func (k *Kubelet) GetPreferredAllocation(
	ctx context.Context, resource string, available, mustInclude []string, size int,
) ([]string, error) {
	c, err := k.client(resource)
	if err != nil {
		return nil, err
	}
	r, err := c.api.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{
		ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs:   available,
			MustIncludeDeviceIDs: mustInclude,
			AllocationSize:       int32(size),
		}},
	})
	if err != nil {
		return nil, err
	}
	if n := len(r.ContainerResponses); n != 1 {
		return nil, fmt.Errorf("%d responses for one container", n)
	}
	return r.ContainerResponses[0].DeviceIDs, nil
}

// PreStartContainer tells the plugin that a container with these devices is about to
// start.
func (k *Kubelet) PreStartContainer(ctx context.Context, resource string, devices []string) error {
	c, err := k.client(resource)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pluginapi.KubeletPreStartContainerRPCTimeoutInSecs*time.Second)
	defer cancel()
	_, err = c.api.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: devices})
	return err
}
