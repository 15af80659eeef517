// SPDX-License-Identifier: Apache-2.0

package nodeevents

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/klog/v2"

	"qatplugin/internal/status"
)

const (
	// maxProblems is the number of problems that are followed at most.
	maxProblems = 64

	// minInterval is the time between two looks at least, and maxInterval the time after which the
	// Reporter looks even if the journal has not changed. The journal does not record that uevents
	// are missing, for example.
	minInterval = time.Second
	maxInterval = 30 * time.Second

	// An Event expires an hour after its last change by default (kube-apiserver --event-ttl). An
	// Event of a problem that lasts is renewed after repeatAfter. An Event of a problem that comes
	// back within seriesTime is counted. Later the problem is forgotten, and has a new Event when
	// it comes back.
	repeatAfter = 20 * time.Minute
	seriesTime  = 50 * time.Minute

	// At most burst requests are sent at once, and after them one every sendInterval.
	sendInterval = 10 * time.Second
	burst        = 10

	// Waits after requests that fail.
	minRetry = 2 * time.Second
	maxRetry = 5 * time.Minute

	maxNote = 1024 // bytes of a note; the API server allows no more
)

// A Source provides what the Reporter looks at. [status.Source] implements it.
type Source interface {
	Snapshot(ctx context.Context) *status.Snapshot
	Journal() *status.Journal
}

// A server keeps Events. [Client] implements it.
type server interface {
	create(ctx context.Context, e *event) error
	repeat(ctx context.Context, name string, s series) error
}

// A Reporter reports the problems of a node. Its state belongs to the goroutine of [Reporter.Run].
type Reporter struct {
	source     Source
	server     server
	node       string
	controller string
	limiter    *rate.Limiter
	problems   map[string]*tracked

	lastName int64 // number in the name of the last Event

	retryAt time.Time // no request is sent before; zero: none has failed
	retry   time.Duration
	failure string // last error, which was logged
}

// tracked is a problem that lasts or has lasted.
type tracked struct {
	problem
	since    time.Time // when it began
	lasting  bool
	reported bool // the Warning Event was sent since it began, and no Normal Event after it

	warning, normal record
}

// A record describes an Event that was sent.
type record struct {
	name  string    // of the Event; "": none
	note  string    // of it
	at    time.Time // when it was sent or repeated last
	count int       // of its series

	// attempt is an Event that the API server may have created, although the answer did not arrive.
	// The next attempt has the same name.
	attempt event
}

// NewReporter returns a Reporter for the node with that name. controller is the name of the program
// in its Events, such as "qat.intel.com/device-plugin".
func NewReporter(source Source, client *Client, node, controller string) *Reporter {
	return newReporter(source, client, node, controller)
}

func newReporter(source Source, server server, node, controller string) *Reporter {
	return &Reporter{
		source:     source,
		server:     server,
		node:       node,
		controller: controller,
		limiter:    rate.NewLimiter(rate.Every(sendInterval), burst),
		problems:   map[string]*tracked{},
	}
}

// Run reports problems until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := r.source.Journal().Changed()
		now := time.Now()
		snapshot := r.snapshot(ctx)
		r.update(problemsOf(snapshot), now)
		next := r.report(ctx, snapshot, now)
		r.wait(ctx, changed, min(max(next.Sub(now), minInterval), maxInterval))
	}
}

// snapshot returns the newest snapshot. It waits for the event loops for a while, which do not
// answer while the kernel blocks them.
func (r *Reporter) snapshot(ctx context.Context) *status.Snapshot {
	ctx, cancel := context.WithTimeout(ctx, minInterval)
	defer cancel()
	return r.source.Snapshot(ctx)
}

// wait waits for d, or until changed is closed, but for minInterval at least.
func (r *Reporter) wait(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	least, most := time.NewTimer(minInterval), time.NewTimer(d)
	defer least.Stop()
	defer most.Stop()
	select {
	case <-ctx.Done():
		return
	case <-least.C:
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-most.C:
	}
}

// update replaces the problems that last. It forgets a problem that is over at once if it was not
// reported, else after seriesTime. So the rate of requests limits how many it remembers.
func (r *Reporter) update(problems []problem, now time.Time) {
	lasting := map[string]bool{}
	for _, p := range problems {
		t := r.problems[p.key]
		if p.expected {
			lasting[p.key] = t != nil && t.reported
			continue
		}
		lasting[p.key] = true
		if t == nil {
			t = &tracked{}
			r.problems[p.key] = t
		}
		if !t.lasting {
			t.lasting, t.since = true, now
		}
		t.problem = p
	}
	for key, t := range r.problems {
		t.lasting = lasting[key]
		if !t.lasting && !t.reported && now.Sub(t.normal.at) >= seriesTime {
			delete(r.problems, key)
		}
	}
}

