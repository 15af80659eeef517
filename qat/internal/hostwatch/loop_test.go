// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/status"
)

// fakeMode is a mode whose keys are the last components of paths. It records what it is asked.
type fakeMode struct {
	host    Host[string]
	closed  bool
	onClose func() // called by Close; nil: nothing

	mu     sync.Mutex // guards all following fields
	calls  []string   // what Reconcile was asked to do
	state  State
	during func()    // called by Reconcile without mu; nil: nothing
	now    time.Time // of the last call
	since  time.Time // the last Batch's Since
	turns  int       // calls at the time now
	spins  func()    // called if the loop spins; nil: nothing
}

// set changes what the next Reconcile does.
func (m *fakeMode) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *fakeMode) Classify(e *events.Event) (string, Verdict) {
	name := string(e.Path[strings.LastIndexByte(string(e.Path), '/')+1:])
	switch name {
	case "other", "pci", "lo":
		return "", Irrelevant
	case "devices":
		return "", RelevantToAll
	}
	return name, Relevant
}

func (m *fakeMode) Reconcile(now time.Time, b *Batch[string]) State {
	m.set(func() {
		if m.turns++; !now.Equal(m.now) {
			m.turns = 0
		}
		m.now, m.since = now, b.Since
	})
	if m.turns == 1000 && m.spins != nil {
		m.spins()
	}
	var parts []string
	if b.All {
		parts = append(parts, "all")
	}
	parts = append(parts, b.Keys...)
	if b.Audit {
		parts = append(parts, fmt.Sprintf("audit mayMissEvents=%v", b.MayMissEvents))
	}
	m.mu.Lock()
	if len(parts) > 0 {
		m.calls = append(m.calls, strings.Join(parts, " "))
	}
	during := m.during
	m.mu.Unlock()
	if during != nil {
		during()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.state
	m.state.Drift = nil // each finding is reported once, as by [Drift.Take]
	return state
}

func (m *fakeMode) Outcome(key string) string { return "handled " + key }

func (m *fakeMode) Snapshot() func(*status.Snapshot, map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := len(m.calls)
	return func(s *status.Snapshot, skipped map[string]string) {
		s.Mode = fmt.Sprintf("%d calls, %d skipped", calls, len(skipped))
	}
}

func (m *fakeMode) Close() {
	m.closed = true
	if m.onClose != nil {
		m.onClose()
	}
}

// take returns the calls since the last take.
func (m *fakeMode) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// loopTest is a running loop with one source, whose kernel is the test's.
type loopTest struct {
	*Loop
	t         *testing.T
	mode      *fakeMode
	kernel    *fakeWriter
	sink      events.Sink
	published []*devtree.Tree
}

// runLoop runs a test on a loop with injected time.
func runLoop(t *testing.T, env fakeEnvironment, config Config, mode *fakeMode, test func(t *testing.T, l *loopTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &loopTest{t: t, mode: mode, kernel: &fakeWriter{}}
		config.Writer = l.kernel
		if config.Sources == nil {
			config.Sources = []func() (events.Source, error){func() (events.Source, error) {
				return sourceFunc(func(ctx context.Context, sink events.Sink) error {
					l.sink = sink
					<-ctx.Done()
					return nil
				}), nil
			}}
		}
		l.Loop = newLoop(config, env)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		mode.spins = func() {
			t.Error("the loop spins")
			cancel()
		}
		newMode := func(_ context.Context, host Host[string]) Mode[string] {
			mode.host = host
			return mode
		}
		go func() {
			defer close(done)
			Run(ctx, l.Loop, newMode, func(tree *devtree.Tree) { l.published = append(l.published, tree) })
		}()
		synctest.Wait()
		test(t, l)
		cancel()
		<-done
		if !mode.closed {
			t.Error("the mode was not closed")
		}
	})
}

func (l *loopTest) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (l *loopTest) event(path string) {
	l.t.Helper()
	e := uevent(l.t, path)
	e.Time = time.Now()
	l.sink.Event(e)
}

func (l *loopTest) answer() {
	l.t.Helper()
	e := uevent(l.t, busPath, "SYNTH_UUID="+l.kernel.uuid(busFile))
	e.Time = time.Now()
	l.sink.Event(e)
	synctest.Wait()
}

func (l *loopTest) wantCalls(want ...string) {
	l.t.Helper()
	if diff := cmp.Diff(want, l.mode.take()); diff != "" {
		l.t.Errorf("Reconcile was asked for (-want +got):\n%s", diff)
	}
}

