// SPDX-License-Identifier: Apache-2.0

package nodeevents

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qatplugin/internal/status"
	"qatplugin/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	pfA = "0000:6b:00.0"
	pfB = "0000:70:00.0"
)

// A fakeSource is a Source whose snapshot a test sets.
type fakeSource struct {
	journal *status.Journal

	mu       sync.Mutex // guards the following fields
	snapshot *status.Snapshot
	looks    int // calls of Snapshot
}

func (f *fakeSource) Journal() *status.Journal { return f.journal }

func (f *fakeSource) Snapshot(context.Context) *status.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return f.snapshot
}

// set sets the snapshot, without a record in the journal.
func (f *fakeSource) set(s *status.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot = s
}

// lookCount returns the number of calls of Snapshot.
func (f *fakeSource) lookCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks
}

// A fakeServer keeps Events, or fails.
type fakeServer struct {
	t *testing.T

	mu       sync.Mutex // guards the following fields
	err      error      // what each request returns
	requests int
	events   map[string]event
	log      []string // what was done since the last call of take
}

func (f *fakeServer) create(_ context.Context, e *event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	if f.err != nil {
		return f.err
	}
	if _, ok := f.events[e.Metadata.Name]; ok {
		f.t.Errorf("the Event %s is created twice", e.Metadata.Name)
	}
	f.events[e.Metadata.Name] = *e
	f.log = append(f.log, e.Type+" "+e.Reason+": "+e.Note)
	return nil
}

func (f *fakeServer) repeat(_ context.Context, name string, s series) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	if f.err != nil {
		return f.err
	}
	e, ok := f.events[name]
	if !ok {
		return &refusal{code: 404, text: "not found"}
	}
	f.log = append(f.log, fmt.Sprintf("%s %s ×%d", e.Type, e.Reason, s.Count))
	return nil
}

func (f *fakeServer) setErr(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// state returns the number of requests, and the Events.
func (f *fakeServer) state() (requests int, events map[string]event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests, maps.Clone(f.events)
}

// rig is a running Reporter.
type rig struct {
	t      *testing.T
	source *fakeSource
	server *fakeServer
}

// run runs a test with a Reporter in a bubble, on a node without problems.
func run(t *testing.T, test func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{
			t:      t,
			source: &fakeSource{journal: status.NewJournal(10), snapshot: &status.Snapshot{}},
			server: &fakeServer{t: t, events: map[string]event{}},
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { newReporter(r.source, r.server, "worker-1", "qat.intel.com/device-plugin").Run(ctx) })
		defer running.Wait()
		defer cancel()
		r.after(time.Minute)
		test(r)
	})
}

// becomes sets the snapshot, and records something in the journal.
func (r *rig) becomes(s *status.Snapshot) {
	r.source.set(s)
	r.source.journal.Append()
}

// after lets time pass, and compares what was done at the server meanwhile.
func (r *rig) after(d time.Duration, want ...string) {
	r.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	if diff := cmp.Diff(want, r.server.log); diff != "" {
		r.t.Errorf("Events after %v (-want +got)\n%s", d, diff)
	}
	r.server.log = nil
}

// snapshot returns one with two PFs, of which some are unhealthy.
func snapshot(unhealthy ...string) *status.Snapshot {
	s := &status.Snapshot{Loops: []status.Loop{{Name: "devices"}}}
	for _, address := range []string{pfA, pfB} {
		pf := status.PF{Address: address, Family: "4xxx", VFs: 16, Health: status.Healthy}
		for _, u := range unhealthy {
			if u == address {
				pf.Health, pf.Reason = status.Unhealthy, "failed its heartbeat"
			}
		}
		s.PFs = append(s.PFs, pf)
	}
	return s
}

const (
	warningA = "Warning QATDeviceUnhealthy: QAT device 0000:6b:00.0 (4xxx) failed its heartbeat; " +
		"its 16 VFs are unhealthy"
	normalA  = "Normal QATDeviceHealthy: QAT device 0000:6b:00.0 (4xxx) is healthy again"
	warningB = "Warning QATDeviceUnhealthy: QAT device 0000:70:00.0 (4xxx) failed its heartbeat; " +
		"its 16 VFs are unhealthy"
)

