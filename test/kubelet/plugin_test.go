package kubelet

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"qatplugin/devtree"
)

// fakePlugin reports the Trees that a test sets.
type fakePlugin struct {
	mu      sync.Mutex
	tree    *devtree.Tree
	publish func(*devtree.Tree) // nil while nobody watches
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

// set makes the Tree the newest.
func (p *fakePlugin) set(tree *devtree.Tree) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tree = tree
	if p.publish != nil {
		p.publish(tree)
	}
}

// edit publishes the Tree that change makes of the newest one, and returns it.
func (p *fakePlugin) edit(t *testing.T, change func(b *devtree.Builder) error) *devtree.Tree {
	t.Helper()
	p.mu.Lock()
	b := p.tree.Edit()
	p.mu.Unlock()
	if err := change(b); err != nil {
		t.Fatal(err)
	}
	tree := b.Build()
	p.set(tree)
	return tree
}

// device is a VF as a plugin reports it; i counts from 0.
func device(i int, health devtree.Health) *devtree.Device {
	d := &devtree.Device{ID: deviceID(i), Health: health, NUMANodes: []int{i % 2}}
	if health == devtree.Unhealthy {
		d.Reason = "the test says so"
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

// healthyDevices puts n Healthy devices into the resource.
func healthyDevices(resource string, n int) func(*devtree.Builder) error {
	return func(b *devtree.Builder) error {
		if err := b.Keep(resource); err != nil {
			return err
		}
		for i := range n {
			if err := b.Put(resource, device(i, devtree.Healthy)); err != nil {
				return err
			}
		}
		return nil
	}
}
