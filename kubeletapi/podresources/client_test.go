// SPDX-License-Identifier: Apache-2.0

package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kubelet is a kubelet whose answers the test sets.
type kubelet struct {
	api.UnimplementedPodResourcesListerServer
	list func(context.Context) (*api.ListPodResourcesResponse, error)
}

func (k *kubelet) List(
	ctx context.Context, _ *api.ListPodResourcesRequest,
) (*api.ListPodResourcesResponse, error) {
	return k.list(ctx)
}

// serve serves a kubelet until stop is called or the test ends.
func serve(t *testing.T, socket string, k api.PodResourcesListerServer) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	if k != nil {
		api.RegisterPodResourcesListerServer(server, k)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	stop = func() { server.Stop(); <-done }
	t.Cleanup(stop)
	return stop
}

// answering returns a kubelet with these pods.
func answering(pods ...*api.PodResources) *kubelet {
	return &kubelet{list: func(context.Context) (*api.ListPodResourcesResponse, error) {
		return &api.ListPodResourcesResponse{PodResources: pods}, nil
	}}
}

// pod returns a pod with one container.
func pod(namespace, name string, devices ...*api.ContainerDevices) *api.PodResources {
	return &api.PodResources{
		Namespace:  namespace,
		Name:       name,
		Containers: []*api.ContainerResources{{Name: "main", Devices: devices}},
	}
}

func devices(resource string, ids ...string) *api.ContainerDevices {
	return &api.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

// socketPath returns the path of a socket that does not exist.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet-") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "kubelet.sock")
}

func TestHolders(t *testing.T) {
	const a, b, holder = "0000:6b:00.1", "serial-2", "default/web"
	self := pod("kube-system", "plugin")
	for name, tt := range map[string]struct {
		pods []*api.PodResources
		want map[string]string
	}{
		"none": {want: map[string]string{}},
		"two resources": {
			[]*api.PodResources{
				pod("default", "web", devices("qat.intel.com/cy", a), devices("qat.intel.com/dc", b)),
			},
			map[string]string{a: holder, b: holder},
		},
		// The kubelet reports a device once for each of its NUMA nodes.
		"device twice": {
			[]*api.PodResources{
				pod("default", "web", devices("qat.intel.com/cy", a), devices("qat.intel.com/cy", a)),
			},
			map[string]string{a: holder},
		},
		"other resources": {
			[]*api.PodResources{
				pod("default", "web", devices("example.com/cy", a), devices("cy", a),
					devices("", a), devices("qat.intel.com.example.com/cy", a),
					devices("qat.intel.com", a), devices("xqat.intel.com/cy", a)),
			},
			map[string]string{},
		},
		"odd IDs": {
			[]*api.PodResources{
				pod("default", "web", devices("qat.intel.com/cy", "", "/", strings.Repeat(a, 1000)),
					devices("qat.intel.com/dc")),
			},
			map[string]string{"": holder, "/": holder, strings.Repeat(a, 1000): holder},
		},
		"empty messages": {
			[]*api.PodResources{
				{}, {Containers: []*api.ContainerResources{{}, {Devices: []*api.ContainerDevices{{}}}}},
				pod("", "", devices("qat.intel.com/cy", a)),
			},
			map[string]string{a: "/"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket := socketPath(t)
			serve(t, socket, answering(append(tt.pods, self)...))
			got, err := New(socket, "qat.intel.com", "kube-system/plugin").Holders(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("holders (-want +got):\n%s", diff)
			}
		})
	}
}

// A kubelet that has just started reports pods only when it gets them from the API server.
func TestIncompleteAnswersAreErrors(t *testing.T) {
	const started = "so it may have just started"
	for name, tt := range map[string]struct {
		self string
		pods []*api.PodResources
		want string // part of the error; "" for none
	}{
		"no pods":                   {"", nil, "it reports no pods, " + started},
		"other pods":                {"", []*api.PodResources{pod("default", "web")}, ""},
		"no pods, self known":       {"a/b", nil, "it does not report the plugin's own pod a/b, " + started},
		"static pods, self known":   {"a/b", []*api.PodResources{pod("a", "c"), pod("c", "b")}, "own pod a/b"},
		"self":                      {"a/b", []*api.PodResources{pod("a", "c"), pod("a", "b")}, ""},
		"nameless pod, self known":  {"a/b", []*api.PodResources{{}}, "own pod a/b"},
		"nameless pod, as a marker": {"", []*api.PodResources{{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			socket := socketPath(t)
			serve(t, socket, answering(tt.pods...))
			_, err := New(socket, "qat.intel.com", tt.self).Holders(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, socket string)
		is      error
		want    string // with %[1]s for the socket and %[2]s for its directory
	}{
		"absent": {
			func(*testing.T, string) {},
			fs.ErrNotExist,
			"ask the kubelet which pods hold devices: dial unix %[1]s: connect: no such file or directory: " +
				"mount the host's directory %[2]s, or use another socket",
		},
		"left behind": {
			func(t *testing.T, socket string) {
				listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
				if err != nil {
					t.Fatal(err)
				}
				listener.SetUnlinkOnClose(false)
				_ = listener.Close()
			},
			syscall.ECONNREFUSED,
			"ask the kubelet which pods hold devices: dial unix %[1]s: connect: connection refused: " +
				"the kubelet does not run, or only the socket is mounted: mount its directory %[2]s",
		},
		"another API": {
			func(t *testing.T, socket string) { serve(t, socket, nil) },
			nil,
			"ask the kubelet which pods hold devices: list the pods at %[1]s: rpc error: code = Unimplemented " +
				"desc = unknown service v1.PodResourcesLister: " +
				"use the socket of the kubelet's PodResources API v1",
		},
		"rate limit": {
			func(t *testing.T, socket string) {
				serve(t, socket, &kubelet{list: func(context.Context) (*api.ListPodResourcesResponse, error) {
					return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
				}})
			},
			nil,
			"ask the kubelet which pods hold devices: list the pods at %[1]s: rpc error: code = ResourceExhausted " +
				"desc = rejected by rate limit",
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket := socketPath(t)
			tt.prepare(t, socket)
			_, err := New(socket, "qat.intel.com", "").Holders(t.Context())
			if want := fmt.Sprintf(tt.want, socket, filepath.Dir(socket)); err == nil || err.Error() != want {
				t.Errorf("error: %v\nwant:  %s", err, want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v does not match %v", err, tt.is)
			}
		})
	}
}

// Each of these peers answers with something, or nothing, that is not the API.
func TestPeersThatAreNoKubelet(t *testing.T) {
	for name, peer := range map[string]func(net.Conn){
		"closes":  func(c net.Conn) { _ = c.Close() },
		"garbage": func(c net.Conn) { _, _ = c.Write([]byte(strings.Repeat("x", 1<<16))); _ = c.Close() },
		"HTTP":    func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			socket := socketPath(t)
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for c, err := listener.Accept(); err == nil; c, err = listener.Accept() {
					peer(c)
				}
			}()
			defer func() { _ = listener.Close(); <-done }()
			_, err = New(socket, "qat.intel.com", "").Holders(t.Context())
			if err == nil || !strings.Contains(err.Error(), socket) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want one that names the socket", err)
			}
		})
	}
}

