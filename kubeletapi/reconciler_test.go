// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/kubeletapi/kubelettest"
)

// awaitWake waits until the reconciler is woken, for example because Register has returned.
func awaitWake(t testing.TB, r *reconciler) {
	t.Helper()
	select {
	case <-r.manager.wake:
	case <-time.After(testTimeout):
		t.Fatal("the reconciler is not woken")
	}
}

// wantPause checks a pause that may be shortened by up to one half.
func wantPause(t testing.TB, what string, got, want time.Duration) {
	t.Helper()
	if got < want/2 || got > want {
		t.Errorf("%s: pause %v, want %v to %v", what, got, want/2, want)
	}
}

func TestUpdatePhaseSchedulesNextAttempt(t *testing.T) {
	now := time.Now()
	refused := errors.New("no")
	c := config{
		backOffMin:    time.Minute,
		backOffMax:    time.Hour,
		streamTimeout: 10 * time.Second,
		gracePeriod:   time.Second,
	}
	short := c
	short.backOffMin, short.backOffMax = time.Millisecond, time.Millisecond
	for _, tt := range []struct {
		name           string
		config         config
		state          registrationState
		lastPause      time.Duration
		socketReplaced bool // after the attempt started
		want           Phase
		never          bool          // no further attempt is due
		from           time.Time     // what pause is measured from
		pause          time.Duration // shortened by up to one half
		exact          bool          // pause is not shortened
	}{
		{name: "still registering", config: c, want: PhaseRegistering, from: now, pause: time.Hour, exact: true},
		{
			name:   "first failure",
			config: c,
			state:  registrationState{answered: true, err: refused, ended: now.Add(-time.Second)},
			want:   PhaseFailed,
			from:   now,
			pause:  time.Minute,
		},
		{
			name:      "later failure",
			config:    c,
			state:     registrationState{answered: true, err: refused, ended: now.Add(-time.Second)},
			lastPause: 4 * time.Minute,
			want:      PhaseFailed,
			from:      now,
			pause:     8 * time.Minute,
		},
		{
			name:   "no stream yet",
			config: c,
			state:  registrationState{answered: true, ended: now.Add(-time.Second)},
			want:   PhaseRegistered,
			from:   now.Add(-time.Second),
			pause:  c.streamTimeout,
			exact:  true,
		},
		{
			name:      "stream open",
			config:    c,
			state:     registrationState{answered: true, streams: 1, opened: now},
			lastPause: 4 * time.Minute,
			want:      PhaseWatching,
			never:     true,
		},
		{
			name:      "short stream ended",
			config:    c,
			state:     registrationState{answered: true, opened: now.Add(-time.Minute), ended: now.Add(-time.Second)},
			lastPause: 4 * time.Minute,
			want:      PhaseLost,
			from:      now.Add(-time.Second),
			pause:     8 * time.Minute,
		},
		{
			name:      "long stream ended",
			config:    c,
			state:     registrationState{answered: true, opened: now.Add(-2 * time.Hour), ended: now.Add(-time.Second)},
			lastPause: 4 * time.Minute,
			want:      PhaseLost,
			from:      now.Add(-time.Second),
			pause:     time.Minute,
		},
		{
			name:   "stream ended and the back-off is shorter than the grace period",
			config: short,
			state:  registrationState{answered: true, opened: now.Add(-time.Minute), ended: now.Add(-time.Second)},
			want:   PhaseLost,
			from:   now.Add(-time.Second),
			pause:  c.gracePeriod,
			exact:  true,
		},
		{
			name:   "stream ended after the socket disappeared",
			config: c,
			state:  registrationState{answered: true, opened: now.Add(-time.Minute), ended: now.Add(-time.Second)},

			socketReplaced: true,
			want:           PhaseLost,
			from:           now,
			exact:          true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.state.reason = errors.New("the kubelet ended the stream")
			s := &service{registration: &registration{state: tt.state}, log: klog.Logger{}}
			e := newEndpoint(s, "", tt.config, func() {})
			t.Cleanup(e.stop)
			e.phase, e.startedAt, e.listenedAt = PhaseRegistering, now.Add(-time.Hour), now.Add(-2*time.Hour)
			e.retryAt, e.registerBackOff.Last = now.Add(time.Hour), tt.lastPause
			if tt.socketReplaced {
				e.listenedAt = now
			}
			e.updatePhase(now)
			if e.phase != tt.want {
				t.Errorf("phase %s, want %s", e.phase, tt.want)
			}
			switch pause := e.retryAt.Sub(tt.from); {
			case tt.never:
				if !e.retryAt.IsZero() {
					t.Errorf("next attempt at %v, want never", e.retryAt)
				}
			case tt.exact:
				if pause != tt.pause {
					t.Errorf("pause %v, want %v", pause, tt.pause)
				}
			default:
				wantPause(t, "next attempt", pause, tt.pause)
			}
		})
	}
}

