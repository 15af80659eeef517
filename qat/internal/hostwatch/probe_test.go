// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
)

// fakeWriter records the probe's requests.
type fakeWriter struct {
	dry bool
	err error

	mu    sync.Mutex // guards all following fields
	files []string
	uuids map[string]string // file → UUID of the last request
}

// uuid returns the UUID that was last written to a file.
func (w *fakeWriter) uuid(file string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.uuids[file]
}

func (w *fakeWriter) DryRun() bool { return w.dry }
func (w *fakeWriter) Write(name, value string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = append(w.files, name)
	uuid, ok := strings.CutPrefix(value, "change ")
	if !ok {
		return errors.New("not a change: " + value)
	}
	if w.uuids == nil {
		w.uuids = map[string]string{}
	}
	w.uuids[name] = uuid
	return w.err
}

// probeTest is a probe whose kernel and clock are the test's.
type probeTest struct {
	*probe
	t      *testing.T
	kernel *fakeWriter
	now    time.Time
}

func newProbeTest(t *testing.T, env fakeEnvironment) *probeTest {
	w := &fakeWriter{}
	p := newProbe("/sys", w, env)
	return &probeTest{t: t, probe: p, kernel: w, now: time.Unix(1000, 0)}
}

func (p *probeTest) start() { p.send(p.now) }

func (p *probeTest) pass(d time.Duration) {
	p.now = p.now.Add(d)
	p.turn(p.now)
}

// answer delivers the kernel's event (lib/kobject_uevent.c, kobject_synth_uevent).
func (p *probeTest) answer(path, uuid string) bool {
	p.t.Helper()
	e := uevent(p.t, path, "SYNTH_UUID="+uuid)
	e.Time = p.now
	return p.isAnswer(e)
}

func (p *probeTest) answerBus() bool { return p.answer(busPath, p.kernel.uuid(busFile)) }
func (p *probeTest) answerLo() bool  { return p.answer(loPath, p.kernel.uuid(loFile)) }

func TestProbeResult(t *testing.T) {
	both := func(p *probeTest) { p.answerLo(); p.answerBus() }
	bus := func(p *probeTest) { p.answerBus() }
	received := probeResult{status: receiving}
	silent, userNamespace := probeResult{notReceiving, reasonNoAnswer}, probeResult{notReceiving, reasonUserNamespace}
	for name, tt := range map[string]struct {
		env    fakeEnvironment
		dry    bool
		answer func(p *probeTest)
		want   probeResult
	}{
		"host": {answer: both, want: received},
		"pod with the host's sysfs": {
			env:    fakeEnvironment{ownNetwork: true},
			answer: bus,
			want:   received,
		},
		"pod with its own sysfs": {
			env:    fakeEnvironment{ownNetwork: true},
			answer: both,
			want:   probeResult{notReceiving, reasonForeignSysfs},
		},
		"user namespace":            {env: fakeEnvironment{userNamespace: true}, want: userNamespace},
		"no answer":                 {want: silent},
		"only lo answers":           {answer: func(p *probeTest) { p.answerLo() }, want: silent},
		"answer to another process": {answer: func(p *probeTest) { p.answer(busPath, newUUID()) }, want: silent},
		"parts of sysfs": {
			env:  fakeEnvironment{partial: true},
			want: probeResult{notReceiving, reasonPartialSysfs},
		},
		"old kernel": {
			env:  fakeEnvironment{old: true},
			want: probeResult{unproven, "cannot request a uevent from the kernel: it is older than 4.13"},
		},
		"old kernel in a user namespace": {
			env:  fakeEnvironment{old: true, userNamespace: true},
			want: userNamespace,
		},
		"ordinary directory needs no request": {
			env:  fakeEnvironment{ordinary: true, userNamespace: true},
			want: received,
		},
		"dry run": {dry: true, want: probeResult{unproven, "a dry run does not request a uevent"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProbeTest(t, tt.env)
			p.kernel.dry = tt.dry
			p.start()
			if tt.answer != nil {
				tt.answer(p)
			}
			p.pass(probeTimeout)
			if p.result != tt.want {
				t.Errorf("result %+v, want %+v", p.result, tt.want)
			}
			mayMiss := tt.want.status != receiving
			if p.mayMissEvents() != mayMiss {
				t.Errorf("mayMissEvents() = %v, want %v", p.mayMissEvents(), mayMiss)
			}
			if err := p.check(); (err != nil) != (tt.want.status == notReceiving) {
				t.Errorf("check() = %v; want an error only if uevents do not arrive", err)
			}
			if retry := p.next(); retry.IsZero() != (!mayMiss || tt.dry) {
				t.Errorf("next() = %v; want a retry only if uevents may not arrive, and not in a dry run", retry)
			}
		})
	}
}

