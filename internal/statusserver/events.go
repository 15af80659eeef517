// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/status"
)

const (
	maxClients = 16 // that follow /events at the same time

	// A change is sent at once, unless another one was sent within updateInterval. What changes
	// without an event, such as the number of heartbeats, is looked for every refreshInterval.
	updateInterval  = 100 * time.Millisecond
	refreshInterval = 5 * time.Second

	// The device averages its telemetry over a second. Without any, it is looked for less often.
	telemetryInterval   = 2 * time.Second
	noTelemetryInterval = 30 * time.Second

	keepAliveInterval = 15 * time.Second

	defaultEvents = 200 // with which a client begins

	// maxPending is the size in bytes of the messages that may wait until a client reads. A client
	// that would exceed it is dropped.
	maxPending = 4 << 20
)

// messageTypes are the types of messages, in the order in which a client gets the first ones.
var messageTypes = []string{
	status.MessageSnapshot, status.MessageUpdate, status.MessageEvent, status.MessageTelemetry,
}

// A hub is the handler of /events.
type hub struct {
	source  status.Source
	process string // part of the IDs of events, because each process numbers its events from the start

	mu      sync.Mutex // guards session, and the clients of each session
	session *session   // nil without clients
}

func newHub(source status.Source) *hub {
	return &hub{source: source, process: strconv.FormatInt(time.Now().UnixNano(), 36)}
}

// A client follows /events. The mutex of the hub guards all fields below types.
type client struct {
	types []string // that it wants

	first   first
	greeted bool          // it has the first messages
	pending [][]byte      // that it has not read
	size    int           // of pending, in bytes
	dropped bool          // it did not read for too long
	ready   chan struct{} // holds a value if there is something in pending, or dropped is set
}

// first says which events of the journal a client begins with.
type first struct {
	after uint64 // only those with a greater Seq
	limit int    // only the last ones
}

func (c *client) wants(kinds ...string) bool {
	return slices.ContainsFunc(kinds, func(kind string) bool { return slices.Contains(c.types, kind) })
}

// push appends a message.
func (c *client) push(message []byte) {
	if len(message) == 0 || c.dropped {
		return
	}
	if c.size > 0 && c.size+len(message) > maxPending {
		c.pending, c.size, c.dropped = nil, 0, true
	} else {
		c.pending, c.size = append(c.pending, message), c.size+len(message)
	}
	wake(c.ready)
}

// wake sends to a channel with a buffer of one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ServeHTTP streams messages to a client until it leaves, does not read for too long, or the server
// ends.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, follow, err := h.newClient(r)
	if err != nil {
		answer(w, http.StatusBadRequest, "%v", err)
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	if follow {
		s, err := h.join(c)
		if err != nil {
			w.Header().Set("Retry-After", "5")
			answer(w, http.StatusServiceUnavailable, "%v", err)
			return
		}
		defer h.leave(s, c)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies must not collect messages
	out := &sender{w: w, control: http.NewResponseController(w)}
	if !follow {
		newSession(h).greetOnce(r.Context(), c)
		_ = out.send(c.pending...) // the client is gone
		return
	}
	if out.send([]byte("retry: 1000\n\n")) != nil { // milliseconds until a browser reconnects
		return
	}
	keepAlive := time.NewTicker(keepAliveInterval)
	defer keepAlive.Stop()
	for {
		var messages [][]byte
		select {
		case <-r.Context().Done():
			return
		case <-keepAlive.C:
			messages = [][]byte{[]byte(": keep-alive\n\n")}
		case <-c.ready:
			var dropped bool
			if messages, dropped = h.take(c); dropped {
				return
			}
		}
		if out.send(messages...) != nil {
			return
		}
	}
}

// newClient parses the query of a request.
func (h *hub) newClient(r *http.Request) (c *client, follow bool, err error) {
	c = &client{types: messageTypes, first: first{limit: defaultEvents}, ready: make(chan struct{}, 1)}
	query := r.URL.Query()
	if text := query.Get("types"); text != "" {
		c.types = strings.Split(text, ",")
		for _, kind := range c.types {
			if !slices.Contains(messageTypes, kind) {
				return nil, false, fmt.Errorf("types: invalid value %q: must be a comma-separated list of %s",
					kind, strings.Join(messageTypes, ","))
			}
		}
	}
	if text := query.Get("last"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, false, fmt.Errorf("last: invalid value %q: must be a number of events, 0 or more", text)
		}
		c.first.limit = int(n)
	}
	follow = true
	if text := query.Get("follow"); text != "" {
		if follow, err = strconv.ParseBool(text); err != nil {
			return nil, false, fmt.Errorf("follow: invalid value %q: must be true or false", text)
		}
	}
	if number, ok := strings.CutPrefix(r.Header.Get("Last-Event-ID"), h.process+"-"); ok {
		c.first.after, _ = strconv.ParseUint(number, 10, 64) // of a browser; 0 if it is of something else
	}
	return c, follow, nil
}

