// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that the server uses
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// send passes the message through gRPC's codec, as a call does.
func send[M proto.Message](t *testing.T, message M) M {
	t.Helper()
	codec := encoding.GetCodecV2("proto")
	data, err := codec.Marshal(message)
	if err != nil {
		t.Fatalf("gRPC cannot send %v: %v", message, err)
	}
	defer data.Free()
	received, ok := message.ProtoReflect().New().Interface().(M)
	if !ok {
		t.Fatalf("%T is not the type of the message", received)
	}
	if err := codec.Unmarshal(data, received); err != nil {
		t.Fatalf("gRPC cannot receive %v: %v", message, err)
	}
	return received
}

// FuzzSendDevice checks that gRPC can send the list and the Allocate response of any device that
// Put accepts.
func FuzzSendDevice(f *testing.F) {
	f.Add("1", "", "dev/a", "dev/b", "NAME", "value", "key", "text", "vendor.com/class=device", 0)
	f.Add("\u00e9", "is \x01", "\x7f", " ", "a b", "\n", "\u2028", "\U0001f600", "a/b=c", 7)
	f.Add("a\xff", "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xfe", "\x80", "\x00", "a/b=c\xff", -1)
	f.Fuzz(func(t *testing.T, id, reason, host, container, name, value, key, text, cdiName string, numaNode int) {
		d := &devtree.Device{ID: id, Health: devtree.Healthy, Reason: reason, NUMANodes: []int{numaNode}}
		if reason != "" {
			d.Health = devtree.Unhealthy
		}
		d.ContainerEdits = devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{
				{HostPath: "/" + host, ContainerPath: "/" + container, Permissions: "rwm"},
			},
			Mounts:      []devtree.Mount{{HostPath: "/" + host, ContainerPath: "/" + container, ReadOnly: true}},
			Env:         map[string]string{name: value},
			Annotations: map[string]string{key: text},
			CDINames:    []string{cdiName},
		}
		if err := new(devtree.Tree).Edit().Put("yellow", d); err != nil {
			return
		}
		want := &pluginapi.ListAndWatchResponse{Devices: []*pluginapi.Device{convertDevice(d)}}
		list := decode(t, &list{wire: appendDevice(nil, d)})
		answer := convertEdits(&d.ContainerEdits)
		if diff := cmp.Diff(want, list, protocmp.Transform()); diff != "" {
			t.Errorf("the list (-want +received):\n%s", diff)
		}
		if diff := cmp.Diff(answer, send(t, answer), protocmp.Transform()); diff != "" {
			t.Errorf("the answer (-sent +received):\n%s", diff)
		}
	})
}

// FuzzAllocate sends requests of any form. Each line is a container and each word a device. An
// error must be NotFound or FailedPrecondition and name one of the devices, or be InvalidArgument
// if the request names more devices than the resource has.
func FuzzAllocate(f *testing.F) {
	f.Add([]byte{})
	for _, words := range []string{"", "1", "1 2\n3", "1 1 1", "4", "9", "\n\n", "1\n4 9", "\xff"} {
		request := &pluginapi.AllocateRequest{}
		for line := range strings.SplitSeq(words, "\n") {
			request.ContainerRequests = append(request.ContainerRequests,
				&pluginapi.ContainerAllocateRequest{DevicesIds: strings.Fields(line)})
		}
		if data, err := proto.Marshal(request); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		request := &pluginapi.AllocateRequest{}
		if err := proto.Unmarshal(data, request); err != nil {
			return // gRPC rejects it
		}
		m, services := newTestServices(t.Context(), klog.Logger{}, "yellow")
		b := tree(t, nil, "yellow", "1", "2", "3").Edit()
		put(t, b, "yellow", unhealthy("4", "on fire"))
		now := b.Build()
		m.publish(now)
		answer, err := services["yellow"].Allocate(context.Background(), request)
		var bad []string
		requested := 0
		for _, c := range request.ContainerRequests {
			requested += len(c.DevicesIds)
			for _, id := range c.DevicesIds {
				if d := now.Resource("yellow").Device(id); d == nil || d.Health != devtree.Healthy {
					bad = append(bad, fmt.Sprintf("%.200q", id))
				}
			}
		}
		if len(bad) == 0 && requested > 4 {
			if status.Code(err) != codes.InvalidArgument {
				t.Fatalf("Allocate(%v) = %v, want InvalidArgument", request, err)
			}
			return
		}
		if len(bad) == 0 {
			if err != nil || len(answer.ContainerResponses) != len(request.ContainerRequests) {
				t.Fatalf("Allocate(%v) = %v, %v", request, answer, err)
			}
			send(t, answer)
			return
		}
		code := status.Code(err)
		named := slices.ContainsFunc(bad, func(id string) bool { return strings.Contains(err.Error(), id) })
		if code != codes.NotFound && code != codes.FailedPrecondition || !named {
			t.Errorf("Allocate(%v) = %v, want an error that names one of %q", request, err, bad)
		}
	})
}
