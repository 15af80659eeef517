package kubeletapi

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

func TestRunEndsCleanly(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	r := run(t, dir, h, func(c *config) { c.flushDeadline = time.Hour }) // nothing needs to be broken off
	h.set(tree(t, tree(t, nil, "yellow", "1"), "blue", "x"))
	waitIDs(t, k, yellow, "1")
	waitIDs(t, k, blue, "x")
	start := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Run took %v to end", took)
	}
	if got, want := sockets(t, dir), []string{"kubelet.sock"}; !slices.Equal(got, want) {
		t.Errorf("sockets = %q, want %q", got, want)
	}
	eventually(t, "descriptors and goroutines as before", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
}

func TestRunEndsThoughAStreamIsStuck(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	r := run(t, dir, h)
	trees := alternating(t, 1024)
	h.set(trees[0])
	waitList(t, k, yellow, "a list", func(l kubelettest.List) bool { return len(l.Devices) == 1024 })
	stuck := watch(t, dir, "yellow")
	for i := range 50 {
		h.set(trees[i%2])
		want := [2]string{"Healthy", "Unhealthy"}[i%2]
		waitList(t, k, yellow, want, func(l kubelettest.List) bool { return l.Devices[512].Health == want })
	}
	start := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Run took %v to end", took)
	}
	for {
		if _, err := stuck.stream.Recv(); err != nil {
			break
		}
	}
}

func TestErrorOfWatchEndsRun(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	fire := errors.New("on fire")
	m := NewManager(namespace, h, WithKubeletDir(dir))
	done := make(chan error, 1)
	go func() { done <- m.Run(klog.NewContext(t.Context(), logr.Discard())) }()
	h.set(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	h.fail <- fire
	if err := <-done; !errors.Is(err, fire) || !strings.Contains(err.Error(), namespace) {
		t.Errorf("Run = %v, want one that wraps %q and names %q", err, fire, namespace)
	}
	if got, want := sockets(t, dir), []string{"kubelet.sock"}; !slices.Equal(got, want) {
		t.Errorf("sockets = %q, want %q", got, want)
	}
}

func TestEndOfWatchLeavesTheLastTreeServed(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	r := run(t, dir, h)
	h.set(tree(t, nil, "yellow", "1"))
	h.fail <- nil
	r.log.await(t, "watches no longer")
	waitIDs(t, k, yellow, "1")
	restart(t, k)
	waitIDs(t, k, yellow, "1")
}

func TestManagerRunsOnce(t *testing.T) {
	m := NewManager(namespace, newHand(), WithKubeletDir(kubeletDir(t)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if err := m.Run(ctx); err == nil {
		t.Error("second Run = nil, want an error")
	}
}

// An Allocate that is under way when the end comes is answered.
func TestAllocateUnderWayIsAnsweredAtTheEnd(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(entered); <-leave })
	r := run(t, dir, &palette{
		hand: h,
		allocate: func(_ string, devices []string) (*devtree.ContainerEdits, error) {
			if devices[0] == "1" {
				hold()
			}
			return nil, nil
		},
		post: func([]string, *devtree.ContainerEdits) error { return nil },
	})
	h.set(tree(t, nil, "yellow", "1", "2"))
	waitIDs(t, k, yellow, "1", "2")
	answer := make(chan error, 1)
	go func() { _, err := k.Allocate(t.Context(), yellow, []string{"1"}); answer <- err }()
	<-entered
	r.cancel()
	eventually(t, "our socket removed", func() bool { return len(sockets(t, dir)) == 1 })
	eventually(t, "no new Allocate is taken", func() bool {
		_, err := k.Allocate(t.Context(), yellow, []string{"2"})
		return status.Code(err) == codes.Unavailable
	})
	close(leave)
	if err := <-answer; err != nil {
		t.Errorf("Allocate = %v, want an answer", err)
	}
	if err := r.wait(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestPluginThatDoesNotEndIsAnError(t *testing.T) {
	stuckWatch := &stubborn{leave: make(chan struct{})}
	m := NewManager(namespace, stuckWatch, WithKubeletDir(kubeletDir(t)), func(c *config) { c.stopDeadline = 10 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err == nil || !strings.Contains(err.Error(), "Watch does not end") {
		t.Errorf("Run with a Watch that ignores its context = %v", err)
	}
	close(stuckWatch.leave)

	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	m = NewManager(namespace, &palette{hand: h, allocate: func(string, []string) (*devtree.ContainerEdits, error) {
		close(entered)
		<-leave
		return nil, errors.New("too late")
	}}, WithKubeletDir(dir), func(c *config) { c.stopDeadline = 10 * time.Millisecond })
	ctx, cancel = context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	h.set(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	go func() { _, _ = k.Allocate(context.Background(), yellow, []string{"1"}) }()
	<-entered
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "does not end") {
		t.Errorf("Run with an Allocate that does not end = %v", err)
	}
	close(leave)
}

type stubborn struct{ leave chan struct{} }

func (s *stubborn) Watch(context.Context, func(*devtree.Tree)) error {
	<-s.leave
	return nil
}