// join adds a client. The first one starts a session.
func (h *hub) join(c *client) (*session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session == nil {
		h.session = newSession(h)
		h.session.start()
	}
	s := h.session
	if len(s.clients) == maxClients {
		return nil, fmt.Errorf("%d clients follow /events, which is the limit: close one, or try again later",
			maxClients)
	}
	s.clients = append(s.clients, c)
	wake(s.joined)
	if c.wants(status.MessageTelemetry) {
		wake(s.telemetryWanted)
	}
	return s, nil
}

// leave removes a client. The last one ends the session and waits until its goroutines have ended.
func (h *hub) leave(s *session, c *client) {
	h.mu.Lock()
	s.clients = slices.DeleteFunc(s.clients, func(other *client) bool { return other == c })
	last := len(s.clients) == 0
	if last {
		h.session = nil
	}
	h.mu.Unlock()
	if last {
		s.cancel()
		s.running.Wait()
	}
}

// take returns the messages that wait for a client, and reports whether it is dropped. Other
// clients have the same messages.
func (h *hub) take(c *client) (messages [][]byte, dropped bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	messages = c.pending
	c.pending, c.size = nil, 0
	return messages, c.dropped
}

// A session sends to clients, from when the first one joins until the last one leaves. Its fields
// without a comment belong to the goroutine that broadcasts.
type session struct {
	hub             *hub
	clients         []*client // guarded by the mutex of the hub
	cancel          context.CancelFunc
	running         sync.WaitGroup
	joined          chan struct{} // holds a value after a client joined
	telemetryWanted chan struct{} // holds a value after one joined that wants telemetry

	journal  *status.Journal
	seq      uint64           // of the newest event that was sent
	snapshot *status.Snapshot // that the clients have by now; nil if none wants one
	encoded  []byte           // the message with snapshot; nil if nobody needed it
}

func newSession(h *hub) *session {
	s := &session{
		hub:             h,
		cancel:          func() {},
		joined:          make(chan struct{}, 1),
		telemetryWanted: make(chan struct{}, 1),
		journal:         h.source.Journal(),
	}
	if events := s.journal.Since(0); len(events) > 0 {
		s.seq = events[len(events)-1].Seq
	}
	return s
}

// start starts the goroutines. They end after cancel.
func (s *session) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.running.Go(func() { s.broadcast(ctx) })
	s.running.Go(func() { s.broadcastTelemetry(ctx) })
}

// broadcast sends snapshots, updates and events until ctx ends.
func (s *session) broadcast(ctx context.Context) {
	for {
		changed := s.journal.Changed()
		s.sendChanges(ctx)
		if !s.wait(ctx, updateInterval, nil) || !s.wait(ctx, refreshInterval-updateInterval, changed) {
			return
		}
	}
}

// wait waits for a change, for d at most. Meanwhile it greets clients that join. It returns false
// when ctx ends.
func (s *session) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.joined:
			s.greet(ctx)
		case <-changed:
			return true
		case <-timer.C:
			return true
		}
	}
}