func TestUnhealthyPFIsReportedUntilItIsHealthy(t *testing.T) {
	run(t, func(r *rig) {
		r.becomes(snapshot(pfA))
		r.after(unhealthyTime)
		r.after(2*minInterval, warningA)
		r.after(repeatAfter, "Warning QATDeviceUnhealthy ×2")
		r.becomes(snapshot(pfA, pfB))
		r.after(time.Minute, warningB)
		r.becomes(snapshot(pfB))
		r.after(2*minInterval, normalA)
		s := snapshot(pfB)
		s.PFs = s.PFs[:1]
		r.becomes(s)
		r.after(2*minInterval, "Normal QATDeviceHealthy: QAT device 0000:70:00.0 is gone")
		r.after(24 * time.Hour)
	})
}

func TestAPFThatIsTakenDownForProvisioningIsNoProblem(t *testing.T) {
	run(t, func(r *rig) {
		s := snapshot(pfA)
		s.PFs[0].State, s.PFs[0].Reason, s.PFs[0].Withdrawn = "down", "is down", "its services change"
		r.becomes(s)
		r.after(time.Hour)
		s = snapshot(pfA)
		s.PFs[0].State, s.PFs[0].Reason, s.PFs[0].VFs = "down", "is down", 0
		r.becomes(s)
		r.after(time.Minute, "Warning QATDeviceUnhealthy: QAT device 0000:6b:00.0 (4xxx) is down")
	})
}

// A PF that is down for provisioning says nothing about whether its problem is over.
func TestAReportedPFThatIsTakenDownForProvisioningIsNotHealthyAgain(t *testing.T) {
	run(t, func(r *rig) {
		r.becomes(snapshot(pfA))
		r.after(10*time.Second, warningA)
		s := snapshot(pfA)
		s.PFs[0].State, s.PFs[0].Reason, s.PFs[0].Withdrawn = "down", "is down", "its services change"
		r.becomes(s)
		r.after(10 * time.Second)
		r.becomes(snapshot())
		r.after(10*time.Second, normalA)
	})
}

func TestEventOfAPF(t *testing.T) {
	run(t, func(r *rig) {
		r.becomes(snapshot(pfA))
		r.after(time.Minute, warningA)
		_, events := r.server.state()
		if len(events) != 1 {
			t.Fatalf("%d Events", len(events))
		}
		for name, e := range events {
			if !strings.HasPrefix(name, "worker-1.") || e.Metadata.Namespace != "default" ||
				e.Regarding != (objectReference{"v1", "Node", "worker-1", "worker-1"}) ||
				e.Instance != "worker-1" || e.Action != "CheckingHealth" || e.APIVersion != "events.k8s.io/v1" {
				t.Errorf("Event %+v", e)
			}
			if age := time.Since(time.Time(e.EventTime)); age < 0 || age > time.Minute {
				t.Errorf("the time of the Event is %v ago", age)
			}
		}
	})
}

func TestShortProblemsAreNotReported(t *testing.T) {
	run(t, func(r *rig) {
		for range 10 {
			r.becomes(snapshot(pfA))
			r.after(unhealthyTime - 2*minInterval)
			r.becomes(snapshot())
			r.after(time.Minute)
		}
	})
}

func TestAProblemThatComesBackIsCounted(t *testing.T) {
	run(t, func(r *rig) {
		r.becomes(snapshot(pfA))
		r.after(time.Minute, warningA)
		r.becomes(snapshot())
		r.after(time.Minute, normalA)
		for n := 2; n <= 4; n++ {
			r.becomes(snapshot(pfA))
			r.after(time.Minute, fmt.Sprintf("Warning QATDeviceUnhealthy ×%d", n))
			r.becomes(snapshot())
			r.after(time.Minute, fmt.Sprintf("Normal QATDeviceHealthy ×%d", n))
		}
		r.after(2 * time.Hour) // the Events have expired
		r.becomes(snapshot(pfA))
		r.after(time.Minute, warningA)
	})
}

func TestAnExpiredEventIsCreatedAgain(t *testing.T) {
	run(t, func(r *rig) {
		r.becomes(snapshot(pfA))
		r.after(time.Minute, warningA)
		r.server.mu.Lock()
		clear(r.server.events)
		r.server.mu.Unlock()
		r.after(repeatAfter, warningA)
	})
}