// report sends what is due. It returns when something is due next, at maxInterval at the latest.
func (r *Reporter) report(ctx context.Context, s *status.Snapshot, now time.Time) (next time.Time) {
	next = now.Add(maxInterval)
	for _, key := range slices.Sorted(maps.Keys(r.problems)) {
		t := r.problems[key]
		at, ok := t.due(now)
		if !ok || ctx.Err() != nil {
			continue
		}
		if at.Before(r.retryAt) {
			at = r.retryAt
		}
		if !now.Before(at) {
			if r.limiter.AllowN(now, 1) {
				r.send(ctx, t, s)
				at = now // look again
			} else {
				at = now.Add(sendInterval)
			}
		}
		if at.Before(next) {
			next = at
		}
	}
	return next
}

// due returns when the next Event of a problem is due. ok is false if none is.
func (t *tracked) due(now time.Time) (at time.Time, ok bool) {
	switch {
	case t.lasting && t.reported:
		return t.warning.at.Add(repeatAfter), true
	case t.lasting:
		return t.since.Add(t.lasts), true
	}
	return now, t.reported
}

// send sends the Event that is due.
func (r *Reporter) send(ctx context.Context, t *tracked, s *status.Snapshot) {
	e := event{Type: "Normal", Action: t.action, Reason: t.over, Note: t.overNote(s)}
	to := &t.normal
	if t.lasting {
		e.Type, e.Reason, e.Note = "Warning", t.reason, t.note
		to = &t.warning
	}
	err := r.write(ctx, to, e)
	refused := (*refusal)(nil)
	isRefused := errors.As(err, &refused)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		if r.failure != "" {
			klog.InfoS("Reporting Kubernetes Events again")
		}
		t.reported = t.lasting
		r.retry, r.retryAt, r.failure = 0, time.Time{}, ""
		klog.V(2).InfoS("Reported a Kubernetes Event", "type", e.Type, "reason", e.Reason, "note", e.Note)
	case isRefused && refused.isFinal():
		klog.ErrorS(err, "Dropping a Kubernetes Event", "reason", e.Reason, "note", e.Note)
		t.reported = t.lasting
		to.at = time.Now() // until which it counts as sent
	default:
		r.postpone(err, refused)
	}
}

// postpone sets when the next request is sent, after one that failed. It logs each error once.
func (r *Reporter) postpone(err error, refused *refusal) {
	r.retry = min(max(2*r.retry, minRetry), maxRetry)
	wait := r.retry
	if refused != nil {
		wait = min(max(wait, refused.retryIn), maxRetry)
	}
	r.retryAt = time.Now().Add(wait)
	if text := err.Error(); text != r.failure {
		r.failure = text
		klog.ErrorS(err, "Cannot report a Kubernetes Event, trying again; docs/install.md says what it needs",
			"node", r.node)
	}
}

// write creates an Event, or counts it if it was created before.
func (r *Reporter) write(ctx context.Context, to *record, e event) error {
	now := time.Now()
	e.Note = truncate(e.Note, maxNote)
	if to.name != "" && to.note == e.Note {
		err := r.server.repeat(ctx, to.name, series{Count: to.count + 1, LastObservedTime: microTime(now)})
		if refused := (*refusal)(nil); !errors.As(err, &refused) || !refused.isFinal() {
			if err == nil {
				to.count, to.at = to.count+1, now
			}
			return err
		}
		// It has expired, or somebody has deleted it.
	}
	if to.attempt.Note != e.Note {
		to.attempt = r.complete(e, now)
	}
	if err := r.server.create(ctx, &to.attempt); err != nil {
		return err
	}
	*to = record{name: to.attempt.Metadata.Name, note: e.Note, at: now, count: 1}
	return nil
}

// complete returns e with the fields that are the same for all Events of the node. Like the
// Events of the kubelet, they have the name of the Node as its UID: kubectl describe node looks
// for that.
func (r *Reporter) complete(e event, now time.Time) event {
	e.APIVersion, e.Kind = "events.k8s.io/v1", "Event"
	r.lastName = max(r.lastName+1, now.UnixNano())
	e.Metadata = metadata{Name: fmt.Sprintf("%s.%x", truncate(r.node, 220), r.lastName), Namespace: namespace}
	e.EventTime = microTime(now)
	e.Controller, e.Instance = r.controller, truncate(r.node, 128)
	e.Regarding = objectReference{APIVersion: "v1", Kind: "Node", Name: r.node, UID: r.node}
	return e
}

// truncate shortens a text to a number of bytes, without a part of a character at its end.
func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "")
}