// sendChanges sends what has happened and what has changed.
func (s *session) sendChanges(ctx context.Context) {
	if events := s.journal.Since(s.seq); len(events) > 0 {
		s.seq = events[len(events)-1].Seq
		if s.wanted(status.MessageEvent) {
			s.send(status.MessageEvent, s.encodeEvents(events))
		}
	}
	if before := s.snapshot; before != nil && s.wanted(status.MessageUpdate) {
		s.look(ctx)
		if u := newUpdate(before, s.snapshot); u != nil {
			s.send(status.MessageUpdate, encode(status.MessageUpdate, u))
		}
	} else {
		s.snapshot = nil // greet looks again
	}
	s.greet(ctx)
}

// look takes a new snapshot.
func (s *session) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	s.snapshot, s.encoded = s.hub.source.Snapshot(ctx), nil
}

// wanted reports whether a client wants messages of a type.
func (s *session) wanted(kind string) bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return slices.ContainsFunc(s.clients, func(c *client) bool { return c.wants(kind) })
}

// send sends a message to the clients that want its type and have the first messages.
func (s *session) send(kind string, message []byte) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, c := range s.clients {
		if c.greeted && c.wants(kind) {
			c.push(message)
		}
	}
}

// greet sends the first messages to the clients that have joined.
func (s *session) greet(ctx context.Context) {
	s.hub.mu.Lock()
	var fresh []*client
	for _, c := range s.clients {
		if !c.greeted {
			fresh = append(fresh, c)
		}
	}
	s.hub.mu.Unlock()
	for _, c := range fresh {
		message := s.firstMessages(ctx, c)
		s.hub.mu.Lock()
		c.greeted = true
		c.push(message)
		s.hub.mu.Unlock()
	}
}

// greetOnce gives the first messages to a client that does not follow.
func (s *session) greetOnce(ctx context.Context, c *client) {
	c.pending = [][]byte{s.firstMessages(ctx, c)}
	if c.wants(status.MessageTelemetry) {
		c.pending = append(c.pending, encode(status.MessageTelemetry, s.readTelemetry(ctx)))
	}
}

// firstMessages returns the messages from which a client can follow the next ones, as one.
func (s *session) firstMessages(ctx context.Context, c *client) []byte {
	var messages []byte
	if c.wants(status.MessageSnapshot, status.MessageUpdate) && s.snapshot == nil {
		s.look(ctx)
	}
	if c.wants(status.MessageSnapshot) {
		if s.encoded == nil {
			s.encoded = encode(status.MessageSnapshot, s.snapshot)
		}
		messages = append(messages, s.encoded...)
	}
	if c.wants(status.MessageEvent) {
		events := s.journal.Since(c.first.after)
		events = slices.DeleteFunc(events, func(e status.Event) bool { return e.Seq > s.seq }) // they come later
		messages = append(messages, s.encodeEvents(events[max(0, len(events)-c.first.limit):])...)
	}
	return messages
}

// broadcastTelemetry sends telemetry until ctx ends, while a client wants it and there is some.
func (s *session) broadcastTelemetry(ctx context.Context) {
	var next <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-next:
		case <-s.telemetryWanted:
		}
		if next = nil; !s.wanted(status.MessageTelemetry) {
			continue
		}
		next = time.After(noTelemetryInterval)
		list := s.readTelemetry(ctx)
		if slices.ContainsFunc(list, func(t status.Telemetry) bool { return t.Device != nil }) {
			s.send(status.MessageTelemetry, encode(status.MessageTelemetry, list))
			next = time.After(telemetryInterval)
		}
	}
}

func (s *session) readTelemetry(ctx context.Context) []status.Telemetry {
	ctx, cancel := context.WithTimeout(ctx, telemetryTimeout)
	defer cancel()
	return s.hub.source.Telemetry(ctx)
}

// encodeEvents returns a message for each event.
func (s *session) encodeEvents(events []status.Event) []byte {
	var all []byte
	for i := range events {
		all = fmt.Appendf(all, "id: %s-%d\n", s.hub.process, events[i].Seq)
		all = append(all, encode(status.MessageEvent, &events[i])...)
	}
	return all
}

// encode returns a message, or nil if v cannot be encoded.
func encode(kind string, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		klog.ErrorS(err, "Cannot encode a message of /events", "type", kind)
		return nil
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, data)
}
