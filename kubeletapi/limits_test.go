// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

// longTree returns a Tree of yellow with n devices whose IDs have 4000 bytes.
func longTree(t testing.TB, before *devtree.Tree, n int) *devtree.Tree {
	t.Helper()
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("%04d", i)+strings.Repeat("x", 3996))
	}
	return tree(t, before, "yellow", ids...)
}

// TestListThatIsTooLongForTheKubelet checks that the kubelet gets as many devices as it accepts,
// that the log and CheckRegistered report it, and that other resources are not affected.
func TestListThatIsTooLongForTheKubelet(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p)
	now := longTree(t, tree(t, nil, "blue", "1"), 1100)
	p.publish(now)
	// A device takes 4 bytes for its tag and length, 3 for those of the ID, 4000 for the ID, and 9
	// for "Healthy".
	const fit = 4 << 20 / (4000 + 3 + 3 + 9)
	l := waitList(t, k, yellow, "the first devices", func(l kubelettest.List) bool { return l.Live })
	if got := len(l.Devices); got != fit || !strings.HasPrefix(l.Devices[fit-1].ID, fmt.Sprintf("%04d", fit-1)) {
		t.Errorf("the kubelet has %d devices, want the first %d", got, fit)
	}
	waitIDs(t, k, blue, "1")
	want := fmt.Sprintf("%s: the list of 1100 devices has 4416500 bytes, the kubelet accepts 4194304: "+
		"only the first %d devices are offered", yellow, fit)
	r.awaitRegistered(want)
	now = longTree(t, now, 1099)
	b := now.Edit()
	unhealthy := *now.Resource("yellow").Device(l.Devices[0].ID)
	unhealthy.Health, unhealthy.Reason = devtree.Unhealthy, "on fire"
	put(t, b, "yellow", &unhealthy)
	now = b.Build()
	p.publish(now)
	waitList(t, k, yellow, "a change", func(l kubelettest.List) bool { return l.Devices[0].Health == "Unhealthy" })
	if n := r.log.count("Cannot offer all devices"); n != 1 {
		t.Errorf("%d log lines about it, want 1", n)
	}
	p.publish(longTree(t, now, 1000))
	waitList(t, k, yellow, "all devices", func(l kubelettest.List) bool { return len(l.Devices) == 1000 })
	r.awaitRegistered("")
	r.log.await(t, "The list fits again")
	if n := len(k.Registrations()); n != 2 {
		t.Errorf("%d registrations, want one for each resource", n)
	}
}

func TestFirstDevicesOfAList(t *testing.T) {
	all := (&encoder{}).encode(tree(t, nil, "yellow", "1", "22", "333").Resource("yellow"))
	for _, tt := range []struct{ limit, devices int }{
		{len(all.wire), 3}, {len(all.wire) - 1, 2}, {all.ends[1], 2}, {all.ends[1] - 1, 1}, {all.ends[0], 1},
		{all.ends[0] - 1, 0}, {0, 0},
	} {
		got := all.first(tt.limit)
		if len(got.devices) != tt.devices || len(got.ends) != tt.devices || len(got.wire) > tt.limit {
			t.Errorf("first(%d) has %d devices and %d bytes, want %d devices",
				tt.limit, len(got.devices), len(got.wire), tt.devices)
		}
	}
}

// rawCodec is a codec for messages that are already encoded.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// TestLargeRequestsCostLittle checks that the server allocates memory in proportion to the size of
// a request of 4 MB.
func TestLargeRequestsCostLittle(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	conn, err := grpc.NewClient("unix://"+socketOf(dir, "yellow"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	container := func(ids ...string) (fields []byte) {
		for _, id := range ids {
			fields = protowire.AppendString(protowire.AppendTag(fields, 1, protowire.BytesType), id)
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), fields)
	}
	const size, limit = 4_000_000, 40 // bytes of the request, and allocated bytes for each of them
	for _, tt := range []struct {
		name    string
		request []byte
		want    codes.Code
	}{
		{"one device in each container", []byte(strings.Repeat(string(container("1")), size/5)), codes.Internal},
		{"empty containers", []byte(strings.Repeat(string(container()), size/2)), codes.Internal},
		{"one container with one device often", container(strings.Split(strings.Repeat("1", size/3), "")...),
			codes.InvalidArgument},
		{"long ID", container(strings.Repeat("x", size)), codes.NotFound},
		{"too long", container(strings.Repeat("x", 4<<20)), codes.ResourceExhausted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var answer []byte
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			err := conn.Invoke(ctx, "/v1beta1.DevicePlugin/Allocate", tt.request, &answer,
				grpc.ForceCodecV2(rawCodec{}))
			runtime.ReadMemStats(&after)
			if status.Code(err) != tt.want {
				t.Errorf("Allocate = %.200v, want %v", err, tt.want)
			}
			if cost := (after.TotalAlloc - before.TotalAlloc) / size; cost > limit {
				t.Errorf("%d bytes for each byte of the request, want at most %d", cost, limit)
			} else {
				t.Logf("%d bytes for each byte of the request", cost)
			}
		})
	}
}

// TestReasonOfEndedStreamIsLogged checks that the log contains why a stream ends: at V(2) for each
// stream, and as an error if streams keep ending.
func TestReasonOfEndedStreamIsLogged(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p, fastRetries, func(c *config) { c.gracePeriod, c.backOffMax = time.Millisecond, time.Hour })
	p.publish(tree(t, nil, "yellow", "1"))
	for range 4 {
		waitIDs(t, k, yellow, "1")
		k.Disconnect(yellow)
		waitList(t, k, yellow, "the end of the stream", func(l kubelettest.List) bool { return !l.Live })
	}
	waitIDs(t, k, yellow, "1")
	const reason = "the kubelet ended the stream: context canceled"
	r.log.awaitCount(t, `"The kubelet no longer follows the list" "resource"="`+yellow+`" "reason"="`+reason, 4)
	again := `"The stream to the kubelet keeps ending, registering again" "error"="` + reason
	if n := r.log.count(again); n != 1 {
		t.Errorf("%d errors about it, want 1:\n%s", n, r.log)
	}
}

// TestCheckRegisteredSaysWhyResourceIsNotServed checks that the error of CheckRegistered names a
// socket that cannot be created.
func TestCheckRegisteredSaysWhyResourceIsNotServed(t *testing.T) {
	dir, first, second := kubeletDir(t), newFakePlugin(), newFakePlugin()
	k := startKubelet(t, dir)
	r1 := run(t, dir, first)
	first.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	r2 := run(t, dir, second, fastRetries)
	second.publish(tree(t, nil, "yellow", "1"))
	r2.awaitRegistered(yellow + ": it cannot be served: listen on " + socketOf(dir, "yellow") +
		": another process serves it")
	if err := r1.stop(); err != nil {
		t.Error(err)
	}
	r2.awaitRegistered("")
}
