// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/status"
)

// A message is one that a client has received.
type message struct {
	at         time.Duration // since the client joined
	id, kind   string
	data       string
	isComment  bool
	unfinished bool
}

// A follower is a client of /events. It is the ResponseWriter of its request.
type follower struct {
	header http.Header
	joined time.Time
	leave  context.CancelFunc
	ended  chan struct{}
	status int

	mu       sync.Mutex // guards all following fields
	messages []message
	blocked  chan struct{} // if it is not nil, writes wait until it is closed, or for the deadline
	deadline time.Time
}

func (f *follower) Header() http.Header    { return f.header }
func (f *follower) WriteHeader(status int) { f.status = status }
func (f *follower) Flush()                 {}
func (f *follower) SetWriteDeadline(at time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = at
	return nil
}

func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	blocked, deadline := f.blocked, f.deadline
	f.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-time.After(time.Until(deadline)):
			return 0, os.ErrDeadlineExceeded
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for part := range strings.SplitAfterSeq(string(p), "\n\n") {
		if part == "" {
			continue
		}
		m := message{at: time.Since(f.joined), unfinished: !strings.HasSuffix(part, "\n\n")}
		for line := range strings.Lines(part) {
			m.isComment = m.isComment || strings.HasPrefix(line, ":")
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch name {
			case "id":
				m.id = value
			case "event":
				m.kind = value
			case "data":
				m.data = value
			}
		}
		f.messages = append(f.messages, m)
	}
	return len(p), nil
}

// follow joins. The test must be in a bubble of testing/synctest, which must be idle when a method
// of the follower returns.
func follow(h http.Handler, query string, headers ...string) *follower {
	ctx, leave := context.WithCancel(context.Background())
	r := httptest.NewRequest("GET", "/events"+query, nil).WithContext(ctx)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	f := &follower{header: http.Header{}, joined: time.Now(), leave: leave, ended: make(chan struct{}), status: 200}
	go func() {
		defer close(f.ended)
		h.ServeHTTP(f, r)
	}()
	synctest.Wait()
	return f
}

// stop leaves, and waits for the end of the request.
func (f *follower) stop() {
	f.leave()
	<-f.ended
}

// take returns the messages of some types since the last call.
func (f *follower) take(kinds ...string) (got []message) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		if slices.Contains(kinds, m.kind) {
			got = append(got, m)
		}
	}
	f.messages = nil
	return got
}

// block makes the follower stop reading, until the function that it returns is called.
func (f *follower) block() (unblock func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	blocked := make(chan struct{})
	f.blocked = blocked
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.blocked = nil
		close(blocked)
	}
}

func decode[T any](t *testing.T, m message) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.data), &v); err != nil {
		t.Fatalf("%v in %+v", err, m)
	}
	return v
}

func kinds(messages []message) (list []string) {
	for _, m := range messages {
		list = append(list, m.kind)
	}
	return list
}

// ids returns the numbers of events.
func ids(messages []message) (list []string) {
	for _, m := range messages {
		_, number, _ := strings.Cut(m.id, "-")
		list = append(list, number)
	}
	return list
}

// eventID returns the ID of the event with a number.
func eventID(h http.Handler, number string) string { return h.(*server).events.process + "-" + number }

func numbers(from, to int) (list []string) {
	for n := from; n <= to; n++ {
		list = append(list, fmt.Sprint(n))
	}
	return list
}

const (
	pf  = "0000:6b:00.0"
	vf1 = "0000:6b:00.1"
	vf2 = "0000:6b:00.2"
)

var allTypes = messageTypes

func bubble(t *testing.T, f func(t *testing.T, s *source, h http.Handler)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		f(t, s, New(config(s)))
	})
}

func group(n int) *int { return &n }