// during calls do while the loop handles an event of "busy", so that the loop handles what do marks
// in one turn.
func (l *loopTest) during(do func()) {
	l.t.Helper()
	once := sync.OnceFunc(do)
	l.mode.set(func() { l.mode.during = once })
	l.event("/devices/busy")
	synctest.Wait()
}

func completeMode() *fakeMode { return &fakeMode{state: State{Tree: &devtree.Tree{}, Complete: true}} }

func TestLoopReconcilesWhatEventsName(t *testing.T) {
	mode := completeMode()
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		l.answer()
		l.wantCalls("all")
		l.during(func() {
			for _, name := range []string{"a", "other", "b", "a"} {
				l.event("/devices/" + name)
			}
		})
		l.wantCalls("busy", "a b")
		mode.host.Mark("c", time.Now())
		synctest.Wait()
		l.wantCalls("c")
		l.event("/bus/pci/devices")
		synctest.Wait()
		l.wantCalls("all")
		l.during(func() {
			l.sink.Resync("overflow")
			l.event("/devices/a")
		})
		l.wantCalls("busy", "all a")
	})
}

// A mark made while Reconcile runs must not be lost.
func TestMarkDuringReconcileIsHandled(t *testing.T) {
	mode := completeMode()
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		l.answer()
		l.mode.take()
		l.during(func() { mode.host.Mark("b", time.Now()) })
		l.wantCalls("busy", "b")
	})
}

func TestLoopTurnsWhenTheModeAsksFor(t *testing.T) {
	mode := completeMode()
	var turns atomic.Int32
	mode.during = func() {
		next := time.Time{}
		if turns.Add(1) < 3 {
			next = time.Now().Add(time.Minute)
		}
		mode.set(func() { mode.state.Next = next })
	}
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		l.pass(time.Minute - time.Nanosecond)
		if err := l.CheckEventLoop(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := turns.Load(); n != 1 {
			t.Errorf("%d turns before it is due, want 1", n)
		}
		l.pass(24 * time.Hour)
		if n := turns.Load(); n != 3 {
			t.Errorf("%d turns, want 3 and no more", n)
		}
	})
}

func TestOnlyChangedTreesArePublished(t *testing.T) {
	mode := &fakeMode{} // nothing to publish yet
	one := tree(t, "1")
	logged := captureLog(t)
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		if len(l.published) != 0 {
			t.Fatalf("published %v although there is no Tree yet", l.published)
		}
		mode.set(func() { mode.state.Tree = one })
		for range 2 {
			mode.host.Mark("a", time.Now().Add(-time.Second))
			synctest.Wait()
		}
		if !slices.Equal(l.published, []*devtree.Tree{one}) {
			t.Errorf("published %v, want the one Tree once", l.published)
		}
		mode.set(func() { mode.state.Tree = nil })
		mode.host.Mark("a", time.Now())
		synctest.Wait()
		if len(l.published) != 1 {
			t.Errorf("published %v, want nothing for a nil Tree", l.published)
		}
	})
	want := []string{`"List changed" resource="cy" devices=1 healthy=1 after="1s" added=["1"]`}
	if diff := cmp.Diff(want, logged("List changed")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// The threads that send a list must not compete with the log for the CPU.
func TestChangesAreLoggedTogetherAfterTheirLists(t *testing.T) {
	mode := completeMode()
	logged := captureLog(t)
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		publish := func(tree *devtree.Tree, took time.Duration) {
			mode.set(func() { mode.state.Tree = tree })
			mode.host.Mark("a", time.Now().Add(-took))
			synctest.Wait()
		}
		l.pass(logDelay)
		one := tree(t, "1")
		publish(one, 3*time.Microsecond)
		l.pass(logDelay - time.Nanosecond)
		publish(put(t, one, "2"), time.Microsecond)
		if lines := logged("List changed"); len(l.published) != 3 || len(lines) > 0 {
			t.Errorf("%d Trees are published, and %q is logged; want three Trees and nothing", len(l.published), lines)
		}
		l.pass(time.Nanosecond)
		want := []string{`"List changed" resource="cy" devices=2 healthy=2 after="3µs" added=["1","2"]`}
		if diff := cmp.Diff(want, logged("List changed")); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		l.pass(time.Hour)
		publish(put(t, one, "3"), time.Microsecond)
		l.pass(logDelay)
		want = []string{`"List changed" resource="cy" devices=2 healthy=2 after="1µs" added=["3"] removed=["2"]`}
		if diff := cmp.Diff(want, logged("List changed")); diff != "" {
			t.Errorf("log of the next change (-want +got):\n%s", diff)
		}
	})
}

