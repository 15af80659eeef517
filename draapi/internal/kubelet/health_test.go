// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pool holds the newest Inventory, as a driver does.
type pool struct {
	mu      sync.Mutex
	devices *inventory.Inventory
	changed chan struct{}
}

func newPool(devices ...*inventory.Device) *pool {
	return &pool{devices: &inventory.Inventory{Devices: devices}, changed: make(chan struct{})}
}

func (p *pool) newest() (*inventory.Inventory, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.devices, p.changed
}

func (p *pool) set(devices ...*inventory.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices = &inventory.Inventory{Devices: devices}
	close(p.changed)
	p.changed = make(chan struct{})
}

func device(name, reason string) *inventory.Device {
	d := &devtree.Device{ID: name, Health: devtree.Healthy}
	if reason != "" {
		d.Health, d.Reason = devtree.Unhealthy, reason
	}
	return &inventory.Device{Name: name, Device: d}
}

// sentMessage is a message of a stream.
type sentMessage struct {
	After time.Duration // since the stream was opened
	Text  string        // the devices with their states
}

// fakeStream is the server's end of a health stream.
type fakeStream struct {
	grpc.ServerStream
	ctx   context.Context
	start time.Time
	sent  []sentMessage
	err   error // of Send
}

func (s *fakeStream) Context() context.Context { return s.ctx }

func (s *fakeStream) Send(m *healthapi.NodeWatchResourcesResponse) error {
	var list []string
	for _, d := range m.GetDevices() {
		if d.GetLastUpdatedTime() != time.Now().Unix() || d.GetDevice().GetPoolName() != "node-1" {
			list = append(list, "invalid "+d.String())
		}
		state := d.GetDevice().GetDeviceName() + "=" + d.GetHealth().String()
		list = append(list, strings.TrimSpace(state+" "+d.GetMessage()))
	}
	s.sent = append(s.sent, sentMessage{time.Since(s.start), strings.Join(list, ", ")})
	return s.err
}

// watch opens a health stream in a synctest bubble. The returned function ends it.
func watch(t *testing.T, p *pool) (stream *fakeStream, s *Server, end func() error) {
	t.Helper()
	s, err := New(Config{
		Driver: "color.example.com", Pool: "node-1", Root: "/k", Inventory: p.newest, HealthSent: func(int, int) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream = &fakeStream{ctx: ctx, start: time.Now()}
	ended := make(chan error, 1)
	go func() { ended <- (&service{Server: s}).NodeWatchResources(nil, stream) }()
	synctest.Wait()
	return stream, s, func() error {
		cancel()
		return <-ended
	}
}

func TestHealthIsSentAgainBeforeTheKubeletsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(device("1", ""), device("2", "it fades"))
		stream, s, end := watch(t, p)
		time.Sleep(25 * time.Second)
		synctest.Wait()
		const text = "1=HEALTHY, 2=UNHEALTHY it fades"
		want := []sentMessage{{0, text}, {10 * time.Second, text}, {20 * time.Second, text}}
		if diff := cmp.Diff(want, stream.sent); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n := s.Status().HealthStreams; n != 1 {
			t.Errorf("%d streams", n)
		}
		if err := end(); err == nil {
			t.Error("the stream ends without an error")
		}
		if s := s.Status(); s.HealthStreams != 0 || s.HealthSent.IsZero() {
			t.Errorf("status %+v", s)
		}
	})
}

func TestChangeOfHealthIsSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(device("1", ""))
		stream, _, end := watch(t, p)
		time.Sleep(time.Second)
		p.set(device("1", "a"))
		synctest.Wait()
		p.set(device("1", "b")) // waits for 20 ms
		time.Sleep(5 * time.Millisecond)
		gone := device("1", "b")
		gone.Gone = true
		p.set(gone)
		time.Sleep(time.Second)
		changed := device("1", "b")
		changed.Gone = true
		changed.Device.Attributes = map[string]any{"size": int64(1)}
		p.set(changed) // not the health
		time.Sleep(time.Second)
		synctest.Wait()
		want := []sentMessage{
			{0, "1=HEALTHY"}, {time.Second, "1=UNHEALTHY a"},
			{time.Second + minInterval, "1=UNHEALTHY the device has left the host"},
		}
		if diff := cmp.Diff(want, stream.sent); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		_ = end()
	})
}

func TestHealthStreamEndsWithAFailedSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(device("1", ""))
		stream, _, end := watch(t, p)
		stream.err = errors.New("broken") // the stream waits
		p.set(device("1", "a"))
		time.Sleep(minInterval)
		synctest.Wait()
		if err := end(); !errors.Is(err, stream.err) {
			t.Errorf("error %v", err)
		}
	})
}

func TestTextIsCutBetweenCharacters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, limit := rapid.String().Draw(t, "text"), rapid.IntRange(0, 20).Draw(t, "limit")
		got := cut(text, limit)
		if len(got) > limit || !strings.HasPrefix(text, got) || !utf8.ValidString(got) {
			t.Fatalf("cut(%q, %d) = %q", text, limit, got)
		}
		if len(text) > limit && len(got) <= limit-utf8.UTFMax {
			t.Fatalf("cut(%q, %d) = %q is too short", text, limit, got)
		}
	})
}

// The kubelet accepts messages of up to 4 MiB.
func TestHealthOfManyDevicesFitsIntoAMessage(t *testing.T) {
	s, err := New(Config{Driver: "color.example.com", Pool: strings.Repeat("n", 253), Root: "/k"})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 64, 1000} {
		i := &inventory.Inventory{}
		for range n {
			i.Devices = append(i.Devices, device(strings.Repeat("d", 63), strings.Repeat("ü", 4000)))
		}
		list := healthOf(i)
		if size := proto.Size(s.response(list, time.Now())); size > 4<<20 {
			t.Errorf("%d devices: %d bytes", n, size)
		}
		if got := len(list[0].message); got != min(maxMessage, maxMessages/n) {
			t.Errorf("%d devices: texts of %d bytes", n, got)
		}
	}
}