func TestFailedWriteIsNoProof(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.kernel.err = errors.New("read-only file system")
	p.start()
	want := probeResult{unproven, "cannot request a uevent from the kernel: read-only file system"}
	if p.result != want {
		t.Errorf("result %+v, want %+v", p.result, want)
	}
	logged := captureLog(t)
	p.pass(0)
	p.pass(probeRetry) // which fails like the first
	p.pass(0)
	if lines := logged(""); len(lines) != 1 || !strings.Contains(lines[0], "Cannot verify") {
		t.Errorf("logged %q, want once that uevents cannot be verified", lines)
	}
	p.environment = fakeEnvironment{userNamespace: true}
	p.pass(probeRetry)
	if want = (probeResult{notReceiving, reasonUserNamespace}); p.result != want {
		t.Errorf("in a user namespace: result %+v, want %+v", p.result, want)
	}
}

func TestAnswerAfterFailedWriteIsLogged(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.kernel.err = errors.New("read-only file system")
	p.start()
	p.pass(0)
	logged := captureLog(t)
	p.kernel.err = nil
	p.pass(probeRetry)
	p.answerBus()
	p.pass(0)
	if diff := cmp.Diff([]string{`"Receiving kernel uevents now"`}, logged("")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestProbeWaitsForTheTimeout(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.start()
	p.pass(probeTimeout - time.Nanosecond)
	if p.result.status != probePending || p.mayMissEvents() || p.check() == nil {
		t.Errorf("result %+v, may miss %v, check %v; want pending, false, an error",
			p.result, p.mayMissEvents(), p.check())
	}
	p.pass(time.Nanosecond)
	if p.result.status != notReceiving {
		t.Errorf("result %+v, want notReceiving", p.result)
	}
}

func TestProbeResultIsLoggedOnce(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	logged := captureLog(t)
	var got [][]string
	for _, step := range []func(){
		func() { p.start(); p.pass(0) },
		func() { p.pass(probeTimeout) },
		func() { p.pass(time.Second); p.pass(probeRetry); p.pass(probeTimeout); p.pass(probeRetry) },
		func() { p.answerBus(); p.pass(0); p.pass(time.Second) },
		func() { p.start(); p.answerBus(); p.pass(0) },
	} {
		step()
		got = append(got, logged(""))
	}
	want := [][]string{
		nil,
		{`"Not receiving kernel uevents, auditing the host more often instead" err="` + reasonNoAnswer + `"`},
		nil,
		{`"Receiving kernel uevents now"`},
		nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestLateAnswerCountsUntilTheNextRequest(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.start()
	first := p.kernel.uuid(busFile)
	p.pass(probeTimeout)
	if !p.answer(busPath, first) || p.result.status != receiving {
		t.Errorf("late answer: result %+v, want receiving", p.result)
	}
	p.start() // as after a loss
	p.pass(probeTimeout)
	if p.answer(busPath, first) {
		t.Error("the answer to an old request counts")
	}
	before := p.kernel.uuid(busFile)
	p.pass(probeRetry)
	if p.kernel.uuid(busFile) == before {
		t.Error("no retry while uevents do not arrive")
	}
	p.answerBus()
	if p.result.status != receiving || !p.next().IsZero() {
		t.Errorf("result %+v, next %v; want receiving and no timer", p.result, p.next())
	}
}

// An answer can be lost: a source that failed was closed when it came, and after an overflow the
// socket drops messages until its queue is empty. Both end in a Resync and so in a new request.
func TestNewRequestReplacesALostAnswer(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.start()
	lost := p.kernel.uuid(busFile)
	p.pass(probeTimeout - time.Second)
	p.start()
	if bus, lo := p.kernel.uuid(busFile), p.kernel.uuid(loFile); bus == lost || lo != bus {
		t.Errorf("requests %s (lo) and %s (bus); want one new UUID other than %s", lo, bus, lost)
	}
	p.pass(2 * time.Second) // the first request would have timed out
	if p.result.status != probePending || p.mayMissEvents() {
		t.Errorf("result %+v, may miss %v; want pending", p.result, p.mayMissEvents())
	}
	p.answerBus()
	p.pass(probeTimeout)
	if p.result.status != receiving || !p.next().IsZero() {
		t.Errorf("result %+v, next %v; want receiving and no timer", p.result, p.next())
	}
}

// The host's sysfs may have been mounted since the last request.
func TestEachRequestChecksTheNetworkNamespaceAgain(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{ownNetwork: true})
	p.start()
	p.answerLo()
	p.answerBus()
	if want := (probeResult{notReceiving, reasonForeignSysfs}); p.result != want {
		t.Fatalf("result %+v, want %+v", p.result, want)
	}
	p.pass(probeRetry)
	p.answerBus()
	if p.result.status != receiving {
		t.Errorf("result %+v, want receiving", p.result)
	}
}

// The bus's answer ends the wait, so lo must be asked first.
func TestLoIsAskedBeforeTheBus(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.start()
	if diff := cmp.Diff([]string{loFile, busFile}, p.kernel.files); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestOnlyTheRequestedUeventIsAnAnswer(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	if p.isAnswer(uevent(t, busPath)) || p.isAnswer(uevent(t, busPath, "SYNTH_UUID=")) {
		t.Error("an event before the first request is an answer")
	}
	p.start()
	variable := "SYNTH_UUID=" + p.kernel.uuid(busFile)
	inotify := uevent(t, busPath, variable)
	inotify.Origin = events.Inotify
	for name, e := range map[string]*events.Event{
		"without a UUID":  uevent(t, busPath),
		"another device":  uevent(t, "/devices/pci0000:6b/0000:6b:00.1", variable),
		"inotify's event": inotify,
	} {
		if p.isAnswer(e) || p.result.status != probePending {
			t.Errorf("%s: taken for an answer", name)
		}
	}
}

func TestIsAnswerDoesNotAllocate(t *testing.T) {
	p := newProbeTest(t, fakeEnvironment{})
	p.start()
	for _, path := range []string{"/devices/pci0000:6b/0000:6b:00.1", busPath, loPath} {
		e := uevent(t, path, "SYNTH_UUID="+p.kernel.uuid(busFile))
		if n := testing.AllocsPerRun(100, func() { p.isAnswer(e) }); n > 0 {
			t.Errorf("an event of %s allocates %v times, want 0", path, n)
		}
	}
}

// The kernel refuses a text that is not of the form 8-4-4-4-12
// (lib/kobject_uevent.c, action_arg_word_end and uuid_is_valid).
func TestNewUUID(t *testing.T) {
	seen := map[string]bool{}
	for range 100 { // of random bits, some are right by chance
		uuid := newUUID()
		groups := strings.Split(uuid, "-")
		for i, length := range []int{8, 4, 4, 4, 12} {
			if len(groups) != 5 || len(groups[i]) != length || strings.Trim(groups[i], "0123456789abcdef") != "" {
				t.Fatalf("UUID %q, want five groups of 8, 4, 4, 4 and 12 hexadecimal digits", uuid)
			}
		}
		if groups[2][0] != '4' || !strings.ContainsAny(groups[3][:1], "89ab") {
			t.Errorf("UUID %q, want version 4, variant 10", uuid)
		}
		if seen[uuid] {
			t.Errorf("UUID %q repeats", uuid)
		}
		seen[uuid] = true
	}
}
