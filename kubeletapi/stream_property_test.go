package kubeletapi

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// pipe is a stream of ListAndWatch without a network. While it is stuck, Send waits, as gRPC's does when nobody reads.
type pipe struct {
	grpc.ServerStream
	ctx  context.Context
	end  context.CancelFunc
	done chan struct{} // ListAndWatch has returned
	err  error

	mu     sync.Mutex
	stuck  chan struct{} // nil: it reads; closed when it does again
	last   []string
	lists  int
	broken bool // the next Send is an error
}

func open(ctx context.Context, s *service) *pipe {
	p := &pipe{done: make(chan struct{})}
	p.ctx, p.end = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		p.err = s.ListAndWatch(&pluginapi.Empty{}, p)
	}()
	return p
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(r *pluginapi.ListAndWatchResponse) error {
	p.mu.Lock()
	stuck := p.stuck
	p.mu.Unlock()
	if stuck != nil {
		select {
		case <-stuck:
		case <-p.ctx.Done():
			return status.FromContextError(p.ctx.Err()).Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return status.Error(codes.Unavailable, "broken pipe")
	}
	p.last, p.lists = said(r.Devices), p.lists+1
	return nil
}

func (p *pipe) stick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck == nil {
		p.stuck = make(chan struct{})
	}
}

func (p *pipe) read() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck != nil {
		close(p.stuck)
		p.stuck = nil
	}
}

func (p *pipe) look() (last []string, lists int, stuck bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.lists, p.stuck != nil
}

func said(devices []*pluginapi.Device) []string {
	list := []string{}
	for _, d := range devices {
		list = append(list, d.ID+" "+d.Health)
	}
	return list
}

// Whatever the order of changes, stream ends and new streams: when all is quiet, each stream that reads has the newest Tree's list, the stuck ones
// of its own resource and of others notwithstanding, and a stuck one has it as soon as it reads.
func TestAnyInterleavingOfTreesAndStreamsEndsInTheNewestList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			m := NewManager(namespace, newHand())
			resources := []string{"yellow", "blue"}
			services, streams := map[string]*service{}, map[string][]*pipe{}
			for _, r := range resources {
				services[r] = newService(m, klog.Logger{}, ctx, r)
			}
			now := &devtree.Tree{}
			check := func() {
				for _, r := range resources {
					want := said(convertAll(now.Resource(r)))
					for i, p := range streams[r] {
						if got, _, stuck := p.look(); !stuck && !slices.Equal(got, want) {
							rt.Fatalf("stream %d of %s has %q, want %q", i, r, got, want)
						}
					}
				}
			}
			for range rapid.IntRange(1, 40).Draw(rt, "events") {
				r := rapid.SampledFrom(resources).Draw(rt, "resource")
				one := func() *pipe {
					if len(streams[r]) == 0 {
						return nil
					}
					return streams[r][rapid.IntRange(0, len(streams[r])-1).Draw(rt, "stream")]
				}
				switch rapid.SampledFrom([]string{"tree", "tree", "tree", "open", "end", "break", "stick", "read", "quiet"}).Draw(rt, "event") {
				case "tree":
					id := strconv.Itoa(rapid.IntRange(0, 4).Draw(rt, "id"))
					b := now.Edit()
					switch rapid.IntRange(0, 3).Draw(rt, "change") {
					case 0:
						b.Remove(r, id)
					case 1:
						put(t, b, r, sick(id, "on fire"))
					default:
						put(t, b, r, device(id))
					}
					now = b.Build()
					m.publish(now)
				case "open":
					streams[r] = append(streams[r], open(ctx, services[r]))
				case "end", "break":
					if p := one(); p != nil {
						if rapid.Bool().Draw(rt, "by itself") {
							p.end()
						} else {
							p.mu.Lock()
							p.broken = true
							p.mu.Unlock()
							p.read()
							p.end() // as gRPC's stream context does when the connection breaks
						}
						streams[r] = slices.DeleteFunc(streams[r], func(q *pipe) bool { return q == p })
						<-p.done // it ends, stuck or not
					}
				case "stick":
					if p := one(); p != nil {
						p.stick()
					}
				case "read":
					if p := one(); p != nil {
						p.read()
					}
				case "quiet":
					synctest.Wait()
					check()
				}
			}
			for _, r := range resources {
				for _, p := range streams[r] {
					p.read()
				}
			}
			synctest.Wait()
			check()
			cancel()
			for _, r := range resources {
				for _, p := range streams[r] {
					<-p.done
				}
			}
		})
	})
}

func convertAll(r *devtree.Resource) []*pluginapi.Device {
	var list []*pluginapi.Device
	for d := range r.Devices() {
		list = append(list, convertDevice(d))
	}
	return list
}

// A hundred thousand different Trees, of which a stuck stream takes none: what is kept is the newest alone. Its neighbour, of another resource, gets
// each change at once. (TestNobodyReadsAHundredThousandChanges does it with two Trees in turns, over a socket.)
func TestTreesThatNobodyReadsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := NewManager(namespace, newHand())
		stuck := open(ctx, newService(m, klog.Logger{}, ctx, "yellow"))
		stuck.stick()
		reads := open(ctx, newService(m, klog.Logger{}, ctx, "blue"))
		b := new(devtree.Tree).Edit()
		for i := range 64 {
			put(t, b, "yellow", device(fmt.Sprintf("%02d", i)))
		}
		change := func(i int) {
			put(t, b, "yellow", sick("00", strconv.Itoa(i)))
			if i%1000 == 0 {
				put(t, b, "blue", sick("pace", strconv.Itoa(i)))
				b.Remove("blue", strconv.Itoa(i-1000))
				put(t, b, "blue", device(strconv.Itoa(i)))
			}
			m.publish(b.Build())
			if i%1000 == 0 {
				synctest.Wait()
				if got, want := reads.last, []string{strconv.Itoa(i) + " Healthy", "pace Unhealthy"}; !slices.Equal(got, want) {
					t.Fatalf("the other resource's list is %q, want %q", got, want)
				}
			}
		}
		change(0)
		synctest.Wait()
		before := heap()
		for i := range 100_000 {
			change(i + 1)
		}
		if grown := heap() - before; grown > 1<<20 {
			t.Errorf("the heap grew by %d KiB", grown>>10)
		}
		if _, lists, _ := stuck.look(); lists > 1 {
			t.Errorf("the stuck stream took %d lists", lists)
		}
		stuck.read()
		synctest.Wait()
		if last, lists, _ := stuck.look(); lists > 2 || last[0] != "00 Unhealthy" || len(last) != 64 {
			t.Errorf("after it reads again, list %d is %q", lists, last)
		}
		cancel()
		<-stuck.done
		<-reads.done
	})
}

func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
