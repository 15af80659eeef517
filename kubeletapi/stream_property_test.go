// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// fakeStream is a ListAndWatch stream without a network. While it is blocked, SendMsg waits,
// as gRPC's does when nobody reads.
type fakeStream struct {
	pluginapi.DevicePlugin_ListAndWatchServer
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when ListAndWatch has returned
	err    error         // of ListAndWatch

	mu      sync.Mutex
	blocked chan struct{} // nil unless blocked; closed by unblock
	broken  bool          // the next SendMsg fails
	last    []string      // the list that was sent last, as "ID health"
	lists   int
	sent    []sentList
	repeats int // lists that equal the one before
}

// sentList is a list that a fakeStream has sent.
type sentList struct {
	at  time.Time
	ids []string
}

func openFakeStream(ctx context.Context, s *service) *fakeStream {
	f := &fakeStream{done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(ctx)
	go func() {
		defer close(f.done)
		f.err = s.ListAndWatch(&pluginapi.Empty{}, f)
	}()
	return f
}

func (f *fakeStream) Context() context.Context { return f.ctx }

func (f *fakeStream) SendMsg(m any) error {
	f.mu.Lock()
	blocked := f.blocked
	f.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-f.ctx.Done():
			return status.FromContextError(f.ctx.Err()).Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return status.Error(codes.Unavailable, "broken pipe")
	}
	response := &pluginapi.ListAndWatchResponse{}
	if err := proto.Unmarshal(m.(*list).wire, response); err != nil {
		return err
	}
	list := summary(response.Devices)
	if f.lists > 0 && slices.Equal(list, f.last) {
		f.repeats++
	}
	f.last, f.lists = list, f.lists+1
	f.sent = append(f.sent, sentList{time.Now(), listIDs(response.Devices)})
	return nil
}

func (f *fakeStream) block() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blocked == nil {
		f.blocked = make(chan struct{})
	}
}

func (f *fakeStream) unblock() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blocked != nil {
		close(f.blocked)
		f.blocked = nil
	}
}

func (f *fakeStream) state() (last []string, lists int, blocked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.lists, f.blocked != nil
}

func summary(devices []*pluginapi.Device) []string {
	list := []string{}
	for _, d := range devices {
		list = append(list, d.ID+" "+d.Health)
	}
	return list
}

// newTestServices returns a Manager that does not run, and services whose streams end with ctx.
// They gather changes as those of a Manager do.
func newTestServices(ctx context.Context, log klog.Logger, resources ...string) (*Manager, map[string]*service) {
	m, services := NewManager(namespace, newFakePlugin()), map[string]*service{}
	for _, resource := range resources {
		services[resource] = &service{
			resource:     resource,
			name:         fullName(namespace, resource),
			publisher:    &m.publisher,
			registration: &registration{wake: m.wake},
			streamsCtx:   ctx,
			pace:         m.config.pace,
			log:          log,
		}
	}
	return m, services
}

// settle waits until each stream that is not blocked has sent the newest list. One that was
// blocked sends an older list first, so it takes two.
func settle(m *Manager) {
	time.Sleep(2 * m.config.pace.max)
	synctest.Wait()
}

// TestStreamsEndAtNewestList checks that, whatever the order of Trees, new streams and
// ends of streams, each stream that is read has the newest list once all is quiet, and a
// blocked one has it once it is read again. No stream sends a list twice in a row.
func TestStreamsEndAtNewestList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			resources := []string{"yellow", "blue"}
			m, services := newTestServices(ctx, klog.Logger{}, resources...)
			streams := map[string][]*fakeStream{}
			now := &devtree.Tree{}
			check := func() {
				for _, r := range resources {
					var devices []*pluginapi.Device
					for d := range now.Resource(r).Devices() {
						devices = append(devices, convertDevice(d))
					}
					for i, f := range streams[r] {
						if got, _, blocked := f.state(); !blocked && !slices.Equal(got, summary(devices)) {
							rt.Fatalf("stream %d of %s has %q, want %q", i, r, got, summary(devices))
						}
					}
				}
			}
			for range rapid.IntRange(1, 40).Draw(rt, "events") {
				r := rapid.SampledFrom(resources).Draw(rt, "resource")
				event := rapid.SampledFrom([]string{
					"tree", "tree", "tree", "open", "cancel", "break", "block", "unblock", "pause", "wait",
				}).Draw(rt, "event")
				var f *fakeStream
				switch event {
				case "cancel", "break", "block", "unblock":
					if len(streams[r]) == 0 {
						continue
					}
					f = streams[r][rapid.IntRange(0, len(streams[r])-1).Draw(rt, "stream")]
				}
				switch event {
				case "tree":
					id := strconv.Itoa(rapid.IntRange(0, 4).Draw(rt, "id"))
					b := now.Edit()
					switch rapid.IntRange(0, 3).Draw(rt, "change") {
					case 0:
						b.Remove(r, id)
					case 1:
						put(t, b, r, unhealthy(id, "on fire"))
					default:
						put(t, b, r, device(id))
					}
					now = b.Build()
					m.publish(now)
				case "open":
					streams[r] = append(streams[r], openFakeStream(ctx, services[r]))
				case "cancel", "break":
					if event == "break" {
						f.mu.Lock()
						f.broken = true
						f.mu.Unlock()
						f.unblock()
					}
					f.cancel() // gRPC also cancels the context of a broken stream
					streams[r] = slices.DeleteFunc(streams[r], func(other *fakeStream) bool { return other == f })
					<-f.done
				case "block":
					f.block()
				case "unblock":
					f.unblock()
				case "pause":
					time.Sleep(time.Millisecond)
				case "wait":
					settle(m)
					check()
				}
			}
			for _, f := range slices.Concat(streams["yellow"], streams["blue"]) {
				f.unblock()
			}
			settle(m)
			check()
			cancel()
			for _, f := range slices.Concat(streams["yellow"], streams["blue"]) {
				<-f.done
				if f.repeats > 0 {
					rt.Errorf("a stream sent the list that it had just sent")
				}
			}
		})
	})
}

