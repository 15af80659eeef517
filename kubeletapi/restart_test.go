// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"

	"qatplugin/internal/unixsocket"
	"qatplugin/kubeletapi/kubelettest"
)

// TestKubeletRestartsDuringChanges publishes changes before, during and after restarts of
// the kubelet.
func TestKubeletRestartsDuringChanges(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	now := tree(t, tree(t, nil, "yellow", "0"), "blue", "x")
	p.publish(now)
	waitIDs(t, k, yellow, "0")
	waitIDs(t, k, blue, "x")
	change := func(i int) string {
		id := strconv.Itoa(i)
		now = tree(t, now, "yellow", id)
		p.publish(now)
		return id
	}
	restart(t, k) // the first restart allocates some things for good
	waitIDs(t, k, yellow, "0")
	waitIDs(t, k, blue, "x")
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for i := range 200 {
		want := "0"
		switch i % 4 {
		case 0:
			want = change(i)
			restart(t, k)
		case 1:
			done := make(chan struct{})
			go func() {
				defer close(done)
				restart(t, k)
			}()
			for j := range 20 {
				want = change(i + 1000*j)
			}
			<-done
		case 2:
			restart(t, k)
			want = change(i)
		case 3:
			k.Kill()
			want = change(i)
			restart(t, k)
		}
		waitIDs(t, k, yellow, want)
		waitIDs(t, k, blue, "x")
		want = change(i + 100_000) // the first change after the restart
		waitIDs(t, k, yellow, want)
	}
	eventually(t, "as few descriptors and goroutines as before", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
	want := []string{"color.example.com-blue.sock", "color.example.com-yellow.sock", "kubelet.sock"}
	if got := sockets(t, dir); !slices.Equal(got, want) {
		t.Errorf("sockets = %q, want %q", got, want)
	}
}

// TestSocketReplacedBeforeKubeletCleansUp checks the case in which the kubelet deletes a
// socket that we created after it had listed the directory.
func TestSocketReplacedBeforeKubeletCleansUp(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	var replaced atomic.Int32
	own := socketOf(dir, "yellow")
	k := startKubelet(t, dir, kubelettest.OnClean(func(names []string) {
		if !slices.Contains(names, filepath.Base(own)) {
			return // the first start
		}
		// The killed kubelet left its socket, so ours is replaced at once.
		old, _, err := unixsocket.Identify(own)
		if err != nil {
			t.Error(err)
			return
		}
		os.Remove(own)
		waitReplaced(t, own, old)
		replaced.Add(1)
	}))
	run(t, dir, p)
	now := tree(t, nil, "yellow", "0")
	p.publish(now)
	waitIDs(t, k, yellow, "0")
	for i := range 20 {
		k.Kill()
		restart(t, k)
		id := strconv.Itoa(i)
		now = tree(t, now, "yellow", id)
		p.publish(now)
		waitIDs(t, k, yellow, id)
	}
	if got := replaced.Load(); got != 20 {
		t.Errorf("the socket was replaced %d times before the kubelet deleted it, want 20", got)
	}
}

// TestResourceIsRegisteredAgainAfterStreamEnds checks that a kubelet that goes on without
// the stream is registered with again, once.
func TestResourceIsRegisteredAgainAfterStreamEnds(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	registrations := make(chan *pluginapi.RegisterRequest, 16)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(_ context.Context, r *pluginapi.RegisterRequest) error {
		registrations <- r
		return nil
	}))
	r := run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	for i := range 3 {
		<-registrations
		k.Disconnect(yellow)
		waitList(t, k, yellow, "end of the stream", func(l kubelettest.List) bool { return !l.Live || l.Seq > i+1 })
		waitIDs(t, k, yellow, "1")
	}
	<-registrations
	if n := len(registrations); n != 0 {
		t.Errorf("%d registrations more than necessary", n)
	}
	if n := r.log.count("restarted"); n != 0 {
		t.Errorf("the log says %d times that the kubelet restarted, but it did not", n)
	}
}

// TestOldStreamDoesNotCountForNewKubelet checks that a new kubelet is registered with
// although a stream of the previous one, which may hang, is still open.
func TestOldStreamDoesNotCountForNewKubelet(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	now := tree(t, nil, "yellow", "1")
	p.publish(now)
	waitIDs(t, k, yellow, "1")
	old := openStream(t, dir, "yellow")
	old.until(t, "1")
	restart(t, k)
	waitIDs(t, k, yellow, "1")
	p.publish(tree(t, now, "yellow", "1", "2"))
	waitIDs(t, k, yellow, "1", "2")
	old.until(t, "1", "2") // its connection is still open, and so is the stream
}

func TestKilledKubeletLeavesStaleSocket(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p, fastRetries)
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	k.Kill()
	r.log.await(t, "Cannot register")
	restart(t, k)
	waitIDs(t, k, yellow, "1")
	if n := r.log.count("Cannot register"); n != 1 {
		t.Errorf("%d log lines about the stale socket, want 1", n)
	}
}

// TestAnyHistoryEndsAtNewestLists checks that, whatever the kubelet, users and the plugin
// do in any order, the kubelet ends up with the lists of the newest Tree.
func TestAnyHistoryEndsAtNewestLists(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, p := kubeletDir(t), newFakePlugin()
		defer os.RemoveAll(filepath.Dir(dir))
		k := startKubelet(t, dir)
		defer k.Stop()
		r := run(t, dir, p, fastRetries, func(c *config) { c.gracePeriod = 10 * time.Millisecond })
		now := tree(t, tree(t, nil, "yellow"), "blue")
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			resource := rapid.SampledFrom([]string{"yellow", "blue"}).Draw(rt, "resource")
			switch rapid.SampledFrom([]string{
				"change", "change", "restart", "kill", "stop", "unlink", "disconnect", "wait",
			}).Draw(rt, "step") {
			case "change":
				ids := rapid.SliceOfNDistinct(rapid.StringMatching("[a-c]"), 0, 3, rapid.ID).Draw(rt, "devices")
				now = tree(t, now, resource, ids...)
				p.publish(now)
			case "restart":
				restart(t, k)
			case "kill":
				k.Kill()
			case "stop":
				k.Stop()
			case "unlink":
				_ = os.Remove(socketOf(dir, resource))
			case "disconnect":
				k.Disconnect(fullName(namespace, resource))
			case "wait": // for a moment of no particular length
				runtime.Gosched()
				_ = sockets(t, dir)
			}
		}
		if !k.Alive() {
			restart(t, k)
		}
		p.publish(now)
		for _, resource := range []string{"yellow", "blue"} {
			var want []string
			for d := range now.Resource(resource).Devices() {
				want = append(want, d.ID)
			}
			waitIDs(t, k, fullName(namespace, resource), want...)
		}
		if err := r.stop(); err != nil {
			rt.Fatalf("Run = %v", err)
		}
		if got, want := sockets(t, dir), []string{kubeletSocket}; !slices.Equal(got, want) {
			rt.Fatalf("sockets left = %q, want %q", got, want)
		}
	})
}
