package kubeletapi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"

	"qatplugin/kubeletapi/kubelettest"
)

// Back-offs that make a test quick.
const (
	fast = time.Millisecond
	slow = 5 * time.Millisecond
)

func TestRefusedRegistrationIsRepeatedAndLoggedOnce(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	var calls atomic.Int32
	var refuse atomic.Bool
	refuse.Store(true)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if n := calls.Add(1); refuse.Load() {
			if n > 10 {
				return errors.New("not you")
			}
			return errors.New("not now")
		}
		return nil
	}))
	r := run(t, dir, h, WithBackOff(fast, slow))
	h.set(tree(t, nil, "yellow", "1"))
	eventually(t, "20 attempts", func() bool { return calls.Load() >= 20 })
	refuse.Store(false)
	waitIDs(t, k, yellow, "1")
	r.log.await(t, "Registered")
	for _, text := range []string{"not now", "not you"} {
		if n := r.log.count(text); n != 1 {
			t.Errorf("%q is in the log %d times, want once", text, n)
		}
	}
}

func TestHangingRegistrationIsGivenUpAndRepeated(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, r *pluginapi.RegisterRequest) error {
		if r.ResourceName == yellow && calls.Add(1) <= 2 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}))
	r := run(t, dir, h, WithBackOff(fast, slow), WithRegisterDeadline(50*time.Millisecond))
	h.set(tree(t, tree(t, nil, "yellow", "1"), "blue", "x"))
	waitIDs(t, k, blue, "x") // another resource does not wait for it
	waitIDs(t, k, yellow, "1")
	r.log.await(t, "DeadlineExceeded")
}

func TestHangingRegistrationEndsWithTheManager(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	called := make(chan struct{}, 1)
	startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
		called <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	r := run(t, dir, h)
	h.set(tree(t, nil, "yellow", "1"))
	<-called
	start := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Run took %v to end", took)
	}
}

// A new kubelet must not wait until the registration with the one before it times out.
func TestHangingKubeletIsReplaced(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	called := make(chan struct{}, 1)
	var lives atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
		if lives.Load() > 0 {
			return nil
		}
		called <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	run(t, dir, h, WithRegisterDeadline(time.Hour))
	h.set(tree(t, nil, "yellow", "1"))
	<-called
	lives.Add(1)
	restart(t, k)
	waitIDs(t, k, yellow, "1")
}

// A kubelet.sock that does not answer: its process is there, but nobody accepts.
func TestSocketThatNobodyAccepts(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	l, err := net.Listen("unix", filepath.Join(dir, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := run(t, dir, h, WithBackOff(fast, slow), WithRegisterDeadline(20*time.Millisecond))
	h.set(tree(t, nil, "yellow", "1"))
	r.log.await(t, "Cannot register")
	l.Close()
	k := startKubelet(t, dir)
	waitIDs(t, k, yellow, "1")
}

func TestRegistrationWithoutListAndWatchIsRepeated(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if calls.Add(1) <= 2 {
			return kubelettest.ErrIgnore
		}
		return nil
	}))
	r := run(t, dir, h, func(c *config) { c.streamDeadline = 10 * time.Millisecond })
	h.set(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	if n := r.log.count("does not call ListAndWatch"); n != 1 {
		t.Errorf("%d log lines of it, want 1", n)
	}
}

func TestKubeletThatComesLateIsWaitedFor(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	r := run(t, dir, h)
	h.set(tree(t, nil, "yellow", "1"))
	r.log.await(t, "Waiting for the kubelet's socket")
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("sockets %q without a kubelet, want none", got)
	}
	k := startKubelet(t, dir)
	waitIDs(t, k, yellow, "1")
	if n := r.log.count("restarted"); n != 0 {
		t.Errorf("the log calls the kubelet's first start a restart")
	}
}

func TestFileInPlaceOfTheKubeletsSocketIsNoKubelet(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	path := filepath.Join(dir, kubeletSocket)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, h)
	h.set(tree(t, nil, "yellow", "1"))
	r.log.await(t, "Waiting for the kubelet's socket")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	waitIDs(t, startKubelet(t, dir), yellow, "1")
}

func TestRegisteredManagerHasNoTimer(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	m := NewManager(namespace, h, WithKubeletDir(dir))
	ctx, cancel := context.WithCancel(t.Context())
	keeper := newKeeper(m, (&logbook{changed: make(chan struct{})}).logger())
	m.publish(tree(t, nil, "yellow", "1"))
	keeper.look(ctx, true)
	waitIDs(t, k, yellow, "1")
	eventually(t, "nothing left to do at any time", func() bool { return keeper.look(ctx, false).IsZero() })
	k.Stop()
	eventually(t, "nothing left to do without a kubelet", func() bool { return keeper.look(ctx, false).IsZero() })
	cancel()
	ended := make(chan struct{})
	close(ended)
	if err := keeper.stop(ended); err != nil {
		t.Error(err)
	}
}

// The kubelet drops whatever client the resource has shortly after a stream ended: a registration at once would be lost, devices unhealthy.
func TestEndOfAStreamIsLeftToSettle(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	m := NewManager(namespace, h, WithKubeletDir(dir))
	keeper := newKeeper(m, (&logbook{changed: make(chan struct{})}).logger())
	m.publish(tree(t, nil, "yellow", "1"))
	keeper.look(t.Context(), true)
	waitIDs(t, k, yellow, "1")
	eventually(t, "registered", func() bool { return keeper.look(t.Context(), false).IsZero() })
	ended := time.Now()
	k.Disconnect(yellow)
	var next time.Time
	eventually(t, "end of the stream noticed", func() bool { next = keeper.look(t.Context(), false); return !next.IsZero() })
	if pause := next.Sub(ended); pause < 100*time.Millisecond {
		t.Errorf("registers again %v after the stream ended, want at least 100ms", pause)
	}
	closed := make(chan struct{})
	close(closed)
	if err := keeper.stop(closed); err != nil {
		t.Error(err)
	}
}

