// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"qatplugin/test/kubelet/devicemanager"
)

const (
	restarts = 120

	// From the kubelet's start to its lists it takes 3 ms. The limits allow for a slow machine and
	// for the race detector. The maximum is less than a registration that runs into its deadline of
	// 10 s.
	medianLimit, maxLimit = time.Second, 5 * time.Second
)

func TestKubeletRestartsUnderLoad(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	l := newLoad(t, p)
	l.run(t, 500*time.Microsecond)
	n.startPlugin(p)
	var before usage
	var took []time.Duration
	interrupted := map[int]bool{} // starts of a kubelet that was restarted at once
	for i := range restarts {
		n.restart()
		if i%5 == 1 {
			interrupted[n.Starts()] = true
			n.restart()
		}
		start := time.Now()
		eventually(t, n.checkListed)
		took = append(took, time.Since(start))
		if i%4 == 0 { // pause the load: the kubelet must get the last Tree
			l.mu.Lock()
			n.wantTree(l.tree)
			switch i {
			case 8:
				before = currentUsage(t)
			case restarts - restarts%4 - 4:
				waitForUsage(t, before)
			}
			l.mu.Unlock()
		}
		l.wait(t, i%7) // the next restart meets the connection in another state
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n.wantTree(l.tree)
	for _, resource := range loadResources {
		n.checkHistory(namespace+"/"+resource, l.number, interrupted)
	}
	slices.Sort(took)
	median, longest := took[len(took)/2], took[len(took)-1]
	t.Logf("%d restarts, %d Trees; from the kubelet's start to both lists: median %v, maximum %v",
		restarts, l.number, median, longest)
	if median > medianLimit || longest > maxLimit {
		t.Errorf("from the kubelet's start to both lists: median %v, maximum %v, want at most %v and %v",
			median, longest, medianLimit, maxLimit)
	}
}

// checkListed returns an error if the kubelet has no list of a resource of the load since its last
// start.
func (n *node) checkListed() error {
	for _, resource := range loadResources {
		if _, ok := n.Devices(namespace + "/" + resource); !ok {
			return fmt.Errorf("the kubelet has no list of %s since start %d", resource, n.Starts())
		}
	}
	return nil
}

// checkHistory checks all updates of a resource of a load. Each list must be of one Tree, and of no
// older one than the list before, also across streams. In each start that was not interrupted the
// resource must be registered. A second registration does no harm: a plugin that finds its stream
// and its socket gone may register with a new kubelet before it knows that the kubelet is new.
func (n *node) checkHistory(resource string, newest int, interrupted map[int]bool) {
	n.t.Helper()
	last, lists := 0, 0
	registered := map[int]int{} // registrations by start
	for _, u := range n.history(resource) {
		switch u.Kind {
		case devicemanager.Connected:
			registered[u.Start]++
		case devicemanager.Disconnected:
			n.t.Errorf("%s: start %d: the stream ended while the kubelet ran", resource, u.Start)
		case devicemanager.Listed:
			lists++
			number, err := treeNumber(u.Devices)
			if err != nil {
				n.t.Errorf("%s: start %d: %v", resource, u.Start, err)
				continue
			}
			if number < last {
				n.t.Errorf("%s: start %d: list of Tree %d after that of Tree %d", resource, u.Start, number, last)
			}
			last = number
		}
	}
	if last != newest {
		n.t.Errorf("%s: the last list is of Tree %d, want %d", resource, last, newest)
	}
	twice := 0
	for start := 2; start <= n.Starts(); start++ {
		switch got := registered[start]; {
		case got == 2:
			twice++
		case got > 2 || got == 0 && !interrupted[start]:
			n.t.Errorf("%s: start %d: registered %d times, want once", resource, start, got)
		}
	}
	if twice > restarts/10 {
		n.t.Errorf("%s: registered twice in %d of %d starts", resource, twice, n.Starts())
	}
	n.t.Logf("%s: %d lists, registered twice in %d of %d starts", resource, lists, twice, n.Starts())
}

// The kubelet identifies a plugin only by the name of its resource. If a new instance registers
// before the kubelet notices the end of the old one's stream, it takes the new instance for gone
// (disconnectClient in the kubelet's handler.go, PluginDisconnected in its manager.go). So this
// test starts the next instance once the kubelet has noticed the end of the last one. On a node
// that is the rule, because a container takes time to start.
func TestPluginRestarts(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	for range 50 {
		stop := n.startPlugin(p)
		n.wantTree(tree)
		stop()
		n.wantCount(generic, 16, 0)
	}
}

// With maxSurge, a DaemonSet starts the new instance before it stops the old one. The new instance
// waits until the old one's socket is free. The kubelet must not take it for the old one then; see
// TestPluginRestarts.
func TestNewInstanceTakesOver(t *testing.T) {
	n, p := startNode(t), &fakePlugin{}
	tree := p.edit(t, healthyDevices("generic", 16))
	stopOld := n.startPlugin(p)
	n.wantTree(tree)
	for i := range 20 {
		before := n.registrations(generic)
		next := &fakePlugin{}
		next.set(tree)
		waiting := make(chan struct{})
		closeWaiting := sync.OnceFunc(func() { close(waiting) })
		log := funcr.New(func(_, line string) {
			if strings.Contains(line, "another process serves it") {
				closeWaiting()
			}
		}, funcr.Options{})
		stop := n.startPluginWithLog(log, next)
		select {
		case <-waiting:
		case <-time.After(testTimeout):
			t.Fatalf("round %d: the new instance does not log that another process serves the socket", i)
		}
		stopOld()
		stopOld = stop
		eventually(t, func() error {
			if n.registrations(generic) == before {
				return fmt.Errorf("round %d: the new instance is not registered", i)
			}
			if err := n.checkTree(tree); err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			pod := podOf("pod", 16)
			defer n.Remove(pod)
			return n.Admit(pod)
		})
	}
}

func TestRecreatedSocketDirectoryIsUsed(t *testing.T) {
	n, tree := serveDevices(t, &fakePlugin{}, 16)
	for range 3 {
		must(t, n.Stop())
		must(t, os.RemoveAll(devicemanager.SocketDir))
		n.start()
		n.wantTree(tree)
	}
}