func TestFollowerGetsTheStateAndThenItsChanges(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		s.change(func(s *status.Snapshot) {
			s.PFs = []status.PF{{Address: pf}}
			s.VFs = []status.VF{{Address: vf1, IOMMUGroup: group(1)}, {Address: vf2, IOMMUGroup: group(2)}}
		}, status.Event{Text: "an event before it joins"})
		f := follow(h, "")
		defer f.stop()
		first := f.take(allTypes...)
		if diff := cmp.Diff([]string{"snapshot", "event"}, kinds(first)); diff != "" {
			t.Fatalf("first messages (-want +got):\n%s", diff)
		}
		snapshot := decode[status.Snapshot](t, first[0])
		if len(snapshot.VFs) != 2 || len(snapshot.PFs) != 1 {
			t.Errorf("snapshot %+v", snapshot)
		}
		time.Sleep(time.Second)
		s.change(func(s *status.Snapshot) {
			s.VFs = []status.VF{
				{Address: vf1, IOMMUGroup: group(1)}, {Address: "0000:6b:00.3", State: status.StateListed},
			}
		}, status.Event{Text: "a VF is replaced"})
		got := f.take(allTypes...)
		if diff := cmp.Diff([]string{"event", "update"}, kinds(got)); diff != "" {
			t.Fatalf("messages (-want +got):\n%s", diff)
		}
		e := decode[status.Event](t, got[0])
		if e.Text != "a VF is replaced" || got[0].id != eventID(h, "2") || e.Seq != 2 {
			t.Errorf("event %+v with ID %s", e, got[0].id)
		}
		u := decode[status.Update](t, got[1])
		want := status.Update{
			VFs:     []status.VF{{Address: "0000:6b:00.3", State: status.StateListed}},
			Removed: []string{vf2},
		}
		if u.Time.IsZero() {
			t.Error("the update has no time")
		}
		u.Time = time.Time{}
		if diff := cmp.Diff(want, u); diff != "" {
			t.Errorf("update (-want +got):\n%s", diff)
		}
	})
}

func TestUpdatesAreThrottledAndTheFirstIsSentAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		f := follow(h, "?types=snapshot,update")
		defer f.stop()
		time.Sleep(time.Second)
		f.take()
		start := time.Since(f.joined)
		for i := range 30 { // one each 10 ms
			s.change(func(s *status.Snapshot) {
				s.VFs = []status.VF{{Address: vf1, Reason: fmt.Sprint(i)}}
			}, status.Event{})
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		var at []time.Duration
		updates := f.take("update")
		for _, m := range updates {
			at = append(at, m.at-start)
		}
		const ms = time.Millisecond
		if diff := cmp.Diff([]time.Duration{0, 100 * ms, 200 * ms, 300 * ms}, at); diff != "" {
			t.Errorf("times of the updates (-want +got):\n%s", diff)
		}
		if u := decode[status.Update](t, updates[len(updates)-1]); u.VFs[0].Reason != "29" {
			t.Errorf("the last update is %+v, want the last state", u)
		}
	})
}

// The number of heartbeats, for example, changes without an event.
func TestSilentChangesAreSentAfterAWhile(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		f := follow(h, "")
		defer f.stop()
		f.take()
		s.change(func(s *status.Snapshot) { s.PFs = []status.PF{{Address: pf, Heartbeat: status.Heartbeat{Good: 1}}} })
		s.mu.Lock()
		s.snapshot.PFs[0].Heartbeat.Good++ // and nothing is in the journal
		s.mu.Unlock()
		time.Sleep(refreshInterval)
		updates := f.take("update")
		if len(updates) == 0 || decode[status.Update](t, updates[len(updates)-1]).PFs[0].Heartbeat.Good != 2 {
			t.Errorf("updates %+v, want the number of heartbeats", updates)
		}
		time.Sleep(time.Minute)
		if got := f.take("update"); len(got) > 0 {
			t.Errorf("updates although nothing changed: %+v", got)
		}
	})
}