func tree(t *testing.T, ids ...string) *devtree.Tree {
	t.Helper()
	return put(t, nil, ids...)
}

// put returns the Tree with further devices.
func put(t *testing.T, tree *devtree.Tree, ids ...string) *devtree.Tree {
	t.Helper()
	b := tree.Edit()
	for _, id := range ids {
		if err := b.Put("cy", &devtree.Device{ID: id, Health: devtree.Healthy}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

func TestLogNamesEachKindOfChange(t *testing.T) {
	device := func(id string, reason string, node int) *devtree.Device {
		d := &devtree.Device{ID: id, Health: devtree.Healthy, Reason: reason, NUMANodes: []int{node}}
		if reason != "" {
			d.Health = devtree.Unhealthy
		}
		return d
	}
	build := func(from *devtree.Tree, devices ...*devtree.Device) *devtree.Tree {
		b := from.Edit()
		b.Remove("cy", "gone")
		for _, d := range devices {
			if err := b.Put("cy", d); err != nil {
				t.Fatal(err)
			}
		}
		return b.Build()
	}
	old := build(nil, device("gone", "", 0), device("fails", "", 0), device("heals", "x", 0), device("moves", "", 0))
	logged := captureLog(t)
	tree := build(old, device("new", "bad", 0), device("fails", "worse", 0), device("heals", "", 0),
		device("moves", "", 1))
	logChanges(devtree.Diff(old, tree), tree, time.Millisecond)
	want := []string{
		`"List changed" resource="cy" devices=4 healthy=2 after="1ms" added=["new"] removed=["gone"]` +
			` unhealthyNow=["fails","new"] healthyAgain=["heals"] changed=["moves"]`,
		`"Device is unhealthy" resource="cy" device="fails" reason="worse"`,
		`"Device is unhealthy" resource="cy" device="new" reason="bad"`,
	}
	if diff := cmp.Diff(want, logged("")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestAuditsAreMoreFrequentWhileUeventsDoNotArrive(t *testing.T) {
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: time.Hour}, completeMode(), func(t *testing.T, l *loopTest) {
		ctx := t.Context()
		if l.CheckKernelHeard(ctx) == nil || l.CheckFirstLook(ctx) != nil || l.CheckEventLoop(ctx) != nil {
			t.Errorf("kernel-heard %v, first-look %v, event-loop %v; want an error of the first only",
				l.CheckKernelHeard(ctx), l.CheckFirstLook(ctx), l.CheckEventLoop(ctx))
		}
		l.wantCalls("all")
		l.pass(probeTimeout)
		if err := l.CheckKernelHeard(ctx); err == nil || err.Error() != reasonNoAnswer {
			t.Errorf("check = %v, want %q", err, reasonNoAnswer)
		}
		first := l.kernel.uuid(busFile)
		l.pass(frequentAuditInterval)
		l.wantCalls("audit mayMissEvents=true")
		if l.kernel.uuid(busFile) == first {
			t.Error("the probe was not sent again")
		}
		l.answer()
		if err := l.CheckKernelHeard(ctx); err != nil {
			t.Error(err)
		}
		l.pass(time.Hour - time.Nanosecond)
		l.wantCalls()
		l.pass(time.Nanosecond)
		l.wantCalls("audit mayMissEvents=false")
	})
}

func TestLossSendsTheProbeAgain(t *testing.T) {
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: -1}, completeMode(), func(t *testing.T, l *loopTest) {
		first := l.kernel.uuid(busFile)
		l.sink.Resync("overflow")
		synctest.Wait()
		if l.kernel.uuid(busFile) == first {
			t.Fatal("the probe was not sent again")
		}
		l.answer()
		l.pass(time.Hour)
		if err := l.CheckKernelHeard(t.Context()); err != nil {
			t.Errorf("after the answer to the second request: %v", err)
		}
	})
}

func TestHostThatCannotBeReadIsReadAgain(t *testing.T) {
	mode := &fakeMode{}
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		l.wantCalls("all")
		if l.CheckFirstLook(t.Context()) == nil {
			t.Error("the first look is done although the host could not be read")
		}
		mode.set(func() { mode.state.Complete = true })
		l.pass(frequentAuditInterval)
		l.wantCalls("all audit mayMissEvents=true")
		if err := l.CheckFirstLook(t.Context()); err != nil {
			t.Error(err)
		}
		l.pass(time.Hour)
		l.wantCalls()
	})
}