func TestVFsThatCannotBeBoundMakeOneEvent(t *testing.T) {
	run(t, func(r *rig) {
		s := snapshot()
		for n := 1; n <= 16; n++ {
			s.VFs = append(s.VFs, status.VF{
				Address: fmt.Sprintf("0000:6b:%02x.%d", n/8, n%8), PF: pfA, State: status.StateSkipped,
				Class: status.ClassBindFailed, Reason: fmt.Sprintf("bind attempt %d failed", n),
			})
		}
		// These are as they should be, or recover by themselves.
		s.VFs = append(s.VFs,
			status.VF{Address: "0000:70:00.1", PF: pfB, State: status.StateListed},
			status.VF{Address: "0000:70:00.2", PF: pfB, State: status.StateUnhealthy, Reason: "its PF is down"},
			status.VF{Address: "0000:70:00.3", PF: pfB, State: status.StateBinding},
			status.VF{Address: "0000:70:00.4", PF: pfB, State: status.StateSkipped, Class: status.ClassLimit},
			status.VF{Address: "0000:70:00.5", PF: pfB, State: status.StateSkipped, Class: status.ClassOtherDriver},
		)
		r.becomes(s)
		r.after(lastingTime - minInterval)
		r.after(3*minInterval, "Warning QATDevicesNotBound: 16 QAT VFs of 0000:6b:00.0 cannot be offered to pods, "+
			"such as 0000:6b:00.1: bind attempt 1 failed")
		r.becomes(snapshot())
		r.after(2*minInterval, "Normal QATDevicesBound: The QAT VFs of 0000:6b:00.0 that could not be offered to pods "+
			"are offered, or are skipped for another reason")
	})
}

// The journal does not record that uevents are missing.
func TestMissingUeventsAreReported(t *testing.T) {
	run(t, func(r *rig) {
		s := snapshot()
		s.Loops = []status.Loop{
			{Name: "devices", Uevents: "the kernel has not answered"},
			{Name: "provisioning", Uevents: "x"},
		}
		r.source.set(s)
		r.after(lastingTime+2*maxInterval, "Warning QATUeventsNotReceived: The QAT device plugin does not receive "+
			"kernel uevents, and reads the host at intervals instead: the kernel has not answered")
		r.source.set(snapshot())
		r.after(maxInterval, "Normal QATUeventsReceived: The QAT device plugin receives kernel uevents")
	})
}

// Pods run without their devices if the runtime ignores claims, and nothing else says so.
func TestRuntimeWithoutCDIIsReported(t *testing.T) {
	run(t, func(r *rig) {
		s := snapshot()
		s.DRA = &status.DRA{RuntimeErr: "containerd 1.6.38 ignores the CDI devices of claims"}
		s.Loops = []status.Loop{{Name: "devices", Uevents: "the kernel has not answered"}}
		r.becomes(s)
		r.after(unhealthyTime+2*minInterval, "Warning QATRuntimeIgnoresClaims: The QAT devices of this node are not "+
			"offered: containerd 1.6.38 ignores the CDI devices of claims")
		r.after(lastingTime+2*maxInterval, "Warning QATUeventsNotReceived: The QAT DRA driver does not receive "+
			"kernel uevents, and reads the host at intervals instead: the kernel has not answered")
		s = snapshot()
		s.DRA = &status.DRA{}
		r.becomes(s)
		r.after(maxInterval,
			"Normal QATRuntimeSupportsClaims: The container runtime gives containers the QAT devices of their claims",
			"Normal QATUeventsReceived: The QAT DRA driver receives kernel uevents")
	})
}