func TestRegisterBackOffRestartsWithNewKubelet(t *testing.T) {
	dir := kubeletDir(t)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		return errors.New("no")
	}))
	r, m, _ := newTestReconciler(t, dir, withBackOff(time.Minute, time.Hour))
	m.publish(tree(t, nil, "yellow", "1"))
	<-r.manager.wake
	r.reconcile(t.Context(), true)
	now := time.Now()
	e := r.endpoints[0]
	fail := func(what string, want time.Duration) {
		t.Helper()
		awaitWake(t, r)
		next := e.reconcile(t.Context(), r.kubeletSock, now, false)
		wantPause(t, what, next.Sub(now), want)
		if got := e.reconcile(t.Context(), r.kubeletSock, next.Add(-1), false); !got.Equal(next) {
			t.Errorf("%s: next attempt at %v and then at %v", what, next, got)
		}
		now = next
	}
	fail("first failure", time.Minute)
	e.reconcile(t.Context(), r.kubeletSock, now, false)
	fail("second failure", 2*time.Minute)
	e.reconcile(t.Context(), r.kubeletSock, now, false)
	fail("third failure", 4*time.Minute)
	restart(t, k)
	r.findKubelet()
	e.reconcile(t.Context(), r.kubeletSock, now, false)
	fail("first failure with the new kubelet", time.Minute)
}

func TestNoAttemptStartsWhileOneIsInProgress(t *testing.T) {
	dir := kubeletDir(t)
	var calls atomic.Int32
	startKubelet(t, dir, kubelettest.OnRegister(func(ctx context.Context, _ *pluginapi.RegisterRequest) error {
		if calls.Add(1) > 1 {
			<-ctx.Done()
		}
		return errors.New("no")
	}))
	r, m, _ := newTestReconciler(t, dir, withBackOff(time.Minute, time.Hour))
	m.publish(tree(t, nil, "yellow", "1"))
	<-r.manager.wake
	r.reconcile(t.Context(), true)
	awaitWake(t, r)
	e := r.endpoints[0]
	e.reconcile(t.Context(), r.kubeletSock, time.Now(), false)                  // sees the failure
	e.reconcile(t.Context(), r.kubeletSock, time.Now().Add(time.Minute), false) // starts the second attempt
	started := e.startedAt
	next := e.reconcile(t.Context(), r.kubeletSock, time.Now().Add(time.Hour), false)
	if !next.IsZero() || e.startedAt != started {
		t.Errorf("third attempt at %v or next at %v, want none", e.startedAt, next)
	}
}

func TestKubeletThatDoesNotListenYetIsNoErrorAtFirst(t *testing.T) {
	dir := kubeletDir(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, kubeletSocket)}); err != nil {
		t.Fatal(err)
	}
	r, m, log := newTestReconciler(t, dir, withBackOff(time.Minute, time.Hour))
	m.publish(tree(t, nil, "yellow", "1"))
	<-r.manager.wake
	r.reconcile(t.Context(), true)
	now := time.Now()
	for attempt, wantErrors := range []int{0, 1, 1} {
		awaitWake(t, r)
		if status.Code(r.endpoints[0].service.registration.current().err) != codes.Unavailable {
			t.Fatalf("attempt %d: %v, want Unavailable", attempt, r.endpoints[0].service.registration.current().err)
		}
		now = r.endpoints[0].reconcile(t.Context(), r.kubeletSock, now, false) // sees the failure
		r.endpoints[0].reconcile(t.Context(), r.kubeletSock, now, false)       // starts the next attempt
		if n := log.count("Cannot register"); n != wantErrors || log.count("not ready") != 1 {
			t.Errorf("%d errors after attempt %d, want %d:\n%s", n, attempt, wantErrors, log)
		}
	}
	awaitWake(t, r)
}