func TestFollowerContinuesAfterTheLastEventItHas(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		for range 300 {
			s.journal.Append(status.Event{})
		}
		for _, tt := range []struct {
			query, lastID string
			want          []string
		}{
			{"", "", numbers(101, 300)},
			{"?last=3", "", numbers(298, 300)},
			{"?last=0", "", nil},
			{"?last=1000", "", numbers(1, 300)},
			{"", "298", numbers(299, 300)},
			{"", "300", nil},
			{"", "5", numbers(101, 300)},
			{"", "x", numbers(101, 300)},
		} {
			f := follow(h, tt.query, "Last-Event-ID", eventID(h, tt.lastID))
			if diff := cmp.Diff(tt.want, ids(f.take("event"))); diff != "" {
				t.Errorf("%q after %q: events (-want +got):\n%s", tt.query, tt.lastID, diff)
			}
			f.stop()
		}
	})
}

// A browser connects again by itself when the plugin has restarted, with the number of an event of
// the earlier process.
func TestFollowerOfAnEarlierProcessGetsAllEvents(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		s.journal.Append(make([]status.Event, 50)...)
		f := follow(h, "")
		events := f.take("event")
		f.stop()
		time.Sleep(time.Second)
		restarted := newSource()
		restarted.journal.Append(make([]status.Event, 60)...)
		f = follow(New(config(restarted)), "", "Last-Event-ID", events[len(events)-1].id)
		if diff := cmp.Diff(numbers(1, 60), ids(f.take("event"))); diff != "" {
			t.Errorf("events of the new process (-want +got):\n%s", diff)
		}
		f.stop()
	})
}

// No event is sent twice or left out, whenever a client joins.
func TestEachFollowerGetsEachEventOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		var followers []*follower
		for i := range 200 {
			s.journal.Append(status.Event{}, status.Event{})
			if i%20 == 0 {
				followers = append(followers, follow(h, "?types=event&last=1000"))
			}
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(time.Second)
		for _, f := range followers {
			if diff := cmp.Diff(numbers(1, 400), ids(f.take("event"))); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			f.stop()
		}
	})
}

func TestNothingIsReadWhileNobodyFollows(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		time.Sleep(time.Hour)
		s.journal.Append(status.Event{})
		if snapshots, reads := s.calls(); snapshots+reads > 0 {
			t.Errorf("%d snapshots, %d reads of telemetry before the first client", snapshots, reads)
		}
		f := follow(h, "")
		f.stop()
		snapshots, reads := s.calls()
		s.journal.Append(status.Event{})
		time.Sleep(time.Hour)
		if afterwards, readsThen := s.calls(); afterwards != snapshots || readsThen != reads {
			t.Error("snapshots or telemetry are read after the last client has left")
		}
		f = follow(h, "?types=event") // the end of the bubble checks that its goroutines end
		s.journal.Append(status.Event{})
		time.Sleep(time.Hour)
		f.stop()
		if afterwards, readsThen := s.calls(); afterwards != snapshots || readsThen != reads {
			t.Error("snapshots or telemetry are read for a client that wants events only")
		}
	})
}

func TestTypesLimitTheStream(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		s.telemetry = []status.Telemetry{{Address: pf, Device: &status.DeviceTelemetry{}}}
		for _, tt := range []struct{ query, want string }{
			{"", "event snapshot telemetry update"},
			{"?types=event", "event"},
			{"?types=snapshot,update", "snapshot update"},
			{"?types=telemetry", "telemetry"},
		} {
			f := follow(h, tt.query)
			time.Sleep(time.Second)
			s.change(func(s *status.Snapshot) { s.VFs = append(s.VFs, status.VF{}) }, status.Event{})
			time.Sleep(time.Second)
			got := kinds(f.take(allTypes...))
			slices.Sort(got)
			if got := strings.Join(slices.Compact(got), " "); got != tt.want {
				t.Errorf("%q: messages of the types %q, want %q", tt.query, got, tt.want)
			}
			f.stop()
		}
		const types = "must be a comma-separated list of snapshot,update,event,telemetry"
		for query, want := range map[string]string{
			"?types=event,x":  `types: invalid value "x": ` + types,
			"?last=-1":        `last: invalid value "-1": must be a number of events, 0 or more`,
			"?follow=perhaps": `follow: invalid value "perhaps": must be true or false`,
		} {
			if w := get(h, "GET", "/events"+query); w.Code != 400 || w.Body.String() != want+"\n" {
				t.Errorf("%s: %d %q, want 400 %q", query, w.Code, w.Body, want)
			}
		}
	})
}

