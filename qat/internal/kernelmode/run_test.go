// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bytes"
	"context"
	"io"
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
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/sysfs"
)

// deadline is far beyond what anything here takes. It keeps a broken test from hanging.
const deadline = 20 * time.Second

// options are what tests vary. The zero value runs the fake adf_ctl, and
// delivers no events but those of testRun.sink.
type options struct {
	audit   time.Duration // 0: never
	status  func(context.Context) ([]byte, error)
	sources []func() (events.Source, error)
	watcher func() (hostwatch.Watcher, error)
	held    bool // the first run of status waits for testRun.release
}

// withUevents and withInotify each suffice to follow the devices.
func withUevents(h *testHost) options {
	source := sourceFunc(func(ctx context.Context, sink events.Sink) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case message := <-h.uevents:
				e := events.Event{Time: time.Now()}
				if err := events.ParseUevent(&e, message); err != nil {
					return err
				}
				sink.Event(&e)
			}
		}
	})
	open := func() (events.Source, error) { return source, nil }
	return options{sources: []func() (events.Source, error){open}}
}

func withInotify(*testHost) options {
	return options{watcher: func() (hostwatch.Watcher, error) { return events.NewWatcher() }}
}

// A testRun is one call of hostwatch.Run with the mode.
type testRun struct {
	*testHost
	t    testing.TB
	loop *hostwatch.Loop
	mode *mode       // to be read after stop
	sink events.Sink // delivers an event to the loop
	stop func()

	runs    atomic.Int32  // of options.status
	gate    chan struct{} // holds a token while runs of options.status may end
	state   atomic.Pointer[hostwatch.State]
	tree    atomic.Pointer[devtree.Tree] // published last
	changed chan struct{}                // holds a signal after a Tree was published
}

// start runs the mode until the test ends.
func start(t testing.TB, h *testHost, o options) *testRun {
	t.Helper()
	r := &testRun{testHost: h, t: t, changed: make(chan struct{}, 1), gate: make(chan struct{}, 1)}
	if !o.held {
		r.release()
	}
	cfg := Config{Sysfs: h.Sysfs(), Dev: h.Dev(), Etc: h.etc, ADFCtl: h.program(), ADFCtlTimeout: time.Hour}
	if o.audit == 0 {
		o.audit = -1
	}
	opened := make(chan struct{})
	collector := sourceFunc(func(ctx context.Context, sink events.Sink) error {
		r.sink = sink
		close(opened)
		<-ctx.Done()
		return nil
	})
	r.loop = hostwatch.New(hostwatch.Config{
		Sysfs:         h.Sysfs(),
		Writer:        sysfs.NewWriter(h.Sysfs(), true),
		Sources:       append(o.sources, func() (events.Source, error) { return collector, nil }),
		OpenWatcher:   o.watcher,
		AuditInterval: o.audit,
	})
	newMode := func(ctx context.Context, host hostwatch.Host[Key]) hostwatch.Mode[Key] {
		r.mode = New(ctx, cfg, host).(*mode)
		if o.status != nil {
			r.mode = newMode(ctx, cfg, host, func(ctx context.Context) ([]byte, error) {
				r.runs.Add(1)
				text, err := o.status(ctx)
				select {
				case <-ctx.Done():
				case <-r.gate:
					r.gate <- struct{}{}
				}
				return text, err
			})
		}
		return &recorder{mode: r.mode, state: &r.state}
	}
	publish := func(tree *devtree.Tree) {
		r.tree.Store(tree)
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		hostwatch.Run(ctx, r.loop, newMode, publish)
	}()
	<-opened
	r.stop = sync.OnceFunc(func() {
		cancel()
		receive(t, ended)
	})
	t.Cleanup(r.stop)
	return r
}

// hold keeps runs of options.status from ending until release.
func (r *testRun) hold()    { <-r.gate }
func (r *testRun) release() { r.gate <- struct{}{} }

// A recorder is a mode whose last State can be read from any goroutine.
type recorder struct {
	*mode
	state *atomic.Pointer[hostwatch.State]
}