func TestClosedSourceLimitsTheLoop(t *testing.T) {
	closed := func() (events.Source, error) { return nil, errors.New("no") }
	config := Config{AuditInterval: -1, Sources: []func() (events.Source, error){closed}}
	runLoop(t, fakeEnvironment{ordinary: true}, config, completeMode(), func(t *testing.T, l *loopTest) {
		l.wantCalls("all")
		if err := l.CheckKernelHeard(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be opened") {
			t.Errorf("check = %v, want that a source cannot be opened", err)
		}
		l.pass(frequentAuditInterval)
		l.wantCalls("audit mayMissEvents=true")
	})
}

func TestDirectoryThatCannotBeWatchedLimitsTheLoop(t *testing.T) {
	watcher := &scarceWatcher{}
	config := Config{AuditInterval: -1, OpenWatcher: func() (Watcher, error) { return watcher, nil }}
	mode := completeMode()
	mode.during = func() { mode.host.Watches.Want("/a", 1) }
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(t *testing.T, l *loopTest) {
		l.wantCalls("all")
		l.pass(frequentAuditInterval)
		l.wantCalls("audit mayMissEvents=true")
		watcher.available.Store(true) // the next audit tries again
		l.pass(frequentAuditInterval)
		l.wantCalls("audit mayMissEvents=true")
		l.pass(time.Hour)
		l.wantCalls()
	})
}

// scarceWatcher runs until its context ends, and cannot watch a directory until
// watches are available.
type scarceWatcher struct{ available atomic.Bool }

func (*scarceWatcher) Run(ctx context.Context, _ events.Sink) error { <-ctx.Done(); return nil }
func (*scarceWatcher) Unwatch(string)                               {}
func (w *scarceWatcher) Rewatch(dir string) error                   { return w.Watch(dir) }
func (w *scarceWatcher) Watch(string) error {
	if w.available.Load() {
		return nil
	}
	return errors.New("no more watches")
}

func TestCheckEventLoopWaitsForABusyLoop(t *testing.T) {
	mode := completeMode()
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		busy := make(chan struct{})
		mode.set(func() { mode.during = func() { <-busy } })
		l.event("/devices/a")
		time.AfterFunc(2*time.Second, func() { close(busy) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if l.CheckEventLoop(ctx) == nil {
			t.Error("the check of a loop that is busy passes")
		}
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := l.CheckEventLoop(ctx); err != nil {
			t.Errorf("the check of a loop that was busy for a second: %v", err)
		}
	})
}

func TestSkippedDevicesAreLogged(t *testing.T) {
	mode := completeMode()
	mode.state.Skipped = map[string]string{"b": "no driver", "a": "no driver"}
	logged := captureLog(t)
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		l.pass(time.Hour)
	})
	want := []string{`"Not listed" reason="no driver" devices=["a","b"]`}
	if diff := cmp.Diff(want, logged("Not listed")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestEventsAreLoggedWithTheirOutcome(t *testing.T) {
	logged := captureLog(t)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", "4"); err != nil {
		t.Fatal(err)
	}
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: -1}, completeMode(), func(t *testing.T, l *loopTest) {
		l.answer()
		l.event("/devices/a")
		l.event("/devices/other")
		synctest.Wait()
	})
	want := []string{
		`"Event" source="uevent" action="change" device="uevent probe" path="/bus/pci"` +
			` ledTo="proof that uevents arrive"`,
		`"Event" source="uevent" action="change" device="a" path="/devices/a" ledTo="handled a"`,
		`"Event" source="uevent" action="change" device="" path="/devices/other" ledTo="not a QAT device"`,
	}
	if diff := cmp.Diff(want, logged(`"Event"`)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestEventsBeyondTheTraceLimitAreCounted(t *testing.T) {
	logged := captureLog(t)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", "4"); err != nil {
		t.Fatal(err)
	}
	config, mode := Config{AuditInterval: -1}, completeMode()
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(_ *testing.T, l *loopTest) {
		l.during(func() {
			for range traceLimit + 5 {
				l.event("/devices/a")
			}
		})
	})
	want := []string{`"More events arrived than could be logged" events=5`}
	if diff := cmp.Diff(want, logged("More events")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestSinceIsTheFirstCauseOfABatch(t *testing.T) {
	mode := completeMode()
	runLoop(t, fakeEnvironment{ordinary: true}, Config{AuditInterval: -1}, mode, func(t *testing.T, l *loopTest) {
		wantSince := func(what string, want time.Time) {
			t.Helper()
			synctest.Wait()
			mode.mu.Lock()
			defer mode.mu.Unlock()
			if !mode.since.Equal(want) {
				t.Errorf("%s: since %v, want %v", what, mode.since, want)
			}
		}
		start := time.Now()
		l.during(func() {
			mode.host.Mark("a", start.Add(-time.Second))
			mode.host.Mark("b", start.Add(-2*time.Second))
		})
		wantSince("marks", start.Add(-2*time.Second))
		l.during(func() {
			l.sink.Resync("overflow")
			time.Sleep(time.Second)
		})
		time.Sleep(2 * time.Second)
		wantSince("Resync", start)
		mode.set(func() { mode.state.Next = start.Add(time.Minute) })
		mode.host.Mark("a", time.Now())
		wantSince("mark", time.Now())
		mode.set(func() { mode.state.Next = time.Time{} })
		time.Sleep(time.Until(start.Add(time.Minute)))
		wantSince("timer", start.Add(time.Minute))
	})
}

func TestRunWaitsForItsSources(t *testing.T) {
	var ended atomic.Bool
	source := func() (events.Source, error) {
		return sourceFunc(func(ctx context.Context, _ events.Sink) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended.Store(true)
			return nil
		}), nil
	}
	mode := completeMode()
	config := Config{AuditInterval: -1, Sources: []func() (events.Source, error){source}}
	mode.onClose = func() {
		if !ended.Load() {
			t.Error("the mode is closed while a source runs")
		}
	}
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(*testing.T, *loopTest) {})
}

