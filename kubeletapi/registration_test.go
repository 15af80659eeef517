// SPDX-License-Identifier: Apache-2.0

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

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/kubeletapi/kubelettest"
)

func TestRefusedRegistrationIsRetriedAndLoggedOnce(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	var calls atomic.Int32
	var refuse atomic.Bool
	refuse.Store(true)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		n := calls.Add(1)
		switch {
		case !refuse.Load():
			return nil
		case n > 10:
			return errors.New("not you")
		}
		return errors.New("not now")
	}))
	r := run(t, dir, p, fastRetries)
	now := tree(t, nil, "yellow", "1")
	p.publish(now)
	eventually(t, "20 attempts", func() bool { return calls.Load() >= 20 })
	refuse.Store(false)
	waitIDs(t, k, yellow, "1")
	r.log.await(t, "Registered")
	for _, text := range []string{"not now", "not you"} {
		if n := r.log.count(text); n != 1 {
			t.Errorf("%q is in the log %d times, want once", text, n)
		}
	}
	p.publish(tree(t, now, "blue", "1")) // so that the reconciler sees that yellow is followed
	waitIDs(t, k, blue, "1")
	refuse.Store(true) // after a success, the same error is logged again
	restart(t, k)
	r.log.awaitCount(t, `not you" "resource"="`+yellow, 2)
}

func TestHangingRegistrationTimesOut(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, r *pluginapi.RegisterRequest) error {
		if r.ResourceName == yellow && calls.Add(1) <= 2 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}))
	r := run(t, dir, p, fastRetries, func(c *config) { c.registerTimeout = 50 * time.Millisecond })
	p.publish(tree(t, tree(t, nil, "yellow", "1"), "blue", "x"))
	waitIDs(t, k, blue, "x") // does not wait for yellow
	waitIDs(t, k, yellow, "1")
	r.log.await(t, "DeadlineExceeded")
}

func TestHangingRegistrationDoesNotDelayStop(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	called := make(chan struct{}, 1)
	startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
		called <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	r := run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	<-called
	start := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Run took %v to return", took)
	}
}

// TestNewKubeletDoesNotWaitForHangingRegistration checks that a new kubelet is registered
// with at once, although the registration with the previous one has not timed out.
func TestNewKubeletDoesNotWaitForHangingRegistration(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	called := make(chan struct{}, 1)
	var restarted atomic.Bool
	k := startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
		if restarted.Load() {
			return nil
		}
		called <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	run(t, dir, p, func(c *config) { c.registerTimeout = time.Hour })
	p.publish(tree(t, nil, "yellow", "1"))
	<-called
	restarted.Store(true)
	restart(t, k)
	waitIDs(t, k, yellow, "1")
}

func TestKubeletThatAcceptsNoConnections(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	l, err := net.Listen("unix", filepath.Join(dir, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := run(t, dir, p, fastRetries, func(c *config) { c.registerTimeout = 20 * time.Millisecond })
	p.publish(tree(t, nil, "yellow", "1"))
	r.log.await(t, "Cannot register")
	l.Close()
	waitIDs(t, startKubelet(t, dir), yellow, "1")
}

func TestRegistrationWithoutListAndWatchIsRetried(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if calls.Add(1) <= 2 {
			return kubelettest.ErrIgnore
		}
		return nil
	}))
	r := run(t, dir, p, func(c *config) { c.streamTimeout = 10 * time.Millisecond })
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	if n := r.log.count("does not call ListAndWatch"); n != 1 {
		t.Errorf("%d log lines about it, want 1", n)
	}
}

func TestManagerWaitsForKubelet(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	r := run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	r.log.await(t, "Waiting for the kubelet's socket")
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("sockets %q without a kubelet, want none", got)
	}
	waitIDs(t, startKubelet(t, dir), yellow, "1")
	if n := r.log.count("restarted"); n != 0 {
		t.Error("the first start of the kubelet is logged as a restart")
	}
}

func TestFileInPlaceOfKubeletSocketIsNoKubelet(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	path := filepath.Join(dir, kubeletSocket)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	r.log.await(t, "Waiting for the kubelet's socket")
	remove(t, path)
	waitIDs(t, startKubelet(t, dir), yellow, "1")
}

// TestChmodOfKubeletSocketIsNotARestart checks that a chmod of kubelet.sock, which also changes
// its ctime, does not cause resources to register again.
func TestChmodOfKubeletSocketIsNotARestart(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p)
	now := tree(t, nil, "yellow", "1")
	p.publish(now)
	waitIDs(t, k, yellow, "1")
	old := ctime(t, k.Socket())
	eventually(t, "another ctime", func() bool { // the clock of the file system is coarse
		return os.Chmod(k.Socket(), 0o666) == nil && ctime(t, k.Socket()) != old
	})
	p.publish(tree(t, now, "blue", "1")) // so that the reconciler has looked at kubelet.sock
	waitIDs(t, k, blue, "1")
	if n := len(k.Registrations()); n != 2 || r.log.count("restarted") != 0 {
		t.Errorf("%d registrations, want one for each resource:\n%s", n, r.log)
	}
}

