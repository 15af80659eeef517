// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"qatplugin/devtree"
)

const (
	driverName = "qat.intel.com"
	pfsPerNode = 4
	vfsPerPF   = 16
	vfsPerNode = pfsPerNode * vfsPerPF
	resource   = "cy"

	// sequenceAttribute is the number of the node's change that the state of a device is from. It
	// shows which change a slice contains.
	sequenceAttribute = "sequence"
)

// A node has 64 synthetic VFs of 4 PFs. It is the draapi.Plugin of the driver on the node.
type node struct {
	index int
	name  string

	mu        sync.Mutex // guards all following fields
	tree      *devtree.Tree
	published []time.Time // when each change was published; the first is that of the first Tree
	publish   func(*devtree.Tree)
}

func nodeNameOf(index int) string { return fmt.Sprintf("node-%05d", index) }

func newNode(index int) *node {
	n := &node{index: index, name: nodeNameOf(index)}
	b := new(devtree.Tree).Edit()
	for vf := range vfsPerNode {
		if err := b.Put(resource, device(vf, devtree.Healthy, 0)); err != nil {
			panic(err) // the Tree is the same in each run
		}
	}
	n.tree = b.Build()
	return n
}

// device returns VF number vf in the state that change number sequence gave it. It has the
// attributes of a VF of a 4xxx device.
func device(vf int, health devtree.Health, sequence int) *devtree.Device {
	pf, function := vf/vfsPerPF, vf%vfsPerPF+1
	bus := 0x6b + pf
	address := fmt.Sprintf("0000:%02x:%02x.%d", bus, function/8, function%8)
	group := fmt.Sprintf("/dev/vfio/%d", 100+vf)
	d := &devtree.Device{
		ID:        address,
		Health:    health,
		NUMANodes: []int{pf / 2},
		ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{
				{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
				{HostPath: group, ContainerPath: group, Permissions: "rw"},
			},
		},
		Attributes: map[string]any{
			"resource.kubernetes.io/pciBusID": address,
			"resource.kubernetes.io/pcieRoot": fmt.Sprintf("pci0000:%02x", bus),
			"resource.kubernetes.io/numaNode": int64(pf / 2),
			"family":                          "4xxx",
			"generation":                      int64(4),
			"pfAddress":                       fmt.Sprintf("0000:%02x:00.0", bus),
			"pfIndex":                         int64(vf % vfsPerPF),
			"sym":                             true,
			"asym":                            true,
			"dc":                              false,
			"decomp":                          false,
			"services":                        "sym;asym",
			"resource":                        resource,
			"vfioInterface":                   "group",
			"driverVersion":                   devtree.Version("0.6.0"),
			sequenceAttribute:                 int64(sequence),
		},
	}
	if health == devtree.Unhealthy {
		d.Reason, d.Cause = "PF "+fmt.Sprintf("0000:%02x:00.0", bus)+": heartbeat check failed", "heartbeat"
	}
	return d
}

// Watch implements draapi.Plugin. It publishes the current Tree and every later one.
func (n *node) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	n.mu.Lock()
	n.publish = publish
	if len(n.published) == 0 {
		n.published = append(n.published, time.Now())
	}
	publish(n.tree)
	n.mu.Unlock()
	<-ctx.Done()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.publish = nil
	return nil
}

// change changes the health of a VF and publishes the Tree. It returns the number of the change.
func (n *node) change(vf int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	sequence := len(n.published)
	next := device(vf, devtree.Unhealthy, sequence)
	if n.tree.Resource(resource).Device(next.ID).Health == devtree.Unhealthy {
		next = device(vf, devtree.Healthy, sequence)
	}
	b := n.tree.Edit()
	if err := b.Put(resource, next); err != nil {
		panic(err) // the devices are the same in each run
	}
	n.tree = b.Build()
	n.published = append(n.published, time.Now())
	if n.publish != nil {
		n.publish(n.tree)
	}
	return sequence
}

// state returns the current Tree, and the times when its changes were published.
func (n *node) state() (*devtree.Tree, []time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.tree, n.published
}