func TestRequestsAreLimited(t *testing.T) {
	run(t, func(r *rig) {
		s := snapshot()
		for n := range 1000 {
			s.PFs = append(s.PFs, status.PF{Address: fmt.Sprintf("%04x:00:00.0", n), Health: status.Unhealthy})
		}
		r.becomes(s)
		time.Sleep(time.Minute)
		synctest.Wait()
		n, _ := r.server.state()
		if most := burst + int(time.Minute/sendInterval); n < burst || n > most {
			t.Errorf("%d requests in a minute, want %d to %d", n, burst, most)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, events := r.server.state(); len(events) != maxProblems {
			n := len(events)
			t.Errorf("%d Events for 1000 problems, want %d", n, maxProblems)
		}
	})
}

func TestFailedRequestsAreRepeatedWithBackOff(t *testing.T) {
	log := testlog.Capture(t)
	run(t, func(r *rig) {
		r.server.setErr(errors.New("connection refused"))
		r.becomes(snapshot(pfA))
		time.Sleep(time.Hour)
		synctest.Wait()
		// 2 s, 4 s, ... 256 s, then one in five minutes.
		if n, _ := r.server.state(); n < 15 || n > 20 {
			t.Errorf("%d requests in an hour, want about 18", n)
		}
		r.server.setErr(nil)
		r.after(maxRetry+maxInterval, warningA)
		want := `"Cannot report a Kubernetes Event, trying again; docs/install.md says what it needs" ` +
			`err="connection refused"`
		if lines := log(); len(lines) != 2 || !strings.HasPrefix(lines[0], want) ||
			lines[1] != `"Reporting Kubernetes Events again"` {
			t.Errorf("log %q", lines)
		}
	})
}

func TestTheServerCanAskToWait(t *testing.T) {
	run(t, func(r *rig) {
		r.server.setErr(&refusal{code: 429, text: "too many requests", retryIn: time.Minute})
		r.becomes(snapshot(pfA))
		r.after(unhealthyTime + 2*minInterval)
		r.server.setErr(nil)
		r.after(50 * time.Second)
		r.after(15*time.Second, warningA)
	})
}

func TestInvalidEventsAreDropped(t *testing.T) {
	run(t, func(r *rig) {
		r.server.setErr(&refusal{code: 422, text: "invalid"})
		r.becomes(snapshot(pfA))
		r.after(10 * time.Minute)
		if n, _ := r.server.state(); n != 1 {
			t.Errorf("%d requests, want one that is dropped", n)
		}
		r.server.setErr(nil)
		r.becomes(snapshot(pfA, pfB))
		r.after(time.Minute, warningB)
	})
}

// Whether an attempt without an answer has created the Event is unknown, so the next one must
// have the same name.
func TestAnEventHasOneNameForAllAttempts(t *testing.T) {
	run(t, func(r *rig) {
		server := &lossyServer{fakeServer: r.server}
		reporter := newReporter(r.source, server, "worker-1", "qat.intel.com/device-plugin")
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { reporter.Run(ctx) })
		defer running.Wait()
		defer cancel()
		r.source.set(snapshot(pfA))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		server.mu.Lock()
		defer server.mu.Unlock()
		names := server.names
		if len(names) != 3 {
			t.Fatalf("%d attempts", len(names))
		}
		for _, name := range names {
			if name != names[0] {
				t.Errorf("attempts with the names %q", names)
			}
		}
	})
}

// A lossyServer loses its first two answers.
type lossyServer struct {
	*fakeServer
	names []string // of all attempts
}

func (l *lossyServer) create(_ context.Context, e *event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = append(l.names, e.Metadata.Name)
	if len(l.names) < 3 {
		return context.DeadlineExceeded
	}
	return nil
}

func TestAQuietNodeCostsLittle(t *testing.T) {
	run(t, func(r *rig) {
		before := r.source.lookCount()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n, most := r.source.lookCount()-before, int(time.Hour/maxInterval)+1; n > most {
			t.Errorf("%d looks in a quiet hour, want %d at most", n, most)
		}
		before = r.source.lookCount()
		for range 600 { // a storm
			r.source.journal.Append()
			time.Sleep(100 * time.Millisecond)
		}
		if n, most := r.source.lookCount()-before, int(time.Minute/minInterval)+1; n > most {
			t.Errorf("%d looks in a minute with 600 changes, want %d at most", n, most)
		}
	})
}

func TestNotesAreShort(t *testing.T) {
	if got := truncate("abcä", 4); got != "abc" {
		t.Errorf("truncate = %q, want no part of a character", got)
	}
	run(t, func(r *rig) {
		s := snapshot()
		s.PFs[0].Health, s.PFs[0].Reason = status.Unhealthy, strings.Repeat("ä", maxNote)
		r.becomes(s)
		time.Sleep(time.Minute)
		synctest.Wait()
		_, events := r.server.state()
		for _, e := range events {
			if len(e.Note) > maxNote || len(e.Note) < maxNote-2 {
				t.Errorf("a note of %d bytes", len(e.Note))
			}
		}
		if len(events) != 1 {
			t.Errorf("%d Events", len(events))
		}
	})
}
