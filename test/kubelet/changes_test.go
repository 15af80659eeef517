package kubelet

import (
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

const generic = namespace + "/generic"

func TestRegisteredResourceHasItsDevices(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 16))
	tree := p.edit(t, healthyDevices("cy", 3))
	n.startPlugin(p)
	n.wantTree(tree)
	n.wantCount(generic, 16, 16)
	n.wantCount(namespace+"/cy", 3, 3)
}

func TestPluginThatStartsFirstWaitsForTheKubelet(t *testing.T) {
	n, p := newNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	n.start()
	n.wantTree(tree)
}

func TestChangeReachesTheKubelet(t *testing.T) {
	tests := []struct {
		name                  string
		change                func(b *devtree.Builder) error
		capacity, allocatable int64
	}{
		{"a device that turns unhealthy is not allocatable but counts", func(b *devtree.Builder) error {
			return b.Put("generic", device(3, devtree.Unhealthy))
		}, 4, 3},
		{"a device that goes does not count", func(b *devtree.Builder) error {
			b.Remove("generic", deviceID(3))
			return nil
		}, 3, 3},
		{"a device that comes counts", func(b *devtree.Builder) error {
			return b.Put("generic", device(4, devtree.Healthy))
		}, 5, 5},
		{"all devices unhealthy at once", func(b *devtree.Builder) error {
			for i := range 4 {
				if err := b.Put("generic", device(i, devtree.Unhealthy)); err != nil {
					return err
				}
			}
			return nil
		}, 4, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, p := startNode(t), &fakePlugin{}
			before := p.edit(t, healthyDevices("generic", 4))
			n.startPlugin(p)
			n.wantTree(before)

			after := p.edit(t, tt.change)
			n.wantTree(after)
			n.wantCount(generic, tt.capacity, tt.allocatable)

			p.set(before)
			n.wantTree(before)
			n.wantCount(generic, 4, 4)
			if got := n.connections(generic); got != 1 {
				t.Errorf("the resource was registered %d times, want once", got)
			}
		})
	}
}

func TestEmptiedResourceComesBackWithoutANewRegistration(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	full := p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	n.wantTree(full)

	p.edit(t, func(b *devtree.Builder) error {
		for i := range 16 {
			b.Remove("generic", deviceID(i))
		}
		return nil
	})
	n.wantCount(generic, 0, 0)

	back := time.Now()
	p.set(full)
	n.wantTree(full)
	history := n.history(generic)
	last := history[len(history)-1]
	took := last.Received.Sub(back)
	t.Logf("back at the kubelet after %v", took)
	// A new registration, a back-off or a timer would take more.
	if took > 250*time.Millisecond {
		t.Errorf("the devices came back after %v, want milliseconds", took)
	}
	if got := n.connections(generic); got != 1 {
		t.Errorf("the resource was registered %d times, want once", got)
	}
}

func TestResourceThatLeavesTheTreeHasNoDevices(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	full := p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	n.wantTree(full)

	p.set(&devtree.Tree{})
	n.wantCount(generic, 0, 0)
	p.set(full)
	n.wantTree(full)
}

func TestResourceThatIsNewAtRunTimeIsRegistered(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	n.wantNothing()
	n.startPlugin(p)
	p.edit(t, healthyDevices("generic", 16))
	n.wantCount(generic, 16, 16)
	tree := p.edit(t, healthyDevices("asym-dc", 2))
	n.wantTree(tree)
	if got := n.connections(generic); got != 1 {
		t.Errorf("%s was registered %d times, want once", generic, got)
	}
}

func (n *node) wantNothing() {
	n.t.Helper()
	if counts, _ := n.Capacity(); len(counts) > 0 {
		n.t.Fatalf("the kubelet knows %v before any plugin ran", counts)
	}
}

// The kubelet reads more slowly than Trees come. Some are left out, but no list mixes two.
func TestEveryListIsOneTree(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	few := p.edit(t, healthyDevices("generic", 4))
	n.startPlugin(p)
	n.wantTree(few)
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