func ctime(t testing.TB, path string) unix.Timespec {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ctim
}

func TestAbandonedRegistrationIsCanceled(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	var calls atomic.Int32
	canceled := make(chan struct{})
	k := startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, r *pluginapi.RegisterRequest) error {
		if calls.Add(1) > 1 {
			return nil
		}
		// A kubelet that is about to connect to a socket that disappears would retry only
		// after a second, or hang.
		if err := os.Remove(filepath.Join(dir, r.Endpoint)); err != nil {
			t.Error(err)
		}
		select {
		case <-ctx.Done():
			close(canceled)
		case <-time.After(testTimeout):
		}
		return errors.New("too late")
	}))
	run(t, dir, p, func(c *config) { c.registerTimeout = time.Hour })
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
	select {
	case <-canceled:
	case <-time.After(testTimeout):
		t.Error("the registration is still in progress")
	}
	if got := calls.Load(); got != 2 {
		t.Errorf("%d registrations, want 2", got)
	}
}

// TestSocketReplacedAfterKubeletConnected checks that a connected kubelet, even one that has not
// answered yet, is not registered with again: it no longer needs the socket's file.
func TestSocketReplacedAfterKubeletConnected(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	connected, replaced := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if calls.Add(1) == 1 {
			close(connected)
			<-replaced
		}
		return nil
	}))
	run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	<-connected
	openStream(t, dir, "yellow").until(t, "1") // in place of the kubelet's stream
	path := socketOf(dir, "yellow")
	old := fileIDOf(t, path)
	remove(t, path)
	waitReplaced(t, path, old)
	openStream(t, dir, "yellow").until(t, "1") // so the reconciler has seen the new socket
	close(replaced)
	waitIDs(t, k, yellow, "1")
	if got := calls.Load(); got != 1 {
		t.Errorf("%d registrations, want 1", got)
	}
}

func TestRegistrationIgnoresOlderAttempts(t *testing.T) {
	r := &registration{wake: make(signal, 1)}
	first := r.reset()
	closeOld := r.openStream()
	second := r.reset()
	r.complete(first, nil)
	if got := r.current(); got != (registrationState{}) {
		t.Errorf("state of the new attempt = %+v, want zero", got)
	}
	closeNew := r.openStream()
	if len(r.wake) != 0 {
		t.Error("an older attempt woke the reconciler")
	}
	r.complete(second, nil)
	if len(r.wake) != 1 {
		t.Error("the answer did not wake the reconciler")
	}
	<-r.wake
	closeOld(nil)
	if got := r.current().phase(); got != PhaseWatching || len(r.wake) != 0 {
		t.Errorf("after an older stream ended: phase %s, wake %d, want %s, 0", got, len(r.wake), PhaseWatching)
	}
	closeSecond := r.openStream()
	closeSecond(nil)
	if got := r.current().phase(); got != PhaseWatching || len(r.wake) != 0 {
		t.Errorf("after one of two streams ended: phase %s, wake %d, want %s, 0", got, len(r.wake), PhaseWatching)
	}
	before := time.Now()
	closeNew(errors.New("broken pipe"))
	if got := r.current(); got.phase() != PhaseLost || got.ended.Before(before) || len(r.wake) != 1 {
		t.Errorf("after the last stream ended: %+v, wake %d, want phase %s, wake 1", got, len(r.wake), PhaseLost)
	}
}

func TestRegistrationPhases(t *testing.T) {
	opened := time.Unix(1, 0)
	refused, late := errors.New("no"), status.Error(codes.DeadlineExceeded, "")
	for _, tt := range []struct {
		name    string
		state   registrationState
		want    Phase
		wantErr string // part of what check returns
	}{
		{"Register in progress", registrationState{}, PhaseRegistering, "has not answered"},
		{
			"Register in progress, stream open",
			registrationState{streams: 1, opened: opened}, PhaseRegistering, "has not answered",
		},
		{"refused", registrationState{answered: true, err: refused}, PhaseFailed, "refuses the registration: no"},
		{
			"refused, stream of another client open",
			registrationState{answered: true, err: refused, streams: 1, opened: opened},
			PhaseFailed, "refuses the registration: no",
		},
		{"answered", registrationState{answered: true}, PhaseRegistered, "does not call ListAndWatch"},
		{"stream open", registrationState{answered: true, streams: 1, opened: opened}, PhaseWatching, ""},
		{
			"answered late, stream open",
			registrationState{answered: true, err: late, streams: 1, opened: opened}, PhaseWatching, "",
		},
		{"answered late", registrationState{answered: true, err: late}, PhaseFailed, "refuses the registration: "},
		{
			"stream ended", registrationState{answered: true, opened: opened, reason: errors.New("broken pipe")},
			PhaseLost, "no longer follows the list: broken pipe",
		},
	} {
		if got := tt.state.phase(); got != tt.want {
			t.Errorf("%s: phase %s, want %s", tt.name, got, tt.want)
		}
		err := tt.state.check()
		if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("%s: check = %v, want %q", tt.name, err, tt.wantErr)
		}
	}
}
