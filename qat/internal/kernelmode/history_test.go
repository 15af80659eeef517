// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/hostwatch"
)

// A history is a host to which things happen, and a mode that receives the
// events late, twice, in another order or not at all, and whose adf_ctl takes
// its time or fails. No event reports the last step of a device's start.
type history struct {
	*testHost
	t        *rapid.T
	mode     *mode
	state    hostwatch.State
	now      time.Time
	present  [3]*testDevice
	starting map[*testDevice]bool

	queue []events.Event // sent and not received yet
	keys  []Key          // marked and not reconciled yet
	lost  bool           // an event was lost since the last full read

	fail    bool          // the next run of adf_ctl fails
	asking  bool          // adf_ctl has read the devices' states and not answered yet
	asked   chan struct{} // adf_ctl has read the devices' states
	release chan struct{} // lets it answer
	marked  chan Key      // it has answered
}

func newHistory(ctx context.Context, t *rapid.T, dir string) *history {
	h := &history{
		testHost: makeTestHost(t, dir, lookalike.WithoutIOMMU()),
		t:        t,
		now:      time.Now(),
		starting: map[*testDevice]bool{},
		asked:    make(chan struct{}),
		release:  make(chan struct{}),
		marked:   make(chan Key, 1),
	}
	cfg := Config{Sysfs: h.Sysfs(), Dev: h.Dev(), Etc: h.etc}
	host := hostwatch.Host[Key]{
		Mark:    func(key Key, _ time.Time) { h.marked <- key },
		Watches: &hostwatch.Watches{},
	}
	h.mode = newMode(ctx, cfg, host, h.status)
	h.reconcile(hostwatch.Batch[Key]{All: true})
	return h
}

// status is the fake adf_ctl.
func (h *history) status(ctx context.Context) (text []byte, err error) {
	text = []byte(h.statusText())
	if h.fail {
		h.fail = false
		text, err = nil, errors.New("no")
	}
	h.asked <- struct{}{}
	select {
	case <-h.release:
	case <-ctx.Done():
	}
	return text, err
}

// reconcile hands the batch and all keys to the mode.
func (h *history) reconcile(b hostwatch.Batch[Key]) {
	b.Keys, b.Since = h.keys, h.now
	h.state = h.mode.Reconcile(h.now, &b)
	h.keys = nil
	if h.mode.adfctl.running && !h.asking {
		<-h.asked
		h.asking = true
	}
}

// answer lets adf_ctl answer. Another reconcile may come before the one with the key of the answer.
func (h *history) answer(lateKey bool) {
	if !h.asking {
		return
	}
	h.release <- struct{}{}
	key := <-h.marked
	if lateKey {
		h.reconcile(hostwatch.Batch[Key]{})
	}
	h.asking = false
	h.keys = append(h.keys, key)
}

// sent queues the uevents that the host sent, and events of inotify.
func (h *history) sent(paths ...string) {
	for len(h.uevents) > 0 {
		h.queue = append(h.queue, *uevent(h.t, string(<-h.uevents)))
	}
	for _, path := range paths {
		h.queue = append(h.queue, events.Event{Origin: events.Inotify, Action: events.Create, Path: []byte(path)})
	}
}

// receive delivers the first n events.
func (h *history) receive(n int) {
	for _, e := range h.queue[:n] {
		key, verdict := h.mode.Classify(&e)
		if verdict == hostwatch.Relevant && !slices.Contains(h.keys, key) {
			h.keys = append(h.keys, key)
		}
	}
	h.queue = h.queue[n:]
}

func (h *history) resync() {
	h.reconcile(hostwatch.Batch[Key]{All: true})
	h.lost = false
}

// finishStart is the silent end of a device's start.
func (h *history) finishStart(d *testDevice) {
	if h.starting[d] {
		delete(h.starting, d)
		h.setState(h.t, d, "up")
	}
}

