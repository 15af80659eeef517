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

	"qatplugin/internal/fakekubelet"
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
	k := startKubelet(t, dir, fakekubelet.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
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
	k := startKubelet(t, dir, fakekubelet.OnRegister(func(ctx context.Context, r *pluginapi.RegisterRequest) error {
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
	startKubelet(t, dir, fakekubelet.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
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
	k := startKubelet(t, dir, fakekubelet.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
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
	k := startKubelet(t, dir, fakekubelet.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if calls.Add(1) <= 2 {
			return fakekubelet.ErrIgnore
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
