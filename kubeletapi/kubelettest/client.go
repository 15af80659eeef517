package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const dialTimeout = 10 * time.Second // the real kubelet's (plugin/v1beta1/client.go)

// client is the kubelet's connection to one registered endpoint.
type client struct {
	resource string
	conn     *grpc.ClientConn
	api      pluginapi.DevicePluginClient
	options  *pluginapi.DevicePluginOptions
}

// registration is the service behind kubelet.sock.
type registration struct {
	pluginapi.UnimplementedRegistrationServer
	kubelet *Kubelet
	life    *life
}

// Register connects to the endpoint, asks for its options, and only then answers.
func (s *registration) Register(ctx context.Context, r *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	k := s.kubelet
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
		return nil, fmt.Errorf("requested API version %q is not supported by kubelet, only %q", r.Version, pluginapi.Version)
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
	s.life.wg.Go(func() { k.follow(s.life, c) }) // the server waits for its handlers, so the count is above zero here
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

// follow takes the lists of one stream until it ends, then drops the client that the resource has by then (client.go and handler.go
// of the real kubelet's plugin/v1beta1: runClient).
func (k *Kubelet) follow(l *life, c *client) {
	defer c.conn.Close()
	if stream, err := c.api.ListAndWatch(l.ctx, &pluginapi.Empty{}); err == nil {
		for {
			r, err := stream.Recv()
			if err != nil {
				break
			}
			k.receive(l, c.resource, r.Devices, time.Now())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.ctx.Err() != nil {
		return // the process is gone, and all it knew with it; a next life may have begun
	}
	if current := k.clients[c.resource]; current != nil {
		delete(k.clients, c.resource)
		current.conn.Close()
		if list, ok := k.lists[c.resource]; ok {
			list.Live = false
			k.lists[c.resource] = list
		}
		k.touch()
	}
}

func (k *Kubelet) receive(l *life, resource string, devices []*pluginapi.Device, at time.Time) {
	k.mu.Lock()
	if l.ctx.Err() != nil {
		k.mu.Unlock()
		return
	}
	_, live := k.clients[resource] // not when the end of another stream took the client while this list was on its way
	list := List{Resource: resource, Devices: devices, Time: at, Life: l.number, Seq: k.lists[resource].Seq + 1, Live: live}
	k.lists[resource] = list
	k.touch()
	k.mu.Unlock()
	if k.onList != nil {
		k.onList(list)
	}
}

// Disconnect closes the connection to the endpoint of the resource, if there is one, as the kubelet does when a stream breaks off.
func (k *Kubelet) Disconnect(resource string) {
	if c, err := k.client(resource); err == nil {
		c.conn.Close()
	}
}

// client is the connection to the endpoint of the resource.
func (k *Kubelet) client(resource string) (*client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.clients[resource]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no endpoint of %q is registered", resource)
}

// Options are those that the plugin gave for the resource when it was connected, nil when it is not.
func (k *Kubelet) Options(resource string) *pluginapi.DevicePluginOptions {
	c, err := k.client(resource)
	if err != nil {
		return nil
	}
	return c.options
}

// Allocate asks for devices, one list of IDs for each container.
func (k *Kubelet) Allocate(ctx context.Context, resource string, containers ...[]string) (*pluginapi.AllocateResponse, error) {
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

// GetPreferredAllocation asks which devices one container should get.
func (k *Kubelet) GetPreferredAllocation(ctx context.Context, resource string, available, mustInclude []string, size int) ([]string, error) {
	c, err := k.client(resource)
	if err != nil {
		return nil, err
	}
	r, err := c.api.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{
		ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs: available, MustIncludeDeviceIDs: mustInclude, AllocationSize: int32(size),
		}},
	})
	if err != nil {
		return nil, err
	}
	if n := len(r.ContainerResponses); n != 1 {
		return nil, fmt.Errorf("%d answers for one container", n)
	}
	return r.ContainerResponses[0].DeviceIDs, nil
}

// PreStartContainer tells that a container with these devices is about to start.
func (k *Kubelet) PreStartContainer(ctx context.Context, resource string, devices []string) error {
	c, err := k.client(resource)
	if err != nil {
		return err
	}
	_, err = c.api.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: devices})
	return err
}

// describe says for a test's failure what the lists are.
func describe(lists map[string]List) string {
	var parts []string
	for name, l := range lists {
		healthy := 0
		for _, d := range l.Devices {
			if d.Health == pluginapi.Healthy {
				healthy++
			}
		}
		parts = append(parts, fmt.Sprintf("%s: %d devices, %d healthy, life %d, list %d, live %t", name, len(l.Devices), healthy, l.Life, l.Seq, l.Live))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}
