// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// list is a state of a resource in the wire format of a ListAndWatchResponse. It must not be
// modified: the streams of the resource share it.
type list struct {
	devices []*devtree.Device // ascending by ID
	ends    []int             // ends[i] is where devices[i] ends in wire
	wire    []byte
}

func (l *list) start(i int) int {
	if i == 0 {
		return 0
	}
	return l.ends[i-1]
}

// maxList is the largest list in bytes that the kubelet accepts: its gRPC client has the default
// limit (pkg/kubelet/cm/devicemanager/plugin/v1beta1/client.go, dial).
const maxList = 4 << 20

// first returns a list of the first devices of l, as many as fit into limit bytes. It is l itself
// if all of them do.
func (l *list) first(limit int) *list {
	if len(l.wire) <= limit {
		return l
	}
	n, _ := slices.BinarySearch(l.ends, limit+1) // how many ends are at most limit
	end := 0
	if n > 0 {
		end = l.ends[n-1]
	}
	return &list{devices: l.devices[:n:n], ends: l.ends[:n:n], wire: l.wire[:end:end]}
}

func (l *list) healthy() int {
	n := 0
	for _, d := range l.devices {
		if d.Health == devtree.Healthy {
			n++
		}
	}
	return n
}

// encoder encodes the states of one resource for all of its streams. A device that did not
// change is not encoded again: its bytes are copied from the previous list.
type encoder struct {
	mu       sync.Mutex
	resource *devtree.Resource
	newest   *list // of resource; nil before the first
}

// encode returns the list of r.
func (e *encoder) encode(r *devtree.Resource) (*list, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.newest
	switch {
	case old == nil:
		old = &list{}
	case e.resource == r:
		return old, nil
	}
	next, err := old.successor(r)
	if err != nil {
		return nil, err
	}
	e.resource, e.newest = r, next
	return next, nil
}

// successor returns the list of r. It copies the runs of devices that l and r share.
func (l *list) successor(r *devtree.Resource) (*list, error) {
	const typical = 48 // bytes of a device
	next := &list{
		devices: make([]*devtree.Device, 0, r.Len()),
		ends:    make([]int, 0, r.Len()),
		wire:    make([]byte, 0, len(l.wire)+typical*max(1, r.Len()-len(l.devices))),
	}
	i := 0            // index into l.devices
	from, to := 0, 0  // the run in l.wire that is not yet copied
	flush := func() { // copies the run
		next.wire = append(next.wire, l.wire[from:to]...)
		from = to
	}
	for d := range r.Devices() {
		for i < len(l.devices) && l.devices[i] != d && l.devices[i].ID < d.ID {
			i++
		}
		if i < len(l.devices) && l.devices[i] == d {
			if l.start(i) != to {
				flush()
				from = l.start(i)
			}
			to = l.ends[i]
			i++
		} else {
			flush()
			var err error
			if next.wire, err = appendDevice(next.wire, d); err != nil {
				return nil, err
			}
		}
		next.devices = append(next.devices, d)
		next.ends = append(next.ends, len(next.wire)+to-from)
	}
	flush()
	return next, nil
}

// appendDevice appends the wire format of a list of one device. That of a list of several is
// their concatenation: each device is a field of its own
// (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
func appendDevice(wire []byte, d *devtree.Device) ([]byte, error) {
	one := &pluginapi.ListAndWatchResponse{Devices: []*pluginapi.Device{convertDevice(d)}}
	wire, err := proto.MarshalOptions{}.MarshalAppend(wire, one)
	if err != nil {
		return nil, fmt.Errorf("encode device %q: %w", d.ID, err)
	}
	return wire, nil
}

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

// maxRequest is the size in bytes of the largest request: the IDs of all devices of the largest
// list. Of maxContainers, the kubelet sends one (pkg/kubelet/cm/devicemanager/endpoint.go,
// allocate). A container that takes two bytes in a request takes far more in memory, and in the
// answer.
const (
	maxRequest    = maxList
	maxContainers = 1024
)

// codec is gRPC's codec for protocol buffers. It also accepts a *list. It rejects requests with too
// many containers before it decodes them.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if l, ok := v.(*list); ok {
		return mem.BufferSlice{mem.SliceBuffer(l.wire)}, nil // not pooled, so that gRPC never reuses it
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements [encoding.CodecV2].
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	const small = 2 * maxContainers // bytes; fewer hold no more containers
	switch v.(type) {
	case *pluginapi.AllocateRequest, *pluginapi.PreferredAllocationRequest:
		if data.Len() > small {
			if err := checkContainers(data); err != nil {
				return err
			}
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

// checkContainers returns an error if the request has too many fields, each of which is a
// container.
func checkContainers(data mem.BufferSlice) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	n := 0
	for rest := buffer.ReadOnlyData(); len(rest) > 0; n++ {
		_, _, length := protowire.ConsumeField(rest)
		if length < 0 {
			return protowire.ParseError(length)
		}
		if n == maxContainers {
			return fmt.Errorf("the request has more than %d containers", maxContainers)
		}
		rest = rest[length:]
	}
	return nil
}
