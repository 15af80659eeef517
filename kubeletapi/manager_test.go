// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

func TestRunStopsCleanly(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	r := run(t, dir, p, func(c *config) { c.flushTimeout = time.Hour }) // nothing needs to be broken off
	p.publish(tree(t, tree(t, nil, "yellow", "1"), "blue", "x"))
	waitIDs(t, k, yellow, "1")
	waitIDs(t, k, blue, "x")
	start := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Run took %v to return", took)
	}
	if got, want := sockets(t, dir), []string{"kubelet.sock"}; !slices.Equal(got, want) {
		t.Errorf("sockets = %q, want %q", got, want)
	}
	eventually(t, "as few descriptors and goroutines as before", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
}

func TestRunStopsDespiteBlockedStream(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p)
	trees := toggledTrees(t, 1024)
	p.publish(trees[0])
	waitList(t, k, yellow, "1024 devices", func(l kubelettest.List) bool { return len(l.Devices) == 1024 })
	blocked := openStream(t, dir, "yellow")
	for i := range 50 {
		p.publish(trees[i%2])
		want := [2]string{"Healthy", "Unhealthy"}[i%2]
		waitList(t, k, yellow, want, func(l kubelettest.List) bool { return l.Devices[512].Health == want })
	}
	start := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Run took %v to return", took)
	}
	for {
		if _, err := blocked.stream.Recv(); err != nil {
			break
		}
	}
}

func TestWatchErrorEndsRun(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	fire := errors.New("on fire")
	m := NewManager(namespace, p, WithKubeletDir(dir))
	done := make(chan error, 1)
	go func() { done <- m.Run(klog.NewContext(t.Context(), logr.Discard())) }()
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	p.result <- fire
	select {
	case err := <-done:
		if !errors.Is(err, fire) || !strings.Contains(err.Error(), namespace) {
			t.Errorf("Run = %v, want an error that wraps %q and contains %q", err, fire, namespace)
		}
	case <-time.After(testTimeout):
		t.Fatal("Run does not return")
	}
	if got, want := sockets(t, dir), []string{"kubelet.sock"}; !slices.Equal(got, want) {
		t.Errorf("sockets = %q, want %q", got, want)
	}
}

func TestLastTreeIsServedAfterWatchReturns(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	p.result <- nil
	r.log.await(t, "Watch returned")
	waitIDs(t, k, yellow, "1")
	restart(t, k)
	waitIDs(t, k, yellow, "1")
}

