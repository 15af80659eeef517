// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/kubeletapi/kubelettest"
)

// floor measures a lower bound for the latency of any plugin. For each datagram on a socket, a
// goroutine sends an encoded message on a gRPC stream over a Unix socket. The kubelet's end is the
// same as in the measurement of the plugin. Nothing is parsed, decided or encoded.
type floor struct {
	pluginapi.UnimplementedDevicePluginServer
	look      func()   // called between the datagram and the message
	datagrams *os.File // the floor's end of a socket pair
	trigger   int      // the other end
	messages  [2]encodedList
	lists     chan kubelettest.List
}

// encodedList is a ListAndWatchResponse in the wire format.
type encodedList []byte

// rawCodec is gRPC's codec for protocol buffers. It also accepts an encodedList.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if l, ok := v.(encodedList); ok {
		return mem.BufferSlice{mem.SliceBuffer(l)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// startFloor returns a floor that sends the two lists alternately, and calls look before each.
func startFloor(b *testing.B, lists [2]kubelettest.List, look func()) *floor {
	b.Helper()
	f := &floor{look: look, lists: make(chan kubelettest.List, 1)}
	for i, l := range lists {
		wire, err := proto.Marshal(&pluginapi.ListAndWatchResponse{Devices: l.Devices})
		must(b, err)
		f.messages[i] = wire
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(b, err)
	f.datagrams, f.trigger = os.NewFile(uintptr(pair[0]), "datagrams"), pair[1]

	dir, err := os.MkdirTemp("", "k")
	must(b, err)
	k, err := kubelettest.Start(dir, kubelettest.OnList(func(l kubelettest.List) { f.lists <- l }))
	must(b, err)
	listener, err := net.Listen("unix", filepath.Join(dir, "floor.sock"))
	must(b, err)
	server := grpc.NewServer(
		grpc.WaitForHandlers(true), grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2(protocodec.Name)}))
	pluginapi.RegisterDevicePluginServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	b.Cleanup(func() {
		k.Stop()
		must(b, f.datagrams.Close())
		server.Stop()
		must(b, <-served)
		must(b, unix.Close(f.trigger))
		must(b, os.RemoveAll(dir))
	})
	conn, err := grpc.NewClient("unix://"+k.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(b, err)
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(context.Background(), &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: "floor.sock", ResourceName: resource,
	})
	must(b, err)
	return f
}

// GetDevicePluginOptions implements the device plugin API.
func (f *floor) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{}, nil
}

// ListAndWatch implements the device plugin API.
func (f *floor) ListAndWatch(_ *pluginapi.Empty, stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	buffer := make([]byte, 16<<10)
	for i := 0; ; i++ {
		if _, err := f.datagrams.Read(buffer); err != nil {
			return err
		}
		f.look()
		if err := stream.SendMsg(f.messages[i%2]); err != nil {
			return err
		}
	}
}

// measure sends a datagram and returns the time until the kubelet has the list.
func (f *floor) measure(b *testing.B, datagram []byte) time.Duration {
	b.Helper()
	start := time.Now()
	must(b, unix.Send(f.trigger, datagram, 0))
	return (<-f.lists).Time.Sub(start)
}

// lookAt returns a function that makes the system calls with which the plugin reads a known VF
// again after an event. entry is the VF's entry in bus/pci/devices, and node its device node.
func lookAt(b *testing.B, entry, node string) func() {
	b.Helper()
	dir, err := filepath.EvalSymlinks(entry)
	must(b, err)
	buffer := make([]byte, 4<<10)
	return func() {
		var st unix.Stat_t
		_, unbound := unix.Readlink(dir+"/driver", buffer)
		_, _ = unix.Readlink(dir+"/physfn", buffer)
		_, _ = unix.Readlink(dir+"/iommu_group", buffer)
		_ = unix.Access(node, unix.F_OK)
		if unbound == nil {
			_ = unix.Stat(dir+"/vfio-dev", &st)
		} else if fd, err := unix.Open(dir+"/iommu_group/devices", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			for n := 1; n > 0; {
				n, _ = unix.ReadDirent(fd, buffer)
			}
			_ = unix.Close(fd)
			_, _ = unix.Readlink(dir+"/driver", buffer)
		}
		_ = unix.Stat(entry, &st)
	}
}