// A kubelet that hangs delays the caller no longer than its context allows.
func TestHoldersEndsWithItsContext(t *testing.T) {
	for name, accept := range map[string]bool{"before the connection": false, "in the call": true} {
		t.Run(name, func(t *testing.T) {
			socket := socketPath(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if accept {
				serve(t, socket, &kubelet{list: func(call context.Context) (*api.ListPodResourcesResponse, error) {
					if deadline, ok := call.Deadline(); !ok || time.Until(deadline) > timeout {
						t.Errorf("the call ends at %v, want within %v", deadline, timeout)
					}
					cancel()
					<-call.Done()
					return nil, call.Err()
				}})
			} else {
				listener, err := net.Listen("unix", socket) // and accepts nothing
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
				time.AfterFunc(10*time.Millisecond, cancel)
			}
			_, err := New(socket, "qat.intel.com", "").Holders(ctx)
			if status.Code(errors.Unwrap(err)) != codes.Canceled || !strings.Contains(err.Error(), socket) {
				t.Errorf("error %v, want that the context was canceled", err)
			}
		})
	}
}

// gRPC accepts 4 MiB by default. The answer of a big node may be longer.
func TestSizeOfTheAnswer(t *testing.T) {
	for _, tt := range []struct {
		size int
		want codes.Code
	}{
		{5 << 20, codes.OK}, {maxMessage, codes.ResourceExhausted},
	} {
		socket := socketPath(t)
		other := pod("default", "other", devices("example.com/x", strings.Repeat("x", tt.size)))
		serve(t, socket, answering(other, pod("default", "web", devices("qat.intel.com/cy", "0000:6b:00.1"))))
		holders, err := New(socket, "qat.intel.com", "").Holders(t.Context())
		if status.Code(errors.Unwrap(err)) != tt.want || (err == nil) != (len(holders) == 1) {
			t.Errorf("answer with %d bytes: %d holders, error %v, want %v", tt.size, len(holders), err, tt.want)
		}
	}
}

func TestHoldersAfterARestartOfTheKubelet(t *testing.T) {
	socket := socketPath(t)
	c := New(socket, "qat.intel.com", "")
	for n := range 3 {
		stop := serve(t, socket, answering(pod("default", fmt.Sprint(n), devices("qat.intel.com/cy", "0000:6b:00.1"))))
		holders, err := c.Holders(t.Context())
		if err != nil || holders["0000:6b:00.1"] != fmt.Sprint("default/", n) {
			t.Errorf("holders %v, error %v, want pod %d", holders, err, n)
		}
		stop()
		if _, err := c.Holders(t.Context()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v while the kubelet is stopped, want that there is no socket", err)
		}
		_ = os.Remove(socket)
	}
}

func FuzzHolders(f *testing.F) {
	for _, pods := range [][]*api.PodResources{
		nil, {{}}, {pod("default", "web", devices("qat.intel.com/cy", "0000:6b:00.1", "x"))},
	} {
		message, err := proto.Marshal(&api.ListPodResourcesResponse{PodResources: pods})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var response api.ListPodResourcesResponse
		if proto.Unmarshal(message, &response) != nil {
			return
		}
		c := New("", "qat.intel.com", "a/b")
		_ = c.checkComplete(response.GetPodResources())
		want := map[string]bool{}
		for _, pod := range response.GetPodResources() {
			for _, container := range pod.GetContainers() {
				for _, d := range container.GetDevices() {
					for _, id := range d.GetDeviceIds() {
						want[id] = want[id] || strings.HasPrefix(d.GetResourceName(), "qat.intel.com/")
					}
				}
			}
		}
		got := c.holders(response.GetPodResources())
		for id, ours := range want {
			if _, held := got[id]; held != ours {
				t.Errorf("device %q is held: %v, want %v", id, held, ours)
			}
		}
	})
}
