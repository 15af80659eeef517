// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

func TestRegisteredResourcesHaveTheirDevices(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 16))
	tree := p.edit(t, healthyDevices("cy", 3))
	n.startPlugin(p)
	n.wantTree(tree)
	n.wantCount(generic, 16, 16)
	n.wantCount(namespace+"/cy", 3, 3)
}

func TestPluginWaitsForKubelet(t *testing.T) {
	n, p := newNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	n.start()
	n.wantTree(tree)
}

func TestChangeReachesKubelet(t *testing.T) {
	for _, test := range []struct {
		name                  string
		change                func(b *devtree.Builder) error
		capacity, allocatable int64
	}{
		{
			"a device turns unhealthy",
			func(b *devtree.Builder) error { return b.Put("generic", device(3, devtree.Unhealthy)) },
			4, 3,
		},
		{
			"a device is removed",
			func(b *devtree.Builder) error { b.Remove("generic", deviceID(3)); return nil },
			3, 3,
		},
		{
			"a device is added",
			func(b *devtree.Builder) error { return b.Put("generic", device(4, devtree.Healthy)) },
			5, 5,
		},
		{
			"all devices turn unhealthy",
			putDevices("generic", 4, devtree.Unhealthy),
			4, 0,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &fakePlugin{}
			n, before := serveDevices(t, p, 4)
			n.wantTree(p.edit(t, test.change))
			n.wantCount(generic, test.capacity, test.allocatable)
			p.set(before)
			n.wantTree(before)
			n.wantCount(generic, 4, 4)
			n.wantOneRegistration(generic)
		})
	}
}

func TestEmptyResourceStaysRegistered(t *testing.T) {
	p := &fakePlugin{}
	n, full := serveDevices(t, p, 16)
	p.edit(t, func(b *devtree.Builder) error {
		for i := range 16 {
			b.Remove("generic", deviceID(i))
		}
		return nil
	})
	n.wantCount(generic, 0, 0)

	start := time.Now()
	p.set(full)
	n.wantTree(full)
	history := n.history(generic)
	took := history[len(history)-1].Received.Sub(start)
	t.Logf("the devices were back at the kubelet after %v", took)
	// A new registration, a back-off or a timer would take longer.
	if took > 250*time.Millisecond {
		t.Errorf("the devices were back at the kubelet after %v, want milliseconds", took)
	}
	n.wantOneRegistration(generic)
}

func TestResourceMissingFromTreeHasNoDevices(t *testing.T) {
	p := &fakePlugin{}
	n, full := serveDevices(t, p, 16)
	p.set(&devtree.Tree{})
	n.wantCount(generic, 0, 0)
	p.set(full)
	n.wantTree(full)
}

func TestNewResourceIsRegistered(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	if counts, _ := n.Capacity(); len(counts) > 0 {
		t.Fatalf("the kubelet has %v before the plugin runs", counts)
	}
	n.startPlugin(p)
	p.edit(t, healthyDevices("generic", 16))
	n.wantCount(generic, 16, 16)
	n.wantTree(p.edit(t, healthyDevices("asym-dc", 2)))
	n.wantOneRegistration(generic)
}

// Trees are published faster than the kubelet reads lists. Some are skipped, but no list mixes two.
func TestEveryListIsOneTree(t *testing.T) {
	p := &fakePlugin{}
	n, few := serveDevices(t, p, 4)
	many := p.edit(t, healthyDevices("generic", 64))
	for range 500 {
		p.set(few)
		p.set(many)
	}
	n.wantTree(many)
	for i, u := range n.history(generic) {
		if u.Kind == devicemanager.Listed && len(u.Devices) != 4 && len(u.Devices) != 64 {
			t.Errorf("update %d has %d devices, want 4 or 64", i, len(u.Devices))
		}
	}
}
