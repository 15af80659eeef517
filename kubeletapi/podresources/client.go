// SPDX-License-Identifier: Apache-2.0

package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// DefaultSocket is where the kubelet serves the PodResources API
// (k8s.io/kubernetes/pkg/kubelet/apis/podresources/constants.go).
const DefaultSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

const (
	// timeout limits one call of Holders. The kubelet answers from memory, within milliseconds.
	timeout = 5 * time.Second

	// maxMessage is the size in bytes of the largest answer. The kubelet does not limit its answer,
	// and the default of gRPC is 4 MiB. Kubernetes uses this size in its own tests
	// (test/e2e_node/util.go, defaultPodResourcesMaxSize). An allocated device takes about 50
	// bytes.
	maxMessage = 16 << 20
)

// A Client asks the kubelet which pod holds which device. Any goroutine may use it.
type Client struct {
	socket string
	prefix string // of the names of resources
	self   string // the plugin's own pod, as "namespace/pod"; "" if it is not known
}

// New returns a Client of the kubelet that listens on the socket, which need not exist yet. The
// Client reports devices of the resources <resourceNamespace>/…. self is the pod that the calling
// process runs in, as "namespace/pod", or "".
func New(socket, resourceNamespace, self string) *Client {
	return &Client{socket: socket, prefix: resourceNamespace + "/", self: self}
}

// Holders returns the devices that the node's pods hold: device ID → "namespace/pod". It leaves out
// devices of other resources. The package comment says which holders the kubelet does not report.
//
// Holders waits for the kubelet for 5 s at most, and never longer than ctx. An error means that
// nothing is known: the kubelet cannot be asked, or does not know its pods yet. It matches
// [fs.ErrNotExist] if there is no socket.
func (c *Client) Holders(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	pods, err := c.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet which pods hold devices: %w%s", err, c.advice(err))
	}
	if err := c.checkComplete(pods); err != nil {
		return nil, fmt.Errorf("ask the kubelet at %s which pods hold devices: %w", c.socket, err)
	}
	return c.holders(pods), nil
}

// list makes the List call.
func (c *Client) list(ctx context.Context) ([]*api.PodResources, error) {
	// Connect first: gRPC would hide the cause of a failure in a text.
	socket, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	conn, err := grpc.NewClient("passthrough:///kubelet", // only the dialer knows the path: it may be no valid URL
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return socket, nil }))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := api.NewPodResourcesListerClient(conn)
	response, err := client.List(ctx, &api.ListPodResourcesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the pods at %s: %w", c.socket, err)
	}
	return response.GetPodResources(), nil
}

// advice returns what to do about an error, to append to its text, or "".
func (c *Client) advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ": mount the host's directory " + filepath.Dir(c.socket) + ", or use another socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		return ": the kubelet does not run, or only the socket is mounted: mount its directory " +
			filepath.Dir(c.socket)
	case errors.Is(err, fs.ErrPermission):
		return ": run the plugin as root"
	case status.Code(err) == codes.Unimplemented:
		return ": use the socket of the kubelet's PodResources API v1"
	}
	return ""
}

// checkComplete returns an error if the kubelet does not know all its pods yet.
func (c *Client) checkComplete(pods []*api.PodResources) error {
	if c.self == "" && len(pods) > 0 {
		return nil
	}
	for _, pod := range pods {
		if nameOf(pod) == c.self {
			return nil
		}
	}
	if c.self == "" {
		return errors.New("it reports no pods, so it may have just started")
	}
	return fmt.Errorf("it does not report the plugin's own pod %s, so it may have just started", c.self)
}

func nameOf(pod *api.PodResources) string { return pod.GetNamespace() + "/" + pod.GetName() }

// holders returns the devices that the pods hold.
func (c *Client) holders(pods []*api.PodResources) map[string]string {
	holders := map[string]string{}
	for _, pod := range pods {
		for _, container := range pod.GetContainers() {
			for _, devices := range container.GetDevices() {
				if !strings.HasPrefix(devices.GetResourceName(), c.prefix) {
					continue
				}
				for _, id := range devices.GetDeviceIds() {
					holders[id] = nameOf(pod)
				}
			}
		}
	}
	return holders
}