func TestAuditsThatAreFrequentAnywayStayAsTheyAre(t *testing.T) {
	mode := &fakeMode{}
	config := Config{AuditInterval: frequentAuditInterval / 3}
	runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(_ *testing.T, l *loopTest) {
		l.wantCalls("all")
		l.pass(frequentAuditInterval)
		l.wantCalls("all audit mayMissEvents=true", "all audit mayMissEvents=true", "all audit mayMissEvents=true")
	})
}

func TestAuditIsCancelledWhenItIsNoLongerNeeded(t *testing.T) {
	runLoop(t, fakeEnvironment{}, Config{AuditInterval: -1}, completeMode(), func(_ *testing.T, l *loopTest) {
		l.pass(probeTimeout + time.Second)
		l.answer()
		l.pass(time.Hour)
		l.wantCalls("all")
	})
}

func TestDriftCounts(t *testing.T) {
	logged := captureLog(t)
	var d Drift
	d.Report(true, "device", "a")
	d.Report(false, "device", "b")
	want := []string{`"Drift: something changed and no event reported it" device="b" total=2`}
	if diff := cmp.Diff(want, logged("")); diff != "" || d.Total() != 2 {
		t.Errorf("total %d, want 2; log (-want +got):\n%s", d.Total(), diff)
	}
}

func TestEarlier(t *testing.T) {
	never, first, second := time.Time{}, time.Unix(1, 0), time.Unix(2, 0)
	for _, tt := range []struct{ a, b, want time.Time }{
		{never, never, never},
		{first, never, first},
		{never, first, first},
		{first, second, first},
		{second, first, first},
	} {
		if got := Earlier(tt.a, tt.b); !got.Equal(tt.want) {
			t.Errorf("Earlier(%v, %v) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// intMode classifies without allocating, as a mode must.
type intMode struct{ fakeMode }

func (*intMode) Classify(*events.Event) (int, Verdict)      { return 1, Relevant }
func (*intMode) Reconcile(time.Time, *Batch[int]) (s State) { return s }
func (*intMode) Outcome(int) string                         { return "" }

// Event runs in the goroutine that reads a socket.
func TestMarkingAnEventDoesNotAllocate(t *testing.T) {
	s := &session[int]{
		loop:    newLoop(Config{Writer: &fakeWriter{}}, fakeEnvironment{}),
		mode:    &intMode{},
		mailbox: events.NewMailbox[mark[int]](mailboxLimit),
	}
	s.loop.probe.send(time.Now())
	for _, path := range []string{"/devices/a", busPath, loPath} {
		e := uevent(t, path)
		if n := testing.AllocsPerRun(100, func() { s.Event(e); s.mailbox.Take(&s.marks) }); n > 0 {
			t.Errorf("an event of %s allocates %v times, want 0", path, n)
		}
	}
}
