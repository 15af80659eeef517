// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
)

// testPlugin is a plugin whose Trees the test edits: a fakePlugin, possibly with more methods.
type testPlugin interface {
	kubeletapi.Plugin
	edit(t *testing.T, change func(b *devtree.Builder) error) *devtree.Tree
}

// fakePlugin is a plugin that publishes the Trees that a test sets.
type fakePlugin struct {
	mu      sync.Mutex
	tree    *devtree.Tree
	publish func(*devtree.Tree) // nil while Watch does not run
}

func (p *fakePlugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	p.mu.Lock()
	p.publish = publish
	if p.tree != nil {
		publish(p.tree)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.publish = nil
	return nil
}

// set publishes a Tree.
func (p *fakePlugin) set(tree *devtree.Tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tree = tree
	if p.publish != nil {
		p.publish(tree)
	}
}

// edit changes the newest Tree, publishes the result and returns it.
func (p *fakePlugin) edit(t *testing.T, change func(b *devtree.Builder) error) *devtree.Tree {
	t.Helper()
	p.mu.Lock()
	b := p.tree.Edit()
	p.mu.Unlock()
	must(t, change(b))
	tree := b.Build()
	p.set(tree)
	return tree
}

// device returns device i, counted from 0, with two device nodes and an environment variable.
func device(i int, health devtree.Health) *devtree.Device {
	d := &devtree.Device{ID: deviceID(i), Health: health, NUMANodes: []int{i % 2}}
	if health == devtree.Unhealthy {
		d.Reason = "set by the test"
	}
	group := fmt.Sprintf("/dev/vfio/%d", i)
	d.DeviceNodes = []devtree.DeviceNode{
		{HostPath: group, ContainerPath: group, Permissions: "rw"},
		{HostPath: "/dev/vfio/vfio", ContainerPath: "/dev/vfio/vfio", Permissions: "rw"},
	}
	d.Env = map[string]string{fmt.Sprintf("DEVICE_%d", i): d.ID}
	return d
}

func deviceID(i int) string { return fmt.Sprintf("0000:6b:%02x.%d", i/8, i%8) }

func deviceIDs(numbers ...int) (ids []string) {
	for _, i := range numbers {
		ids = append(ids, deviceID(i))
	}
	return ids
}

// putDevices returns an edit that puts n devices of the given health into a resource.
func putDevices(resource string, n int, health devtree.Health) func(*devtree.Builder) error {
	return func(b *devtree.Builder) error {
		if err := b.Keep(resource); err != nil {
			return err
		}
		for i := range n {
			if err := b.Put(resource, device(i, health)); err != nil {
				return err
			}
		}
		return nil
	}
}

// healthyDevices returns an edit that puts n healthy devices into a resource.
func healthyDevices(resource string, n int) func(*devtree.Builder) error {
	return putDevices(resource, n, devtree.Healthy)
}