func (r *recorder) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	s := r.mode.Reconcile(now, b)
	r.state.Store(&s)
	return s
}

// inBubble runs a test of the mode in a synctest bubble, on a host with one
// device that is up. status, if not nil, replaces what adf_ctl answers; run
// counts from 1, and text is what the host would answer.
func inBubble(
	t *testing.T, audit time.Duration, status func(run int, text string) (string, error),
	test func(t *testing.T, r *testRun, d *testDevice),
) {
	t.Helper()
	h, d := newHostWithDevice(t)
	synctest.Test(t, func(t *testing.T) {
		runs := 0 // there is one run at a time
		r := start(t, h, options{audit: audit, status: func(context.Context) ([]byte, error) {
			runs++
			text := h.statusText()
			if status == nil {
				return []byte(text), nil
			}
			text, err := status(runs, text)
			return []byte(text), err
		}})
		synctest.Wait()
		test(t, r, d)
		r.stop()
	})
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// wrote delivers the event of a file that was written.
func (r *testRun) wrote(name string) {
	e := events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte(name), Time: time.Now()}
	r.sink.Event(&e)
}

// uevent delivers a uevent.
func (r *testRun) uevent(message string) {
	r.t.Helper()
	e := uevent(r.t, message)
	e.Time = time.Now()
	r.sink.Event(e)
}

func (r *testRun) expectRuns(want int, when string) {
	r.t.Helper()
	synctest.Wait()
	if got := int(r.runs.Load()); got != want {
		r.t.Errorf("adf_ctl ran %d times %s, want %d", got, when, want)
	}
}

// expectUnits checks the units of cy1_dc0.
func (r *testRun) expectUnits(want ...string) {
	r.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(append([]string{}, want...), units(r.tree.Load())["cy1_dc0"]); diff != "" {
		r.t.Errorf("units (-want +got):\n%s", diff)
	}
}

func (r *testRun) skipped() map[string]string { return r.state.Load().Skipped }

func (r *testRun) expectSkipped(want map[string]string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.skipped()); diff != "" {
		r.t.Errorf("skipped (-want +got):\n%s", diff)
	}
}

// becomes waits until the published Tree has these units.
func (r *testRun) becomes(want map[string][]string) {
	r.t.Helper()
	for timeout := time.After(deadline); ; {
		tree := r.tree.Load()
		if tree != nil && cmp.Equal(want, units(tree)) {
			return
		}
		select {
		case <-r.changed:
		case <-timeout:
			diff := cmp.Diff(want, units(tree))
			r.t.Fatalf("units after %v (-want +got):\n%s\nskipped: %v", deadline, diff, r.skipped())
		}
	}
}

// units maps each resource of a Tree to its units, unhealthy ones with the reason.
func units(tree *devtree.Tree) map[string][]string {
	m := map[string][]string{}
	if tree == nil {
		return m
	}
	for r := range tree.Resources() {
		m[r.Name()] = []string{}
		for d := range r.Devices() {
			id := d.ID
			if d.Health == devtree.Unhealthy {
				id += ": " + d.Reason
			}
			m[r.Name()] = append(m[r.Name()], id)
		}
	}
	return m
}

// receive waits for a value.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(deadline):
		t.Fatalf("nothing came within %v", deadline)
		panic("unreachable")
	}
}

// sourceFunc is a source as a function.
type sourceFunc func(ctx context.Context, sink events.Sink) error

func (f sourceFunc) Run(ctx context.Context, sink events.Sink) error { return f(ctx, sink) }

// captureLog keeps what is logged until the test ends. The returned function
// gives the lines that contain a text, without their header.
func captureLog(t *testing.T) func(text string) []string {
	t.Helper()
	var log bytes.Buffer
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &log) // receives errors, too
	return func(text string) (lines []string) {
		klog.Flush()
		for line := range strings.Lines(log.String()) {
			if _, line, ok := strings.Cut(strings.TrimSpace(line), "] "); ok && strings.Contains(line, text) {
				lines = append(lines, line)
			}
		}
		return lines
	}
}
