// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

const (
	loadDevices = 64
	loadBits    = 20 // devices whose health encodes the number of the Tree
)

// loadResources are the resources of a load, which change together.
var loadResources = []string{"asym", "cy"}

// load publishes a sequence of numbered Trees. A Tree's number is encoded in the health of its
// devices, so every list at the kubelet shows of which Tree it is.
type load struct {
	plugin *fakePlugin

	mu     sync.Mutex // held while a Tree is published; a test that holds it pauses the load
	tree   *devtree.Tree
	number int
}

// newLoad publishes the first Tree.
func newLoad(t *testing.T, p *fakePlugin) *load {
	t.Helper()
	l := &load{plugin: p}
	for _, resource := range loadResources {
		l.tree = p.edit(t, healthyDevices(resource, loadDevices))
	}
	must(t, l.next())
	return l
}

// next publishes the next Tree.
func (l *load) next() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := l.number + 1
	if number >= 1<<loadBits {
		return fmt.Errorf("the load has more than %d Trees", 1<<loadBits)
	}
	b := l.tree.Edit()
	for i := range loadBits {
		health := devtree.Unhealthy
		if number&(1<<i) != 0 {
			health = devtree.Healthy
		}
		for _, resource := range loadResources {
			if err := b.Put(resource, device(i, health)); err != nil {
				return err
			}
		}
	}
	l.number, l.tree = number, b.Build()
	l.plugin.set(l.tree)
	return nil
}

// run publishes a Tree at the interval until stop is called or the test ends.
func (l *load) run(t *testing.T, interval time.Duration) (stop func()) {
	t.Helper()
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			if err := l.next(); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	stop = sync.OnceFunc(func() { close(end); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// newest returns the number of the newest Tree.
func (l *load) newest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// wait waits until n more Trees are published.
func (l *load) wait(t *testing.T, n int) {
	t.Helper()
	want := l.newest() + n
	eventually(t, func() error {
		if number := l.newest(); number < want {
			return fmt.Errorf("the load is at Tree %d, want %d", number, want)
		}
		return nil
	})
}

// treeNumber returns the number of the Tree that a list is of.
func treeNumber(devices []devicemanager.Device) (int, error) {
	if len(devices) != loadDevices {
		return 0, fmt.Errorf("a list has %d devices, want %d", len(devices), loadDevices)
	}
	number := 0
	for i, d := range devices[:loadBits] {
		if d.Healthy() {
			number |= 1 << i
		}
	}
	return number, nil
}