func TestListenBackOffRestartsAfterSuccess(t *testing.T) {
	dir := kubeletDir(t)
	startKubelet(t, dir)
	path := socketOf(dir, "yellow")
	block := func() {
		t.Helper()
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, m, log := newTestReconciler(t, dir, withBackOff(time.Minute, time.Hour), noComparison)
	m.publish(tree(t, nil, "yellow", "1"))
	block()
	start := time.Now()
	next := r.reconcile(t.Context(), true)
	if pause := next.Sub(start); pause < 30*time.Second || pause > 2*time.Minute {
		t.Errorf("first failure: pause %v", pause)
	}
	e, now := r.endpoints[0], next
	if got := e.reconcile(t.Context(), r.kubeletSock, next.Add(-1), false); !got.Equal(next) {
		t.Errorf("before the pause is over: next attempt at %v, want %v", got, next)
	}
	next = e.reconcile(t.Context(), r.kubeletSock, now, false)
	wantPause(t, "second failure", next.Sub(now), 2*time.Minute)
	if n := log.count("Cannot serve the resource"); n != 1 {
		t.Errorf("%d log lines of the same error, want 1:\n%s", n, log)
	}

	remove(t, path)
	e.reconcile(t.Context(), r.kubeletSock, now, true)
	if !e.socket.Exists() {
		t.Fatal("a change of the directory does not end the pause")
	}
	remove(t, path)
	block()
	next = e.reconcile(t.Context(), r.kubeletSock, now, false)
	wantPause(t, "first failure after a success", next.Sub(now), time.Minute)
	if n := log.count("Cannot serve the resource"); n != 2 {
		t.Errorf("%d log lines of the error after a success, want 2:\n%s", n, log)
	}
	remove(t, path)
}

func TestReconcileReturnsEarliestDeadline(t *testing.T) {
	dir := kubeletDir(t)
	startKubelet(t, dir)
	r, m, _ := newTestReconciler(t, dir, withBackOff(time.Minute, time.Hour), noComparison)
	m.publish(tree(t, tree(t, tree(t, nil, "yellow", "1"), "blue", "1"), "green", "1"))
	for _, resource := range []string{"yellow", "blue"} {
		if err := os.WriteFile(socketOf(dir, resource), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := r.reconcile(t.Context(), true)
	earliest := time.Time{}
	for _, e := range r.endpoints {
		if !e.listenAt.IsZero() && (earliest.IsZero() || e.listenAt.Before(earliest)) {
			earliest = e.listenAt
		}
	}
	if len(r.endpoints) != 3 || earliest.IsZero() || !next.Equal(earliest) {
		t.Errorf("next %v with %d endpoints, want %v with 3", next, len(r.endpoints), earliest)
	}
}

// TestGracePeriodFollowsEndOfStream checks that the kubelet has time to handle the end of
// its stream. It removes whatever client the resource then has, so a registration at once
// would be lost, and the devices unhealthy.
func TestGracePeriodFollowsEndOfStream(t *testing.T) {
	dir := kubeletDir(t)
	k := startKubelet(t, dir)
	r, m, _ := newTestReconciler(t, dir)
	m.publish(tree(t, nil, "yellow", "1"))
	r.reconcile(t.Context(), true)
	waitIDs(t, k, yellow, "1")
	eventually(t, "registered", func() bool { return r.reconcile(t.Context(), false).Equal(r.compareAt) })
	ended := time.Now()
	k.Disconnect(yellow)
	var next time.Time
	eventually(t, "end of the stream noticed", func() bool {
		next = r.reconcile(t.Context(), false)
		return !next.Equal(r.compareAt)
	})
	if pause := next.Sub(ended); pause < 100*time.Millisecond {
		t.Errorf("next attempt %v after the end of the stream, want at least 100ms", pause)
	}
}

func TestNoGracePeriodIfStreamAndSocketAreLost(t *testing.T) {
	hour := func(c *config) { c.gracePeriod = time.Hour }
	for _, tt := range []struct {
		name  string
		steps func(t *testing.T, k *kubelettest.Kubelet, r *runningManager, path string)
	}{
		{"stream first", func(t *testing.T, k *kubelettest.Kubelet, r *runningManager, path string) {
			k.Disconnect(yellow)
			r.log.await(t, "no longer follows the list")
			waitList(t, k, yellow, "end of the stream", func(l kubelettest.List) bool { return !l.Live })
			remove(t, path)
		}},
		{"socket first", func(t *testing.T, k *kubelettest.Kubelet, _ *runningManager, path string) {
			old := fileIDOf(t, path)
			remove(t, path)
			waitReplaced(t, path, old)
			k.Disconnect(yellow)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := kubeletDir(t), newFakePlugin()
			var calls atomic.Int32
			k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
				calls.Add(1)
				return nil
			}))
			r := run(t, dir, p, hour)
			p.publish(tree(t, nil, "yellow", "1"))
			waitIDs(t, k, yellow, "1")
			r.log.await(t, "Registered with the kubelet")
			tt.steps(t, k, r, socketOf(dir, "yellow"))
			eventually(t, "second registration", func() bool { return calls.Load() == 2 })
		})
	}
}

func TestClosedWatchIsDropped(t *testing.T) {
	for range 10 { // in any order of its two channels
		r, _, log := newTestReconciler(t, kubeletDir(t))
		r.reconcile(t.Context(), true)
		r.watch.Close()
		for r.watch != nil {
			r.wait(t.Context(), time.Now().Add(testTimeout))
		}
		if log.count("Cannot watch the kubelet's directory") != 1 {
			t.Errorf("the log does not mention it:\n%s", log)
		}
	}
}

func TestLostEventsKeepTheWatch(t *testing.T) {
	r, _, log := newTestReconciler(t, kubeletDir(t))
	r.reconcile(t.Context(), true)
	waitFor := func(err error) (changed bool) {
		failures := r.watch.Errors
		go func() { failures <- err }()
		return r.wait(t.Context(), time.Now().Add(testTimeout))
	}
	if changed := waitFor(fsnotify.ErrEventOverflow); !changed || r.watch == nil {
		t.Fatalf("after lost events: directory changed %t, watch %v, want true and the watch", changed, r.watch)
	}
	if changed := waitFor(errors.New("broken")); !changed || r.watch != nil || log.count("broken") != 1 {
		t.Errorf("after another error: directory changed %t, watch %v, want true and no watch:\n%s",
			changed, r.watch, log)
	}
}