func TestRunMayBeCalledOnce(t *testing.T) {
	m := NewManager(namespace, newFakePlugin(), WithKubeletDir(kubeletDir(t)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if err := m.Run(ctx); err == nil {
		t.Error("second Run = nil, want an error")
	}
}

func TestRunRejectsInvalidSettings(t *testing.T) {
	in := func(dir string) []Option { return []Option{WithKubeletDir(dir), nil} }
	good := kubeletDir(t)
	for name, tt := range map[string]struct {
		namespace string
		plugin    Plugin
		options   []Option
		want      string
	}{
		"namespace":       {"Color.example.com", newFakePlugin(), in(good), "must be a DNS name"},
		"no plugin":       {namespace, nil, in(good), "the Plugin is nil"},
		"empty directory": {namespace, newFakePlugin(), in(""), `kubelet directory "": must be a path, such as /var`},
		"long directory": {
			namespace, newFakePlugin(), in("/" + strings.Repeat("d", 84)), `ddd" has 85 bytes: at most 84 are allowed`,
		},
		"empty CDI directory": {
			namespace, newFakePlugin(), append(in(good), WithCDI("", "paint")), `CDI directory "": must be a path`,
		},
		"CDI class": {
			namespace, newFakePlugin(), append(in(good), WithCDI(good, "a b")), `CDI class "a b": `,
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // a Run that accepts the settings returns nil
			err := NewManager(tt.namespace, tt.plugin, tt.options...).Run(ctx)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestRelativeKubeletDir(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	t.Chdir(filepath.Dir(dir))
	k := startKubelet(t, dir)
	run(t, filepath.Base(dir), p)
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	t.Chdir("/") // the directory of Run counts
	restart(t, k)
	waitIDs(t, k, yellow, "1")
}

// TestAllocateIsAnsweredWhileRunStops checks that a call that is in progress when Run
// stops is answered, and that no further call is accepted.
func TestAllocateIsAnsweredWhileRunStops(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	wait := sync.OnceFunc(func() {
		close(entered)
		<-leave
	})
	r := run(t, dir, &fullPlugin{
		fakePlugin: p,
		allocate: func(_ string, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
			if devices[0].ID == "1" {
				wait()
			}
			return nil, nil
		},
	})
	p.publish(tree(t, nil, "yellow", "1", "2"))
	waitIDs(t, k, yellow, "1", "2")
	answer := make(chan error, 1)
	go func() {
		_, err := k.Allocate(t.Context(), yellow, []string{"1"})
		answer <- err
	}()
	<-entered
	r.cancel()
	eventually(t, "our socket removed", func() bool { return len(sockets(t, dir)) == 1 })
	eventually(t, "further calls rejected", func() bool {
		_, err := k.Allocate(t.Context(), yellow, []string{"2"})
		return status.Code(err) == codes.Unavailable
	})
	r.log.await(t, "the device plugin is stopping")
	if r.log.count("Call failed") > 0 {
		t.Errorf("a call that the end of the plugin rejects is logged as an error:\n%s", r.log)
	}
	close(leave)
	if err := <-answer; err != nil {
		t.Errorf("Allocate = %v, want an answer", err)
	}
	if err := r.wait(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

// TestPreStartContainerGetsItsTimeWhileRunStops checks that a PreStartContainer call is answered
// even if it takes longer than the timeout of other calls when Run ends.
func TestPreStartContainerGetsItsTimeWhileRunStops(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	r := run(t, dir, &fullPlugin{fakePlugin: p, preStart: func([]string) error {
		close(entered)
		<-leave
		return nil
	}}, func(c *config) { c.stopTimeout, c.flushTimeout = 100*time.Millisecond, time.Millisecond })
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	answer := make(chan error, 1)
	go func() { answer <- k.PreStartContainer(t.Context(), yellow, []string{"1"}) }()
	<-entered
	r.cancel()
	select {
	case <-time.After(2 * r.config.stopTimeout):
	case <-r.done:
		t.Errorf("Run = %v before PreStartContainer returned", r.err)
	}
	close(leave)
	if err := <-answer; err != nil {
		t.Errorf("PreStartContainer = %v, want an answer", err)
	}
}

func TestPluginMethodThatDoesNotReturnIsAnError(t *testing.T) {
	shortStop := func(c *config) { c.stopTimeout = 10 * time.Millisecond }
	watch := stuckWatch(make(chan struct{}))
	m := NewManager(namespace, watch, WithKubeletDir(kubeletDir(t)), shortStop)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err == nil || !strings.Contains(err.Error(), "Watch does not return") {
		t.Errorf("Run with a Watch that ignores its context = %v", err)
	}
	close(watch)

	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	plugin := &fullPlugin{fakePlugin: p}
	plugin.allocate = func(string, []*devtree.Device) (*devtree.ContainerEdits, error) {
		close(entered)
		<-leave
		return nil, errors.New("too late")
	}
	m = NewManager(namespace, plugin, WithKubeletDir(dir), shortStop)
	ctx, cancel = context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	go func() { _, _ = k.Allocate(context.Background(), yellow, []string{"1"}) }()
	<-entered
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "PreStartContainer does not return") {
		t.Errorf("Run with an Allocate that does not return = %v", err)
	}
	close(leave)
}

// TestWatchErrorIsLoggedAtOnce checks that the log contains the error of Watch while a method of
// the plugin still delays the end of Run.
func TestWatchErrorIsLoggedAtOnce(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	plugin := &fullPlugin{fakePlugin: p}
	plugin.allocate = func(string, []*devtree.Device) (*devtree.ContainerEdits, error) {
		close(entered)
		<-leave
		return nil, nil
	}
	log := newLogRecorder()
	m := NewManager(namespace, plugin, WithKubeletDir(dir), func(c *config) { c.stopTimeout = time.Hour })
	done := make(chan error, 1)
	go func() { done <- m.Run(klog.NewContext(t.Context(), log.logger())) }()
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	go func() { _, _ = k.Allocate(context.Background(), yellow, []string{"1"}) }()
	<-entered
	p.result <- errors.New("on fire")
	log.await(t, "on fire")
	close(leave)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("Run = %v, want the error of Watch", err)
	}
}

// TestWatchErrorIsReportedBesideStopError checks that Run reports why it ended, although
// a method of the plugin does not return.
func TestWatchErrorIsReportedBesideStopError(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	entered, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	plugin := &fullPlugin{fakePlugin: p}
	plugin.allocate = func(string, []*devtree.Device) (*devtree.ContainerEdits, error) {
		close(entered)
		<-leave
		return nil, errors.New("too late")
	}
	m := NewManager(namespace, plugin, WithKubeletDir(dir), func(c *config) { c.stopTimeout = 10 * time.Millisecond })
	done := make(chan error, 1)
	go func() { done <- m.Run(klog.NewContext(t.Context(), logr.Discard())) }()
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	go func() { _, _ = k.Allocate(context.Background(), yellow, []string{"1"}) }()
	<-entered
	fire := errors.New("on fire")
	p.result <- fire
	if err := <-done; !errors.Is(err, fire) || !strings.Contains(err.Error(), "PreStartContainer does not return") {
		t.Errorf("Run = %v, want both errors", err)
	}
}

type stuckWatch chan struct{}

func (s stuckWatch) Watch(context.Context, func(*devtree.Tree)) error {
	<-s
	return nil
}

// awaitRegistered waits until CheckRegistered returns an error that contains want, or nil
// if want is empty.
func (r *runningManager) awaitRegistered(want string) {
	r.t.Helper()
	eventually(r.t, "CheckRegistered returns "+want, func() bool {
		err := r.CheckRegistered(context.Background())
		return want == "" && err == nil || want != "" && err != nil && strings.Contains(err.Error(), want)
	})
}

func TestCheckRegisteredNamesResourceAndReason(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	var refuse atomic.Bool
	r := run(t, dir, p, fastRetries)
	missing := "kubelet.sock not found in " + dir
	r.awaitRegistered(missing) // without a resource
	yellowOnly := tree(t, nil, "yellow", "1")
	p.publish(yellowOnly)
	r.awaitRegistered(missing)

	k := startKubelet(t, dir, kubelettest.OnRegister(func(_ context.Context, request *pluginapi.RegisterRequest) error {
		if refuse.Load() && request.ResourceName == blue {
			return errors.New("not blue")
		}
		return nil
	}))
	r.awaitRegistered("")

	refuse.Store(true)
	p.publish(tree(t, yellowOnly, "blue", "1"))
	r.awaitRegistered("not blue")
	if err := r.CheckRegistered(t.Context()); err != nil && strings.Contains(err.Error(), yellow) {
		t.Errorf("yellow, which is registered, is named: %v", err)
	}
	refuse.Store(false)
	r.awaitRegistered("")

	k.Stop()
	r.awaitRegistered(missing)
	p.publish(yellowOnly.Edit().Build())
	r.awaitRegistered(missing)
	restart(t, k)
	r.awaitRegistered("")
}

func TestCheckRegisteredWithoutDevices(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	startKubelet(t, dir)
	r := run(t, dir, p)
	r.awaitRegistered("")
	p.publish(tree(t, nil, "yellow"))
	r.awaitRegistered("")
}

// TestResourceThatCannotBeServedIsReadyWithoutDevices checks that a resource whose socket cannot be
// created makes the Manager unready only while it has devices.
func TestResourceThatCannotBeServedIsReadyWithoutDevices(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	if err := os.WriteFile(socketOf(dir, "yellow"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, p)
	now := tree(t, tree(t, nil, "yellow", "1"), "blue", "1")
	p.publish(now)
	waitIDs(t, k, blue, "1")
	r.awaitRegistered(yellow)
	p.publish(tree(t, now, "yellow"))
	r.awaitRegistered("")
}
