package kubelet

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

const (
	restarts    = 120
	loadDevices = 64
	loadBits    = 20 // of the devices' healths hold the number of the Tree

	// From the kubelet's start to its lists it takes 3 ms. The longest is less than a registration that is sat out until its deadline (10 s); the
	// room above 3 ms is for a slow machine and the race detector.
	typical, longest = time.Second, 5 * time.Second
)

// load publishes a new Tree every 500 µs, of two resources that change together. Each Tree has a number, which can be read from the health of
// its first 20 devices: so from a list at the kubelet one sees which Tree it was.
type load struct {
	plugin *fakePlugin
	tree   *devtree.Tree
	number int
	mu     sync.Mutex // held while a Tree is published, and by the test while there shall be none
	stop   chan struct{}
	done   chan struct{}
}

func startLoad(t *testing.T, p *fakePlugin) *load {
	t.Helper()
	l := &load{plugin: p, stop: make(chan struct{}), done: make(chan struct{})}
	p.edit(t, healthyDevices("asym", loadDevices))
	l.tree = p.edit(t, healthyDevices("cy", loadDevices))
	if err := l.next(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				if err := l.next(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	t.Cleanup(sync.OnceFunc(func() { close(l.stop); <-l.done }))
	return l
}

// next publishes the Tree of the next number.
func (l *load) next() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := l.number + 1
	if number >= 1<<loadBits {
		return fmt.Errorf("more than %d Trees", 1<<loadBits)
	}
	b := l.tree.Edit()
	for i := range loadBits {
		health := devtree.Unhealthy
		if number&(1<<i) != 0 {
			health = devtree.Healthy
		}
		for _, resource := range []string{"asym", "cy"} {
			if err := b.Put(resource, device(i, health)); err != nil {
				return err
			}
		}
	}
	l.number, l.tree = number, b.Build()
	l.plugin.set(l.tree)
	return nil
}

// wait returns after n more Trees.
func (l *load) wait(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	until := l.number + n
	l.mu.Unlock()
	eventually(t, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.number < until {
			return fmt.Errorf("the load is at Tree %d, waiting for %d", l.number, until)
		}
		return nil
	})
}

// numberOf is the number of the Tree that a list shows.
func numberOf(devices []devicemanager.Device) (int, error) {
	if len(devices) != loadDevices {
		return 0, fmt.Errorf("the list has %d devices, want %d", len(devices), loadDevices)
	}
	number := 0
	for i, d := range devices[:loadBits] {
		if d.Healthy() {
			number |= 1 << i
		}
	}
	return number, nil
}