// A kubelet that is about to connect to a socket that goes would try again only after a second, or hang.
func TestSocketThatGoesWhileTheKubeletConnects(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, r *pluginapi.RegisterRequest) error {
		if calls.Add(1) > 1 {
			return nil
		}
		if err := os.Remove(filepath.Join(dir, r.Endpoint)); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	run(t, dir, h, WithRegisterDeadline(time.Hour))
	h.set(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	if got := calls.Load(); got != 2 {
		t.Errorf("%d registrations, want 2", got)
	}
}

// Once the kubelet is connected it does not need the socket's file any more, even while its answer is on the way.
func TestSocketThatGoesAfterTheKubeletConnected(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	connected, deleted := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if calls.Add(1) == 1 {
			close(connected)
			<-deleted
		}
		return nil
	}))
	run(t, dir, h)
	h.set(tree(t, nil, "yellow", "1"))
	<-connected
	watch(t, dir, "yellow").until(t, "1") // the kubelet's stream
	path := filepath.Join(dir, SocketName(namespace, "yellow"))
	old, _, err := identify(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "socket made anew", func() bool { id, _, err := identify(path); return err == nil && id != old })
	watch(t, dir, "yellow").until(t, "1") // so the keeper is done with making it
	close(deleted)
	waitIDs(t, k, yellow, "1")
	if got := calls.Load(); got != 1 {
		t.Errorf("%d registrations, want 1", got)
	}
}

func TestStreamOfAnEarlierAttemptDoesNotCount(t *testing.T) {
	var s standing
	first := s.begin()
	end := s.open()
	second := s.begin()
	if s.answer(first, nil) {
		t.Error("the answer to an attempt that was given up is taken for the newest's")
	}
	if got := s.look(); got.answered || got.live != 0 {
		t.Errorf("standing of the new attempt = %+v, want a fresh one", got)
	}
	endNew := s.open()
	if !s.answer(second, nil) {
		t.Error("the newest attempt's answer is not taken")
	}
	if end() {
		t.Error("the end of an earlier stream is taken for the end of the last one")
	}
	if got := s.look().phase(); got != following {
		t.Errorf("phase %d, want following", got)
	}
	if !endNew() {
		t.Error("the end of the last stream is not seen")
	}
	if got := s.look().phase(); got != lost {
		t.Errorf("phase %d, want lost", got)
	}
}

func TestPhaseOfAStanding(t *testing.T) {
	some := time.Unix(1, 0)
	for _, test := range []struct {
		name string
		view standingView
		want phase
	}{
		{"Register under way", standingView{}, calling},
		{"Register under way, stream open", standingView{live: 1, opened: some}, calling},
		{"refused", standingView{answered: true, err: errors.New("no")}, failed},
		{"refused, somebody else's stream", standingView{answered: true, err: errors.New("no"), live: 1, opened: some}, failed},
		{"answered", standingView{answered: true}, answered},
		{"stream open", standingView{answered: true, live: 1, opened: some}, following},
		{"answer too late, but the stream is open", standingView{answered: true, err: status.Error(codes.DeadlineExceeded, ""), live: 1, opened: some}, following},
		{"answer too late", standingView{answered: true, err: status.Error(codes.DeadlineExceeded, "")}, failed},
		{"stream came and went", standingView{answered: true, opened: some}, lost},
	} {
		if got := test.view.phase(); got != test.want {
			t.Errorf("%s: phase %d, want %d", test.name, got, test.want)
		}
	}
}

func TestBackOffGrowsToItsMaximum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := config{
			backOffFirst: time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(rt, "first")),
			backOffMax:   time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(rt, "max")),
		}
		var b backOff
		full := c.backOffFirst
		for range 100 {
			full = min(full, c.backOffMax)
			if got := b.next(&c); got < full/2 || got > full {
				rt.Fatalf("pause %v, want from %v to %v", got, full/2, full)
			}
			full *= 2
		}
		b.reset()
		if got := b.next(&c); got > c.backOffFirst {
			rt.Fatalf("first pause after a success is %v, want at most %v", got, c.backOffFirst)
		}
	})
}

func TestNamesThatTheKubeletWouldRefuse(t *testing.T) {
	for _, test := range []struct {
		namespace, says string
	}{
		{"qat.intel.com", ""},
		{"intel", ""},
		{"a-b.c9.io", ""},
		{"", "DNS name"},
		{"qat/intel.com", "DNS name"},
		{"Qat.intel.com", "DNS name"},
		{"-qat.intel.com", "DNS name"},
		{"qat..intel.com", "DNS name"},
		{"qat_intel.com", "DNS name"},
		{"requests.intel.com", "quota"},
		{"kubernetes.io", "for itself"},
		{"qat.kubernetes.io", "for itself"},
		{strings.Repeat("a", 245), "245 characters"},
	} {
		err := CheckNamespace(test.namespace)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("CheckNamespace(%q) = %v, want one that says %q", test.namespace, err, test.says)
		}
		if test.says == "" {
			continue
		}
		if err := NewManager(test.namespace, newHand(), WithKubeletDir(kubeletDir(t))).Run(t.Context()); err == nil {
			t.Errorf("Run of a Manager for %q = nil, want an error", test.namespace)
		}
	}
}
