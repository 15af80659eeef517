// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"qatplugin/internal/status"
	"qatplugin/internal/statuspage"
)

// A server serves the page, and sends what the test wants on /events.
type server struct {
	t       testing.TB
	address string

	mu       sync.Mutex // guards the following fields
	snapshot *status.Snapshot
	events   []status.Event
	clients  map[chan message]bool
	http     *http.Server // nil: it does not run
	ended    chan struct{}
}

type message struct {
	kind string
	data []byte
}

func startServer(t testing.TB, snapshot *status.Snapshot) *server {
	t.Helper()
	s := &server{t: t, address: "127.0.0.1:0", snapshot: snapshot, clients: map[chan message]bool{}}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string { return "http://" + s.address + "/" }

// start starts the server, again on the same port after stop.
func (s *server) start() {
	s.t.Helper()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = listener.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("/", statuspage.Handler())
	mux.HandleFunc("/events", s.serveEvents)
	s.http, s.ended = &http.Server{Handler: mux}, make(chan struct{})
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.t.Error(err)
		}
	}()
}

func (s *server) stop() {
	if s.http == nil {
		return
	}
	_ = s.http.Close()
	<-s.ended
	s.http = nil
}

func (s *server) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	queue := make(chan message, 1000)
	s.mu.Lock()
	queue <- encode(s.t, status.MessageSnapshot, s.snapshot)
	for _, e := range s.events {
		queue <- encode(s.t, status.MessageEvent, e)
	}
	s.clients[queue] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, queue)
	}()
	for {
		select {
		case m := <-queue:
			_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", m.kind, m.data)
			if len(queue) == 0 {
				w.(http.Flusher).Flush()
			}
		case <-r.Context().Done():
			return
		}
	}
}

func encode(t testing.TB, kind string, value any) message {
	data, err := json.Marshal(value)
	if err != nil {
		t.Error(err)
	}
	return message{kind, data}
}

// send sends a message to all clients.
func (s *server) send(kind string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for client := range s.clients {
		client <- encode(s.t, kind, value)
	}
}

// update sends an Update with these VFs, and what else the snapshot has.
func (s *server) update(vfs []status.VF, removed ...string) {
	s.send(status.MessageUpdate, status.Update{
		Time: time.Now(), VFs: vfs, Removed: removed,
		Resources: s.snapshot.Resources, Loops: s.snapshot.Loops, Checks: s.snapshot.Checks,
		Counters: s.snapshot.Counters,
	})
}

// happen adds an event to those that new clients get, and sends it.
func (s *server) happen(e status.Event) {
	s.mu.Lock()
	e.Seq = uint64(len(s.events) + 1)
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.events = append(s.events, e)
	s.mu.Unlock()
	s.send(status.MessageEvent, e)
}

// node returns the snapshot of a node with so many PFs of 16 VFs, all of which are offered.
func node(pfs int) *status.Snapshot {
	now := time.Now()
	s := &status.Snapshot{
		Time: now, Started: now.Add(-time.Hour), Version: "v1.2.3", Mode: "dpdk", Node: "node-7",
		Checks: []status.Check{{Name: "devices"}, {Name: "kubelet"}},
		Loops:  []status.Loop{{Name: "devices", Complete: true}},
		Resources: []status.Resource{{
			Name: "qat.intel.com/cy", Devices: 16 * pfs, Healthy: 16 * pfs,
			Phase: status.PhaseWatching, Streams: 1, Lists: 3, Bytes: 4096,
		}},
		Counters: status.Counters{Uevents: map[string]map[string]uint64{"add": {"pci": 64}}},
	}
	for i := range pfs {
		// A bus has room for a PF and its VFs.
		pf := status.PF{
			Address: fmt.Sprintf("0000:%02x:00.0", 0x10+i), Family: "4xxx", DeviceID: "4940", Driver: "4xxx",
			NUMANode: i * 2 / max(pfs, 2), State: "up", Services: "sym;asym", Resource: "cy", VFs: 16, TotalVFs: 16,
			Health: status.Healthy,
		}
		s.PFs = append(s.PFs, pf)
		for n := 1; n <= 16; n++ {
			s.VFs = append(s.VFs, vf(&pf, n))
		}
	}
	return s
}

// vf returns VF number n of a PF, which is offered. The first has number 1.
func vf(pf *status.PF, n int) status.VF {
	group := 100 + n
	return status.VF{
		Address: fmt.Sprintf("%s%02x.%d", pf.Address[:8], n/8, n%8), PF: pf.Address, Family: pf.Family,
		DeviceID: "4941", Driver: "vfio-pci", NUMANode: pf.NUMANode, IOMMUGroup: &group,
		Node: fmt.Sprintf("/dev/vfio/%d", group), State: status.StateListed, Resource: "cy",
	}
}

// busy returns telemetry of a PF with these slice types.
func busy(pf *status.PF, utilization map[string]float64) status.Telemetry {
	return status.Telemetry{Address: pf.Address, Device: &status.DeviceTelemetry{Utilization: utilization}}
}