// TestEqualListIsNotSentAgainByBlockedStream checks that a stream compares lists with its
// own, although another stream of the resource has sent other lists meanwhile.
func TestEqualListIsNotSentAgainByBlockedStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m, services := newTestServices(ctx, klog.Logger{}, "yellow")
		one := tree(t, nil, "yellow", "1")
		m.publish(one)
		blocked, other := openFakeStream(ctx, services["yellow"]), openFakeStream(ctx, services["yellow"])
		synctest.Wait()
		blocked.block()
		for _, ids := range [][]string{{"1", "2"}, {"1"}, {"1", "2"}} {
			m.publish(tree(t, one, "yellow", ids...))
			settle(m)
		}
		blocked.unblock()
		settle(m)
		if _, lists, _ := other.state(); lists != 4 {
			t.Errorf("the other stream sent %d lists, want 4", lists)
		}
		if last, lists, _ := blocked.state(); lists != 2 || len(last) != 2 || blocked.repeats != 0 {
			t.Errorf("the blocked stream sent %d lists, last %q, want 2, last 1 and 2", lists, last)
		}
		cancel()
		<-blocked.done
		<-other.done
	})
}

// TestBlockedStreamKeepsOnlyNewestTree publishes 100000 different Trees while one stream
// is blocked. TestMemoryIsBoundedWhileStreamIsBlocked does so over a socket.
func TestBlockedStreamKeepsOnlyNewestTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m, services := newTestServices(ctx, klog.Logger{}, "yellow", "blue")
		blocked := openFakeStream(ctx, services["yellow"])
		blocked.block()
		other := openFakeStream(ctx, services["blue"])
		b := new(devtree.Tree).Edit()
		for i := range 64 {
			put(t, b, "yellow", device(fmt.Sprintf("%02d", i)))
		}
		change := func(i int) {
			put(t, b, "yellow", unhealthy("00", strconv.Itoa(i)))
			if i%1000 == 0 {
				put(t, b, "blue", unhealthy("pace", strconv.Itoa(i)))
				b.Remove("blue", strconv.Itoa(i-1000))
				put(t, b, "blue", device(strconv.Itoa(i)))
			}
			m.publish(b.Build())
			if i%1000 == 0 {
				settle(m)
				want := []string{strconv.Itoa(i) + " Healthy", "pace Unhealthy"}
				if !slices.Equal(other.last, want) {
					t.Fatalf("the other stream has %q, want %q", other.last, want)
				}
			}
		}
		change(0)
		synctest.Wait()
		before := heapSize()
		for i := range 100_000 {
			change(i + 1)
		}
		if grown := heapSize() - before; grown > 1<<20 {
			t.Errorf("the heap grew by %d KiB", grown>>10)
		}
		if _, lists, _ := blocked.state(); lists > 1 {
			t.Errorf("the blocked stream got %d lists, want at most 1", lists)
		}
		blocked.unblock()
		settle(m)
		if last, lists, _ := blocked.state(); lists > 2 || last[0] != "00 Unhealthy" || len(last) != 64 {
			t.Errorf("after the stream is read again, list %d is %q", lists, last)
		}
		cancel()
		<-blocked.done
		<-other.done
	})
}

func TestSentListIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		log := funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{Verbosity: 4})
		ctx, cancel := context.WithCancel(t.Context())
		m, services := newTestServices(ctx, log, "yellow")
		m.publish(with(t, tree(t, nil, "yellow", "1", "2"), "yellow", unhealthy("3", "on fire")))
		stream := openFakeStream(ctx, services["yellow"])
		synctest.Wait()
		cancel()
		<-stream.done
		want := `"Sent the list" "resource"="color.example.com/yellow" "generation"=2 "devices"=3 "healthy"=2`
		if len(lines) != 1 || !strings.Contains(lines[0], want) {
			t.Errorf("log %q, want %s", lines, want)
		}
	})
}

func TestStreamErrorTellsWhoEndedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		_, services := newTestServices(ctx, klog.Logger{}, "yellow")
		canceled := openFakeStream(context.Background(), services["yellow"])
		stopped := openFakeStream(context.Background(), services["yellow"])
		synctest.Wait()
		canceled.cancel()
		<-canceled.done
		stop()
		<-stopped.done
		stopped.cancel()
		if canceled.err == nil || stopped.err != nil {
			t.Errorf("ListAndWatch = %v if the kubelet canceled it and %v if the Manager stops, want an error and nil",
				canceled.err, stopped.err)
		}
	})
}