func (h *history) actions() map[string]func(*rapid.T) {
	addresses := [...]string{addressA, addressB, "0000:5e:00.0"}
	which := func(t *rapid.T) int { return rapid.IntRange(0, len(h.present)-1).Draw(t, "device") }
	section := func(t *rapid.T, name string) string {
		return rapid.SampledFrom([]string{
			"",
			sec(name, 1, 1, 0),
			sec(name, 2, 1, 0),
			sec(name, 1, 1, 0, pinned),
			sec(name, 2, 1, 0, pinned),
			sec(name, 1, 0, 1),
			"\n[" + name + "]\n",
			"\n[" + name,
		}).Draw(t, name)
	}
	return map[string]func(*rapid.T){
		"add a device": func(t *rapid.T) {
			if k := which(t); h.present[k] == nil {
				h.present[k] = h.addPF(t, k, addresses[k])
				h.sent()
			}
		},
		"remove a device": func(t *rapid.T) {
			k := which(t)
			if d := h.present[k]; d != nil {
				delete(h.starting, d)
				h.remove(t, d)
				h.present[k] = nil
				h.sent()
			}
		},
		"start or stop a device": func(t *rapid.T) {
			switch d := h.present[which(t)]; {
			case d == nil:
			case d.uio != "":
				delete(h.starting, d)
				h.down(t, d)
			case rapid.Bool().Draw(t, "silent end"):
				h.starting[d] = true
				h.addUIO(t, d)
			default:
				h.up(t, d)
			}
			h.sent()
		},
		"finish a start": func(t *rapid.T) { h.finishStart(h.present[which(t)]) },
		"write a file": func(t *rapid.T) {
			name := fmt.Sprintf("c6xx_dev%d", which(t))
			h.conf(t, name, section(t, "A"), section(t, "B"))
			h.sent(h.confPath(name))
		},
		"remove a file": func(t *rapid.T) {
			path := h.confPath(fmt.Sprintf("c6xx_dev%d", which(t)))
			if os.Remove(path) == nil {
				h.sent(path)
			}
		},
		"add or remove a node": func(t *rapid.T) {
			node := filepath.Join(h.Dev(), "usdm_drv")
			if os.Remove(node) != nil {
				must(t, os.WriteFile(node, nil, 0o600))
			}
			h.sent(node)
		},
		"let adf_ctl fail":   func(*rapid.T) { h.fail = !h.mode.adfctl.running },
		"let adf_ctl answer": func(t *rapid.T) { h.answer(rapid.Bool().Draw(t, "late key")) },
		"receive events in any order": func(t *rapid.T) {
			h.queue = rapid.Permutation(h.queue).Draw(t, "order")
			h.receive(rapid.IntRange(0, len(h.queue)).Draw(t, "received"))
		},
		"repeat events": func(t *rapid.T) {
			h.queue = append(h.queue, h.queue[:rapid.IntRange(0, len(h.queue)).Draw(t, "repeated")]...)
		},
		"lose events": func(t *rapid.T) {
			n := rapid.IntRange(0, len(h.queue)).Draw(t, "lost")
			h.queue, h.lost = h.queue[n:], h.lost || n > 0
		},
		"reconcile": func(*rapid.T) { h.reconcile(hostwatch.Batch[Key]{}) },
		"resync":    func(*rapid.T) { h.resync() },
		"audit": func(*rapid.T) {
			h.reconcile(hostwatch.Batch[Key]{Audit: true, All: !h.state.Complete})
		},
	}
}

// finish lets everything happen that is under way: events, starts, runs of adf_ctl and retries.
// It repairs the files that cannot be parsed, because their earlier content is still in effect.
func (h *history) finish() {
	for k := range h.present {
		name := fmt.Sprintf("c6xx_dev%d", k)
		if text, err := os.ReadFile(h.confPath(name)); err == nil {
			if _, err := parseConfig(string(text)); err != nil {
				h.conf(h.t, name)
				h.sent(h.confPath(name))
			}
		}
	}
	h.receive(len(h.queue))
	h.reconcile(hostwatch.Batch[Key]{All: h.lost})
	for _, d := range h.present {
		h.finishStart(d)
	}
	for range 100 {
		switch {
		case h.asking:
			h.answer(false)
		case h.state.Next.IsZero():
			return
		default:
			h.now = h.state.Next
		}
		h.reconcile(hostwatch.Batch[Key]{})
	}
	h.t.Fatal("the mode does not come to rest")
}

// Events say where to look and never what is there. If each loss is reported, the Tree therefore
// follows from the files and from adf_ctl alone, whatever became of the events.
func TestAnyHistoryEndsInTheTreeOfAFreshRead(t *testing.T) {
	parent := tempDir(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(parent, fmt.Sprint(n))
		defer os.RemoveAll(dir)
		ctx, cancel := context.WithCancel(context.Background())
		h := newHistory(ctx, t, dir)
		defer h.mode.Close()
		defer cancel()
		t.Repeat(h.actions())
		h.finish()
		tree, skipped := h.fresh(t)
		if diff := cmp.Diff(filled(tree), filled(h.state.Tree)); diff != "" {
			t.Fatalf("the Tree after this history (-fresh read +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string(skipped), h.state.Skipped, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("what is skipped after this history (-fresh read +got):\n%s", diff)
		}
	})
}

// filled leaves out empty resources. They stay for the kubelet, and a fresh
// read does not know that they ever existed.
func filled(tree *devtree.Tree) map[string][]*devtree.Device {
	m := map[string][]*devtree.Device{}
	for r := range tree.Resources() {
		for d := range r.Devices() {
			m[r.Name()] = append(m[r.Name()], d)
		}
	}
	return m
}
