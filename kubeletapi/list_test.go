package kubeletapi

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

func TestKubeletHoldsNewestList(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	one := tree(t, nil, "yellow", "1", "2")
	h.set(one)
	l := waitIDs(t, k, yellow, "1", "2")
	if got, want := healthOf(l, "1"), "Healthy"; got != want {
		t.Errorf("health of 1 = %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"color.example.com-yellow.sock", "kubelet.sock"}, sockets(t, dir)); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
	h.set(with(t, one, "yellow", sick("2", "on fire")))
	waitList(t, k, yellow, "2 unhealthy", func(l kubelettest.List) bool { return healthOf(l, "2") == "Unhealthy" })
	h.set(tree(t, one, "yellow", "3"))
	waitIDs(t, k, yellow, "3")
	h.set(tree(t, one, "yellow"))
	waitIDs(t, k, yellow)
	h.set(&devtree.Tree{}) // the resource is gone altogether: it stays registered, and empty
	h.set(one)
	waitIDs(t, k, yellow, "1", "2")
}

func TestListThatSaysTheSameIsNotSentAgain(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	now := tree(t, with(t, nil, "yellow", sick("1", "on fire")), "blue")
	h.set(now)
	before := waitIDs(t, k, yellow, "1")
	for i := range 50 {
		// The kubelet knows no reasons. Both streams are woken; when blue's list is there yellow's had its turn, most likely.
		pace := strconv.Itoa(i)
		now = tree(t, with(t, now, "yellow", sick("1", "under "+pace+" m of water")), "blue", pace)
		h.set(now)
		waitIDs(t, k, blue, pace)
	}
	h.set(tree(t, now, "yellow", "1", "2"))
	after := waitIDs(t, k, yellow, "1", "2")
	if got, want := after.Seq, before.Seq+1; got != want {
		t.Errorf("the list with a new device is number %d, want %d", got, want)
	}
}

func TestResourcesComeAtRunTimeAndStay(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	one := tree(t, nil, "yellow", "1")
	h.set(one)
	waitIDs(t, k, yellow, "1")
	two := tree(t, one, "blue", "a")
	h.set(two)
	waitIDs(t, k, blue, "a")
	waitIDs(t, k, yellow, "1")
	h.set(tree(t, nil, "green", "x")) // yellow and blue are gone
	waitIDs(t, k, namespace+"/green", "x")
	for _, resource := range []string{yellow, blue} {
		waitIDs(t, k, resource)
	}
	restart(t, k)
	for _, resource := range []string{yellow, blue} {
		waitIDs(t, k, resource)
	}
}

func TestTwoStreamsBothGetEverything(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	now := tree(t, nil, "yellow", "0")
	h.set(now)
	waitIDs(t, k, yellow, "0")
	second := watch(t, dir, "yellow")
	for i := range 50 {
		id := strconv.Itoa(i)
		now = tree(t, now, "yellow", id)
		h.set(now)
		waitIDs(t, k, yellow, id)
		second.until(t, id)
	}
}

// A stream that does not read must cost nobody anything: not the other stream of its resource, not another resource, not the publisher.
func TestStuckStreamDelaysNobody(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	trees := alternating(t, 1024)
	now := tree(t, trees[0], "blue", "a")
	h.set(now)
	waitList(t, k, yellow, "1024 devices", func(l kubelettest.List) bool { return len(l.Devices) == 1024 })
	stuck := watch(t, dir, "yellow") // nobody reads from it for now
	for i := range 100 {
		d := sick("one", strconv.Itoa(i))
		if i%2 == 0 {
			d = device("one")
		}
		now = tree(t, with(t, now, "yellow", d), "blue", strconv.Itoa(i))
		h.set(now)
		waitIDs(t, k, blue, strconv.Itoa(i))
		waitList(t, k, yellow, "the newest", func(l kubelettest.List) bool { return healthOf(l, "one") == string(d.Health) })
	}
	lists := 0
	for {
		l := stuck.next(t)
		lists++
		if len(l) == 1025 && l[len(l)-1].Health == "Unhealthy" && lists > 1 {
			break // 99, the last one, is Unhealthy
		}
		if lists > 100 {
			t.Fatal("the newest list never came")
		}
	}
	// What fills the socket, gRPC's windows and its write quota was sent before the stream was stuck. All else was skipped.
	if lists > 30 {
		t.Errorf("the stuck stream was sent %d lists of 100, want the few that were under way and the newest", lists)
	}
}

func TestNobodyReadsAHundredThousandChanges(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	trees := alternating(t, 64)
	h.set(trees[0])
	waitList(t, k, yellow, "64 devices", func(l kubelettest.List) bool { return len(l.Devices) == 64 })
	stuck := watch(t, dir, "yellow")
	stuck.next(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 100_000 {
		h.set(trees[i%2])
	}
	last := tree(t, trees[0], "yellow", "last")
	h.set(last)
	waitIDs(t, k, yellow, "last")
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	stuck.until(t, "last")
}

// Any history of Trees, through one converter, gives what a converter that saw only the last Tree gives.
func TestConverterForgetsHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, now := &converter{}, &devtree.Tree{}
		var before *listing
		for range rapid.IntRange(1, 20).Draw(rt, "trees") {
			b := now.Edit()
			for range rapid.IntRange(0, 4).Draw(rt, "changes") {
				id := strconv.Itoa(rapid.IntRange(0, 5).Draw(rt, "id"))
				switch rapid.IntRange(0, 3).Draw(rt, "change") {
				case 0:
					b.Remove("yellow", id)
				case 1:
					put(t, b, "yellow", sick(id, rapid.SampledFrom([]string{"fire", "water"}).Draw(rt, "reason")))
				case 2:
					put(t, b, "yellow", device(id))
				case 3:
					d := device(id)
					d.NUMANodes = []int{rapid.IntRange(0, 1).Draw(rt, "node")}
					put(t, b, "yellow", d)
				}
			}
			now = b.Build()
			if r := now.Resource("yellow"); r != nil && rapid.Bool().Draw(rt, "seen") {
				got, want := c.convert(r), (&converter{}).convert(r)
				if diff := cmp.Diff(want.response, got.response, protocmp.Transform()); diff != "" || got.healthy != want.healthy {
					rt.Fatalf("healthy %d, want %d; list (-want +got):\n%s", got.healthy, want.healthy, diff)
				}
				if c.convert(r) != got {
					rt.Fatal("the same resource was converted twice")
				}
				if before != nil && before != got && proto.Equal(before.response, got.response) {
					rt.Fatal("a list that says the same is another one")
				}
				before = got
			}
		}
	})
}

// follower is a stream of the test's own, beside the kubelet's.
type follower struct {
	stream grpc.ServerStreamingClient[pluginapi.ListAndWatchResponse]
}

// dial connects to the resource's socket, as the kubelet does.
func dial(t testing.TB, dir, resource string) pluginapi.DevicePluginClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, SocketName(namespace, resource)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true))) // between bind and listen a socket that is there refuses
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pluginapi.NewDevicePluginClient(conn)
}

func watch(t testing.TB, dir, resource string) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := dial(t, dir, resource).ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	return &follower{stream: stream}
}

func (f *follower) next(t testing.TB) []*pluginapi.Device {
	t.Helper()
	r, err := f.stream.Recv()
	if err != nil {
		t.Fatalf("ListAndWatch: %v", err)
	}
	return r.Devices
}

// until reads until a list holds exactly these devices.
func (f *follower) until(t testing.TB, ids ...string) {
	t.Helper()
	for !slices.Equal(listIDs(kubelettest.List{Devices: f.next(t)}), ids) {
	}
}