func TestFollowFalseEndsAfterTheFirstMessages(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		s.telemetry = []status.Telemetry{{Address: pf}}
		s.journal.Append(status.Event{}, status.Event{})
		f := follow(h, "?follow=false&last=1")
		<-f.ended
		got := f.take(allTypes...)
		if diff := cmp.Diff([]string{"snapshot", "event", "telemetry"}, kinds(got)); diff != "" || ids(got)[1] != "2" {
			t.Errorf("messages %+v (-want +got):\n%s", got, diff)
		}
	})
}

func TestTelemetryIsSentWhileADeviceHasSome(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		f := follow(h, "")
		defer f.stop()
		time.Sleep(time.Minute - time.Second)
		if got := f.take("telemetry"); len(got) > 0 {
			t.Errorf("telemetry without any: %+v", got)
		}
		if _, reads := s.calls(); reads != 2 {
			t.Errorf("telemetry was read %d times in a minute, want 2", reads)
		}
		s.mu.Lock()
		s.telemetry = []status.Telemetry{{Address: pf, Device: &status.DeviceTelemetry{Samples: 1}}}
		s.mu.Unlock()
		time.Sleep(11 * time.Second)
		if got := f.take("telemetry"); len(got) != 6 { // after 60, 62, 64, 66, 68 and 70 s
			t.Errorf("%d messages in 10 s, want 6", len(got))
		}
	})
}

func TestIdleStreamIsKeptAlive(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		f := follow(h, "")
		defer f.stop()
		time.Sleep(time.Minute + time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		comments := 0
		for _, m := range f.messages {
			if m.isComment {
				comments++
			}
			if m.unfinished {
				t.Errorf("%+v is not finished", m)
			}
		}
		if comments != 4 {
			t.Errorf("%d comments in a minute, want one each 15 s", comments)
		}
	})
}

func TestNumberOfFollowersIsLimited(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		var followers []*follower
		for range maxClients {
			followers = append(followers, follow(h, ""))
		}
		w := get(h, "GET", "/events")
		if w.Code != 503 || !strings.Contains(w.Body.String(), "16 clients follow /events, which is the limit") {
			t.Errorf("one more: %d %s", w.Code, w.Body)
		}
		if got := get(h, "GET", "/events?follow=false").Code; got != 200 {
			t.Errorf("one that does not follow: %d, want 200", got)
		}
		followers[0].stop()
		followers[0] = follow(h, "")
		for _, f := range followers {
			if f.status != 200 || len(f.take("snapshot")) != 1 {
				t.Errorf("a client within the limit: status %d", f.status)
			}
			f.stop()
		}
	})
}

// A client that reads slowly gets everything; nobody waits for it.
func TestSlowFollowerDelaysNobody(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		slow, other := follow(h, "?types=event"), follow(h, "?types=event")
		defer slow.stop()
		defer other.stop()
		unblock := slow.block()
		for range 50 {
			s.journal.Append(status.Event{})
			time.Sleep(updateInterval)
		}
		if got := len(other.take("event")); got != 50 {
			t.Errorf("the other client has %d events, want 50", got)
		}
		unblock()
		if diff := cmp.Diff(numbers(1, 50), ids(slow.take("event"))); diff != "" {
			t.Errorf("events of the slow client (-want +got):\n%s", diff)
		}
	})
}

func TestFollowerThatDoesNotReadIsDropped(t *testing.T) {
	t.Run("after a time", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *source, h http.Handler) {
			f := follow(h, "?types=event")
			time.Sleep(time.Second)
			f.block()
			blocked := time.Now()
			s.journal.Append(status.Event{})
			<-f.ended
			if got := time.Since(blocked); got != sendTimeout {
				t.Errorf("dropped after %v, want %v", got, sendTimeout)
			}
		})
	})
	t.Run("with much to read", func(t *testing.T) {
		bubble(t, func(t *testing.T, s *source, h http.Handler) {
			f := follow(h, "?types=event")
			unblock := f.block()
			s.journal.Append(status.Event{})
			for range 10 {
				time.Sleep(updateInterval)
				s.journal.Append(status.Event{Text: strings.Repeat("x", maxPending/4)})
			}
			time.Sleep(time.Second)
			unblock()
			<-f.ended
			again := follow(h, "", "Last-Event-ID", eventID(h, "1"))
			defer again.stop()
			if got := again.take(allTypes...); len(got) != 11 || got[0].kind != "snapshot" || ids(got)[1] != "2" {
				t.Errorf("after it reconnected: %v %v, want a snapshot and the events from 2", kinds(got), ids(got))
			}
		})
	})
}

