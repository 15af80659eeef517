// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"bytes"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

func TestKubeletGetsEachNewestList(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	first := tree(t, nil, "yellow", "1", "2")
	p.publish(first)
	l := waitIDs(t, k, yellow, "1", "2")
	if got, want := healthOf(l, "1"), "Healthy"; got != want {
		t.Errorf("health of 1 = %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"color.example.com-yellow.sock", "kubelet.sock"}, sockets(t, dir)); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
	p.publish(with(t, first, "yellow", unhealthy("2", "on fire")))
	waitList(t, k, yellow, "2 unhealthy", func(l kubelettest.List) bool { return healthOf(l, "2") == "Unhealthy" })
	p.publish(tree(t, first, "yellow", "3"))
	waitIDs(t, k, yellow, "3")
	p.publish(tree(t, first, "yellow"))
	waitIDs(t, k, yellow)
	p.publish(&devtree.Tree{}) // a missing resource remains registered, like an empty one
	p.publish(first)
	waitIDs(t, k, yellow, "1", "2")
}

func TestListHasHealthAndNUMANodes(t *testing.T) {
	b := new(devtree.Tree).Edit()
	for id, nodes := range map[string][]int{"none": nil, "one": {1}, "two": {0, 1}} {
		d := device(id)
		d.NUMANodes = nodes
		put(t, b, "yellow", d)
	}
	put(t, b, "yellow", unhealthy("sick", "on fire"))
	nodes := func(nodes ...*pluginapi.NUMANode) *pluginapi.TopologyInfo {
		return &pluginapi.TopologyInfo{Nodes: nodes}
	}
	want := &pluginapi.ListAndWatchResponse{Devices: []*pluginapi.Device{
		{ID: "none", Health: pluginapi.Healthy},
		{ID: "one", Health: pluginapi.Healthy, Topology: nodes(&pluginapi.NUMANode{ID: 1})},
		{ID: "sick", Health: pluginapi.Unhealthy},
		{ID: "two", Health: pluginapi.Healthy, Topology: nodes(&pluginapi.NUMANode{}, &pluginapi.NUMANode{ID: 1})},
	}}
	got := (&encoder{}).encode(b.Build().Resource("yellow"))
	if diff := cmp.Diff(want, decode(t, got), protocmp.Transform()); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestEqualListIsNotSentAgain(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	now := tree(t, with(t, nil, "yellow", unhealthy("1", "on fire")), "blue")
	p.publish(now)
	before := waitIDs(t, k, yellow, "1")
	for i := range 50 {
		// The kubelet sees neither the reason nor what is for DRA. Both streams wake; when the
		// list of blue has arrived, that of yellow most likely would have, too.
		id := strconv.Itoa(i)
		d := unhealthy("1", strconv.Itoa(i/3)+" m under water")
		d.Cause = "depth-" + strconv.Itoa((i+1)/3)
		d.Attributes = map[string]any{"depth": int64((i + 2) / 3)}
		now = tree(t, with(t, now, "yellow", d), "blue", id)
		p.publish(now)
		waitIDs(t, k, blue, id)
	}
	p.publish(tree(t, now, "yellow", "1", "2"))
	after := waitIDs(t, k, yellow, "1", "2")
	if got, want := after.Seq, before.Seq+1; got != want {
		t.Errorf("the list with a new device has number %d, want %d", got, want)
	}
}

func TestResourcesAppearAndRemain(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	first := tree(t, nil, "yellow", "1")
	p.publish(first)
	waitIDs(t, k, yellow, "1")
	p.publish(tree(t, first, "blue", "a"))
	waitIDs(t, k, blue, "a")
	waitIDs(t, k, yellow, "1")
	p.publish(tree(t, nil, "green", "x")) // without yellow and blue
	waitIDs(t, k, namespace+"/green", "x")
	for _, resource := range []string{yellow, blue} {
		waitIDs(t, k, resource)
	}
	restart(t, k)
	for _, resource := range []string{yellow, blue} {
		waitIDs(t, k, resource)
	}
}

func TestTwoStreamsGetEveryList(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	now := tree(t, nil, "yellow", "0")
	p.publish(now)
	waitIDs(t, k, yellow, "0")
	second := openStream(t, dir, "yellow")
	for i := range 50 {
		id := strconv.Itoa(i)
		now = tree(t, now, "yellow", id)
		p.publish(now)
		waitIDs(t, k, yellow, id)
		second.until(t, id)
	}
}

// TestBlockedStreamDelaysNothingElse checks that a stream that is not read delays neither
// the other stream of its resource nor another resource nor publish.
func TestBlockedStreamDelaysNothingElse(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	now := tree(t, toggledTrees(t, 1024)[0], "blue", "a")
	p.publish(now)
	waitList(t, k, yellow, "1024 devices", func(l kubelettest.List) bool { return len(l.Devices) == 1024 })
	blocked := openStream(t, dir, "yellow")
	for i := range 100 {
		d := unhealthy("one", strconv.Itoa(i))
		if i%2 == 0 {
			d = device("one")
		}
		now = tree(t, with(t, now, "yellow", d), "blue", strconv.Itoa(i))
		p.publish(now)
		waitIDs(t, k, blue, strconv.Itoa(i))
		waitList(t, k, yellow, "newest list", func(l kubelettest.List) bool {
			return healthOf(l, "one") == string(d.Health)
		})
	}
	lists := 0
	for {
		l := blocked.next(t)
		lists++
		if len(l) == 1025 && l[len(l)-1].Health == "Unhealthy" && lists > 1 {
			break // as published last
		}
		if lists > 100 {
			t.Fatal("the newest list did not arrive")
		}
	}
	// Some lists fill the socket, gRPC's windows and its write quota. The others are skipped.
	if lists > 30 {
		t.Errorf("the blocked stream got %d of 100 lists, want only those that were buffered, and the newest", lists)
	}
}

func TestMemoryIsBoundedWhileStreamIsBlocked(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	trees := toggledTrees(t, 64)
	p.publish(trees[0])
	waitList(t, k, yellow, "64 devices", func(l kubelettest.List) bool { return len(l.Devices) == 64 })
	blocked := openStream(t, dir, "yellow")
	blocked.next(t)
	before := heapSize()
	for i := range 100_000 {
		p.publish(trees[i%2])
	}
	p.publish(tree(t, trees[0], "yellow", "last"))
	waitIDs(t, k, yellow, "last")
	if grown := heapSize() - before; grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	blocked.until(t, "last")
}

func heapSize() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// decode returns a list as the kubelet receives it.
func decode(t testing.TB, l *list) *pluginapi.ListAndWatchResponse {
	t.Helper()
	response := &pluginapi.ListAndWatchResponse{}
	if err := proto.Unmarshal(l.wire, response); err != nil {
		t.Fatal(err)
	}
	return response
}

// convertDevice returns the message for a device.
func convertDevice(d *devtree.Device) *pluginapi.Device {
	out := &pluginapi.Device{ID: d.ID, Health: string(d.Health)}
	if len(d.NUMANodes) > 0 {
		out.Topology = &pluginapi.TopologyInfo{}
		for _, n := range d.NUMANodes {
			out.Topology.Nodes = append(out.Topology.Nodes, &pluginapi.NUMANode{ID: int64(n)})
		}
	}
	return out
}

// TestEncodedListEqualsMarshaledResponse checks that an encoder returns the same bytes for the last
// of several Trees as package proto, and that it does not modify lists that it returned before.
func TestEncodedListEqualsMarshaledResponse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e, now := &encoder{}, &devtree.Tree{}
		before, copied := &list{}, []byte(nil)
		for range rapid.IntRange(1, 20).Draw(rt, "trees") {
			b := now.Edit()
			for range rapid.IntRange(0, 4).Draw(rt, "changes") {
				id := strconv.Itoa(rapid.IntRange(0, 9).Draw(rt, "id"))
				switch rapid.IntRange(0, 3).Draw(rt, "change") {
				case 0:
					b.Remove("yellow", id)
				case 1:
					put(t, b, "yellow", unhealthy(id, rapid.SampledFrom([]string{"fire", "water"}).Draw(rt, "reason")))
				case 2:
					put(t, b, "yellow", device(id))
				case 3:
					d := device(id)
					d.NUMANodes = []int{rapid.IntRange(0, 1).Draw(rt, "node")}
					put(t, b, "yellow", d)
				}
			}
			now = b.Build()
			r := now.Resource("yellow")
			if r == nil || !rapid.Bool().Draw(rt, "encode") {
				continue
			}
			response := &pluginapi.ListAndWatchResponse{}
			for d := range r.Devices() {
				response.Devices = append(response.Devices, convertDevice(d))
			}
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(response)
			if err != nil {
				rt.Fatal(err)
			}
			got := e.encode(r)
			if !bytes.Equal(got.wire, want) {
				rt.Fatalf("encoded %x, want %x: %v", got.wire, want, response)
			}
			if !slices.Equal(got.devices, slices.Collect(r.Devices())) {
				rt.Fatalf("the list holds %v, want %v", got.devices, response)
			}
			if e.encode(r) != got {
				rt.Fatal("the same resource was encoded twice")
			}
			if !bytes.Equal(before.wire, copied) {
				rt.Fatal("the previous list was modified")
			}
			before, copied = got, bytes.Clone(got.wire)
		}
	})
}

// TestUnchangedDevicesAreNotEncodedAgain checks that a change of one device causes no allocation
// for each of the other devices.
func TestUnchangedDevicesAreNotEncodedAgain(t *testing.T) {
	trees, e, i := toggledTrees(t, 1024), &encoder{}, 0
	allocations := testing.AllocsPerRun(10, func() {
		i++
		e.encode(trees[i%2].Resource("yellow"))
	})
	if allocations > 50 {
		t.Errorf("encoding one changed device of 1024 allocates %v times", allocations)
	}
}
