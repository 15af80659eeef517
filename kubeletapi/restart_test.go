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

	"qatplugin/kubeletapi/kubelettest"
)

// The plugin that polls loses its resource at the first change after a restart. Here changes come before, during and after each.
func TestKubeletRestartsUnderChanges(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	now := tree(t, tree(t, nil, "yellow", "0"), "blue", "x")
	h.set(now)
	waitIDs(t, k, yellow, "0")
	waitIDs(t, k, blue, "x")
	change := func(i int) string {
		id := strconv.Itoa(i)
		now = tree(t, now, "yellow", id)
		h.set(now)
		return id
	}
	restart(t, k) // so that what the first restart allocates for good is there before counting
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
			go func() { defer close(done); restart(t, k) }()
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
	eventually(t, "descriptors and goroutines as before the restarts", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
	if got, want := sockets(t, dir), []string{"color.example.com-blue.sock", "color.example.com-yellow.sock", "kubelet.sock"}; !slices.Equal(got, want) {
		t.Errorf("sockets = %q, want %q", got, want)
	}
}

// The kubelet deletes what it listed, also when that was deleted and made anew in between.
func TestSocketMadeAnewTooEarlyIsMadeAgain(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	var early atomic.Int32
	own := filepath.Join(dir, SocketName(namespace, "yellow"))
	k := startKubelet(t, dir, kubelettest.OnClean(func(names []string) {
		if !slices.Contains(names, filepath.Base(own)) {
			return // the first life
		}
		before, _, err := identify(own)
		if err != nil {
			t.Error(err)
			return
		}
		// While the kubelet cleans, its old socket is still there (it was killed), so ours is made anew at once.
		os.Remove(own)
		eventually(t, "socket made anew while the kubelet cleans", func() bool {
			id, _, err := identify(own)
			return err == nil && id != before
		})
		early.Add(1)
	}))
	run(t, dir, h)
	now := tree(t, nil, "yellow", "0")
	h.set(now)
	waitIDs(t, k, yellow, "0")
	for i := range 20 {
		k.Kill()
		restart(t, k)
		id := strconv.Itoa(i)
		now = tree(t, now, "yellow", id)
		h.set(now)
		waitIDs(t, k, yellow, id)
	}
	if got := early.Load(); got != 20 {
		t.Errorf("the socket was made anew too early %d times, want 20", got)
	}
}

// When the stream alone ends, the kubelet lives on and must be told of the resource again; but not before it is done with the end of
// the stream, because it drops whatever client the resource has by then.
func TestStreamThatTheKubeletEndsIsRegisteredAgain(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	registrations := make(chan *pluginapi.RegisterRequest, 16)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(_ context.Context, r *pluginapi.RegisterRequest) error {
		registrations <- r
		return nil
	}))
	r := run(t, dir, h)
	now := tree(t, nil, "yellow", "1")
	h.set(now)
	waitIDs(t, k, yellow, "1")
	for i := range 3 {
		<-registrations
		k.Disconnect(yellow)
		waitList(t, k, yellow, "stream ended", func(l kubelettest.List) bool { return !l.Live || l.Seq > i+1 })
		waitIDs(t, k, yellow, "1")
	}
	<-registrations
	if n := len(registrations); n != 0 {
		t.Errorf("%d registrations more than needed", n)
	}
	if n := r.log.count("restarted"); n != 0 {
		t.Errorf("the log says %d times that the kubelet restarted, it did not", n)
	}
}

// A kubelet whose old streams never end, as one that hangs, must not keep the next one from being served.
func TestOldStreamDoesNotStandInForTheNewKubelet(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	now := tree(t, nil, "yellow", "1")
	h.set(now)
	waitIDs(t, k, yellow, "1")
	old := watch(t, dir, "yellow")
	old.until(t, "1")
	restart(t, k)
	waitIDs(t, k, yellow, "1")
	h.set(tree(t, now, "yellow", "1", "2"))
	waitIDs(t, k, yellow, "1", "2")
	old.until(t, "1", "2") // its connection lived on, and so does the stream
}

func TestKilledKubeletLeavesADeadSocket(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	r := run(t, dir, h, WithBackOff(fast, slow))
	h.set(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	k.Kill()
	r.log.await(t, "Cannot register")
	restart(t, k)
	waitIDs(t, k, yellow, "1")
	if n := r.log.count("Cannot register"); n != 1 {
		t.Errorf("%d log lines of the dead socket, want 1", n)
	}
}

// Whatever the kubelet, people and the plugin do, in any order: in the end the kubelet's lists are the newest Tree's.
func TestAnyHistoryEndsInTheNewestLists(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, h := kubeletDir(t), newHand()
		defer os.RemoveAll(filepath.Dir(dir))
		k := startKubelet(t, dir)
		defer k.Stop()
		r := run(t, dir, h, WithBackOff(fast, slow), func(c *config) { c.settle = 10 * time.Millisecond })
		now := tree(t, tree(t, nil, "yellow"), "blue")
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			resource := rapid.SampledFrom([]string{"yellow", "blue"}).Draw(rt, "resource")
			switch rapid.SampledFrom([]string{"change", "change", "restart", "kill", "stop", "unlink", "disconnect", "wait"}).Draw(rt, "step") {
			case "change":
				now = tree(t, now, resource, rapid.SliceOfNDistinct(rapid.StringMatching("[a-c]"), 0, 3, rapid.ID).Draw(rt, "devices")...)
				h.set(now)
			case "restart":
				restart(t, k)
			case "kill":
				k.Kill()
			case "stop":
				k.Stop()
			case "unlink":
				_ = os.Remove(filepath.Join(dir, SocketName(namespace, resource)))
			case "disconnect":
				k.Disconnect(namespace + "/" + resource)
			case "wait": // a moment of no certain length
				runtime.Gosched()
				_ = len(sockets(t, dir))
			}
		}
		if !k.Alive() {
			restart(t, k)
		}
		h.set(now)
		for _, resource := range []string{"yellow", "blue"} {
			var want []string
			for d := range now.Resource(resource).Devices() {
				want = append(want, d.ID)
			}
			waitIDs(t, k, namespace+"/"+resource, want...)
		}
		if err := r.stop(); err != nil {
			rt.Fatalf("Run = %v", err)
		}
		if got, want := sockets(t, dir), []string{kubeletSocket}; !slices.Equal(got, want) {
			rt.Fatalf("sockets left = %q, want %q", got, want)
		}
	})
}