// The clients that read slowly may be many.
func TestClientsShareTheMessagesThatTheyAreSent(t *testing.T) {
	const size = maxPending / 2
	h, message := newHub(newSource()), make([]byte, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range maxClients {
		c := &client{ready: make(chan struct{}, 1)}
		c.push(message)
		c.push(message)
		if messages, dropped := h.take(c); len(messages) == 0 || dropped {
			t.Fatal("nothing to send")
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > size {
		t.Errorf("%d clients take %d MiB for the same messages", maxClients, took>>20)
	}
}

// While an event loop does not answer, events are still sent.
func TestStuckLoopDelaysEventsLittle(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h http.Handler) {
		f := follow(h, "")
		defer f.stop()
		s.mu.Lock()
		s.stuck = true
		s.mu.Unlock()
		time.Sleep(time.Minute)
		f.take()
		start := time.Since(f.joined)
		s.journal.Append(status.Event{})
		time.Sleep(time.Minute)
		got := f.take("event")
		if len(got) != 1 || got[0].at-start > snapshotTimeout+updateInterval {
			t.Errorf("events %+v, want one within %v of %v", got, snapshotTimeout+updateInterval, start)
		}
	})
}

func TestHeadOfEventsEnds(t *testing.T) {
	w := get(New(config(newSource())), "HEAD", "/events")
	if got := w.Header().Get("Content-Type"); w.Code != 200 || got != "text/event-stream" || w.Body.Len() > 0 {
		t.Errorf("%d, %s, %q", w.Code, got, w.Body)
	}
}

func TestUpdateOfEqualSnapshotsIsNil(t *testing.T) {
	now, later := time.Now(), time.Now().Add(time.Second)
	make := func(at time.Time) *status.Snapshot {
		last := now
		return &status.Snapshot{
			Time:      at,
			PFs:       []status.PF{{Address: pf, Heartbeat: status.Heartbeat{LastAt: &last}}},
			VFs:       []status.VF{{Address: vf1, IOMMUGroup: group(7)}},
			Resources: []status.Resource{{Name: "qat.intel.com/cy", LastList: &last}},
			Loops:     []status.Loop{{Name: "devices", Skipped: map[string]string{vf2: "x"}}},
			Counters:  status.Counters{Uevents: map[string]map[string]uint64{"add": {"pci": 1}}},
		}
	}
	if u := newUpdate(make(now), make(later)); u != nil {
		t.Errorf("update %+v, want nil", u)
	}
	for name, change := range map[string]func(*status.Snapshot){
		"heartbeat": func(s *status.Snapshot) { s.PFs[0].Heartbeat.LastAt = &later },
		"group":     func(s *status.Snapshot) { s.VFs[0].IOMMUGroup = nil },
		"VF":        func(s *status.Snapshot) { s.VFs[0].State = status.StateListed },
		"resource":  func(s *status.Snapshot) { s.Resources[0].Streams++ },
		"loop":      func(s *status.Snapshot) { s.Loops[0].Skipped[vf2] = "y" },
		"counter":   func(s *status.Snapshot) { s.Counters.Uevents["add"]["pci"]++ },
		"removal":   func(s *status.Snapshot) { s.VFs = nil },
		"check":     func(s *status.Snapshot) { s.Checks = []status.Check{{Name: "x"}} },
	} {
		after := make(now)
		change(after)
		if newUpdate(make(now), after) == nil {
			t.Errorf("no update after a change of the %s", name)
		}
	}
}
