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
func (e *encoder) encode(r *devtree.Resource) *list {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.newest
	switch {
	case old == nil:
		old = &list{}
	case e.resource == r:
		return old
	}
	e.resource, e.newest = r, old.successor(r)
	return e.newest
}

// successor returns the list of r. It copies the runs of devices that l and r share.
func (l *list) successor(r *devtree.Resource) *list {
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
			next.wire = appendDevice(next.wire, d)
		}
		next.devices = append(next.devices, d)
		next.ends = append(next.ends, len(next.wire)+to-from)
	}
	flush()
	return next
}

// The fields of the messages of a list (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, api.proto).
const (
	listDevices    protowire.Number = 1 // ListAndWatchResponse.devices
	deviceID       protowire.Number = 1 // Device.ID
	deviceHealth   protowire.Number = 2 // Device.health
	deviceTopology protowire.Number = 3 // Device.topology
	topologyNodes  protowire.Number = 1 // TopologyInfo.nodes
	nodeID         protowire.Number = 1 // NUMANode.ID
)

// appendDevice appends the wire format of a list of one device. That of a list of several is
// their concatenation: each device is a field of its own
// (https://protobuf.dev/programming-guides/encoding/#last-one-wins). Package proto returns the same
// bytes, but takes 10 µs longer after a pause in which other programs used the caches of the CPU.
func appendDevice(wire []byte, d *devtree.Device) []byte {
	message := appendField(nil, deviceID, d.ID)
	message = appendField(message, deviceHealth, string(d.Health))
	if len(d.NUMANodes) > 0 {
		var topology []byte
		for _, n := range d.NUMANodes {
			var node []byte
			if n != 0 { // the default, which is not encoded
				node = protowire.AppendTag(node, nodeID, protowire.VarintType)
				node = protowire.AppendVarint(node, uint64(n))
			}
			topology = appendField(topology, topologyNodes, node)
		}
		message = appendField(message, deviceTopology, topology)
	}
	return appendField(wire, listDevices, message)
}

// appendField appends a field that holds a string or a message.
func appendField[T string | []byte](wire []byte, field protowire.Number, value T) []byte {
	wire = protowire.AppendTag(wire, field, protowire.BytesType)
	wire = protowire.AppendVarint(wire, uint64(len(value)))
	return append(wire, value...)
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