func TestKubeletRestartedUnderLoad(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	l := startLoad(t, p)
	n.startPlugin(p)
	var used usage
	var took []time.Duration
	overtaken := map[int]bool{}
	for i := range restarts {
		n.restart()
		if i%5 == 1 { // a kubelet that ends again before it has its plugins
			overtaken[n.Starts()] = true
			n.restart()
		}
		ready := time.Now()
		eventually(t, func() error { return n.bothListed() })
		took = append(took, time.Since(ready))
		if i%4 == 0 { // the changes stop: the last one must be there
			l.mu.Lock()
			n.wantTree(l.tree)
			switch i {
			case 8:
				used = usageNow(t)
			case restarts - restarts%4 - 4:
				eventually(t, func() error { return usageNow(t).exceeds(used) })
			}
			l.mu.Unlock()
		}
		l.wait(t, i%7) // so that the next restart meets each part of a connection's life
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n.wantTree(l.tree)
	for _, resource := range []string{"asym", "cy"} {
		n.checkHistory(namespace+"/"+resource, l.number, overtaken)
	}
	slices.Sort(took)
	median, last := took[len(took)/2], took[len(took)-1]
	t.Logf("%d restarts, %d Trees; from the kubelet's start to both lists: median %v, longest %v", restarts, l.number, median, last)
	if median > typical || last > longest {
		t.Errorf("from the kubelet's start to both lists: median %v, longest %v; want at most %v and %v", median, last, typical, longest)
	}
}

// bothListed is nil when each of the load's resources is connected and has a list since the kubelet's last start.
func (n *node) bothListed() error {
	for _, resource := range []string{"asym", "cy"} {
		if _, ok := n.Devices(namespace + "/" + resource); !ok {
			return fmt.Errorf("no list of %s has come since start %d", resource, n.Starts())
		}
	}
	return nil
}

// checkHistory checks all that the kubelet was told of the resource: each list is a whole Tree, none is older than one before it, whatever
// the streams that they came on, and each start that was not overtaken by the next one has its registration. A second one is harmless: a
// plugin that finds its stream and its socket gone may reach the new kubelet before it has seen that it is a new one.
func (n *node) checkHistory(resource string, newest int, overtaken map[int]bool) {
	n.t.Helper()
	last, lists := 0, 0
	connected := map[int]int{}
	for _, u := range n.history(resource) {
		switch u.Kind {
		case devicemanager.Connected:
			connected[u.Start]++
		case devicemanager.Disconnected:
			n.t.Errorf("%s: start %d: the stream ended while the kubelet ran", resource, u.Start)
		case devicemanager.Listed:
			lists++
			number, err := numberOf(u.Devices)
			if err != nil {
				n.t.Errorf("%s: start %d: %v", resource, u.Start, err)
				continue
			}
			if number < last {
				n.t.Errorf("%s: start %d: Tree %d came after Tree %d", resource, u.Start, number, last)
			}
			last = number
		}
	}
	if last != newest {
		n.t.Errorf("%s: the last list is Tree %d, the newest Tree is %d", resource, last, newest)
	}
	twice := 0
	for start := 2; start <= n.Starts(); start++ {
		switch got := connected[start]; {
		case got == 2:
			twice++
		case got > 2 || got == 0 && !overtaken[start]:
			n.t.Errorf("%s: start %d: registered %d times, want once", resource, start, got)
		}
	}
	if twice > restarts/10 {
		n.t.Errorf("%s: registered twice at %d of %d starts", resource, twice, n.Starts())
	}
	n.t.Logf("%s: %d lists, registered twice at %d of %d starts", resource, lists, twice, n.Starts())
}

// usage is what the process holds: of the plugin and the device manager together.
type usage struct{ goroutines, descriptors int }

func usageNow(t *testing.T) usage {
	t.Helper()
	return usage{runtime.NumGoroutine(), len(list(t, "/proc/self/fd"))}
}

// exceeds is nil when u is not more than before.
func (u usage) exceeds(before usage) error {
	if u.goroutines > before.goroutines || u.descriptors > before.descriptors {
		return fmt.Errorf("the process has %+v, had %+v before", u, before)
	}
	return nil
}

// The kubelet knows a plugin by its resource's name alone: when it hears of the end of a stream after another instance registered the
// name, it takes the new one for gone (disconnectClient in the kubelet's handler.go, PluginDisconnected in its manager.go). So the next
// instance here starts when the kubelet knows of the end of the one before it, as on a node, where a container takes its time to start.
func TestPluginStartedAgain(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	for range 50 {
		stop := n.startPlugin(p)
		n.wantTree(tree)
		stop()
		n.wantCount(generic, 16, 0)
	}
}

// A DaemonSet may start the new instance before it ends the old one (maxSurge). The new one waits for the old one's socket. When it has
// it, it must not be taken for the old one: see TestPluginStartedAgain.
func TestNewInstanceTakesOver(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	stopOld := n.startPlugin(p)
	n.wantTree(tree)
	for i := range 20 {
		before := n.connections(generic)
		next := &fakePlugin{}
		next.set(tree)
		waits := make(chan struct{})
		found := sync.OnceFunc(func() { close(waits) })
		stop := n.startPluginWith(funcr.New(func(_, line string) {
			if strings.Contains(line, "another process serves it") {
				found()
			}
		}, funcr.Options{}), next)
		select {
		case <-waits:
		case <-time.After(deadline):
			t.Fatalf("round %d: the new instance does not say that it found the old one", i)
		}
		stopOld()
		stopOld = stop
		eventually(t, func() error {
			if n.connections(generic) == before {
				return fmt.Errorf("round %d: the new instance is not registered", i)
			}
			if err := n.differs(tree); err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 16))
			defer n.Remove(pod)
			return n.Admit(pod)
		})
	}
}

func TestSocketDirectoryMadeAnewIsFound(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	n.wantTree(tree)
	for range 3 {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(devicemanager.SocketDir); err != nil {
			t.Fatal(err)
		}
		n.start()
		n.wantTree(tree)
	}
}
