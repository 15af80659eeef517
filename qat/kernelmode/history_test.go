package kernelmode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A history is a host to which things happen, and a loop that hears of them late, twice, in another order, or not at all, and whose
// adf_ctl takes its time or fails. No event names what the driver does last when it starts a device.
type history struct {
	*testHost
	t        *rapid.T
	loop     *loop
	now      time.Time
	present  [3]*testDevice
	starting map[*testDevice]bool
	queue    []events.Event // sent and not heard yet
	lost     bool           // some will never be
	fail     bool           // adf_ctl fails the next time
	said     *answer        // what adf_ctl said and the loop does not know yet
}

func newHistory(t *rapid.T, dir string) *history {
	w := &history{testHost: makeTestHost(t, dir, lookalike.WithoutIOMMU()), t: t, now: time.Now(), starting: map[*testDevice]bool{}}
	p, err := New(w.config())
	check(t, err)
	w.loop = newLoop(p, func() ([]byte, error) {
		if w.fail {
			w.fail = false
			return nil, errors.New("no")
		}
		return []byte(w.statusText()), nil
	}, func(*devtree.Tree) {})
	w.loop.begin()
	w.asked()
	return w
}

// asked lets adf_ctl read the devices' states now, though its answer may come much later.
func (w *history) asked() {
	if w.loop.running && w.said == nil {
		a := <-w.loop.answers
		w.said = &a
	}
}

func (w *history) turn() {
	w.loop.turn(w.now)
	w.asked()
}

func (w *history) answer() {
	if a := w.said; a != nil {
		w.said = nil
		w.loop.answered(*a, w.now)
		w.asked()
	}
}

// sent takes over the uevents of what was done, and the events of inotify that are given.
func (w *history) sent(paths ...string) {
	for _, message := range w.testHost.queue.take() {
		var e events.Event
		check(w.t, events.ParseUevent(&e, message))
		w.queue = append(w.queue, e)
	}
	for _, path := range paths {
		w.queue = append(w.queue, events.Event{Origin: events.Inotify, Action: events.Create, Path: []byte(path)})
	}
}

func (w *history) hear(n int) {
	for _, e := range w.queue[:n] {
		e.Time = w.now
		w.loop.Event(&e)
	}
	w.queue = w.queue[n:]
	w.turn()
}

func (w *history) resync() {
	w.loop.Resync("test")
	w.turn()
	w.lost = false
}

// started is the silent end of a start.
func (w *history) started(d *testDevice) {
	if w.starting[d] {
		delete(w.starting, d)
		w.setState(w.t, d, "up")
	}
}

func (w *history) actions() map[string]func(*rapid.T) {
	addresses := [...]string{addressA, addressB, "0000:5e:00.0"}
	which := func(t *rapid.T) int { return rapid.IntRange(0, len(w.present)-1).Draw(t, "device") }
	section := func(t *rapid.T, name string) string {
		return rapid.SampledFrom([]string{
			"", sec(name, 1, 1, 0), sec(name, 2, 1, 0), sec(name, 1, 1, 0, pinned), sec(name, 2, 1, 0, pinned), sec(name, 1, 0, 1), "\n[" + name + "]\n", "\n[" + name,
		}).Draw(t, name)
	}
	return map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			if k := which(t); w.present[k] == nil {
				w.present[k] = w.addPF(t, k, addresses[k])
				w.sent()
			}
		},
		"remove": func(t *rapid.T) {
			k := which(t)
			if d := w.present[k]; d != nil {
				delete(w.starting, d)
				w.remove(t, d)
				w.present[k] = nil
				w.sent()
			}
		},
		"up or down": func(t *rapid.T) {
			switch d := w.present[which(t)]; {
			case d == nil:
			case d.uio != "":
				delete(w.starting, d)
				w.down(t, d)
			case rapid.Bool().Draw(t, "silent end"):
				w.starting[d] = true
				w.addUIO(t, d)
			default:
				w.up(t, d)
			}
			w.sent()
		},
		"started": func(t *rapid.T) { w.started(w.present[which(t)]) },
		"file": func(t *rapid.T) {
			name := fmt.Sprintf("c6xx_dev%d", which(t))
			w.conf(t, name, section(t, "A"), section(t, "B"))
			w.sent(filepath.Join(w.etc, name+".conf"))
		},
		"no file": func(t *rapid.T) {
			name := filepath.Join(w.etc, fmt.Sprintf("c6xx_dev%d.conf", which(t)))
			if os.Remove(name) == nil {
				w.sent(name)
			}
		},
		"node": func(t *rapid.T) {
			name := filepath.Join(w.Dev(), "usdm_drv")
			if os.Remove(name) != nil {
				check(t, os.WriteFile(name, nil, 0o600))
			}
			w.sent(name)
		},
		"adf_ctl fails":   func(*rapid.T) { w.fail = !w.loop.running },
		"adf_ctl answers": func(*rapid.T) { w.answer() },
		"hear some, in any order": func(t *rapid.T) {
			w.queue = rapid.Permutation(w.queue).Draw(t, "order")
			w.hear(rapid.IntRange(0, len(w.queue)).Draw(t, "heard"))
		},
		"hear twice": func(t *rapid.T) {
			n := rapid.IntRange(0, len(w.queue)).Draw(t, "doubled")
			w.queue = append(w.queue, w.queue[:n]...)
		},
		"lose some": func(t *rapid.T) {
			n := rapid.IntRange(0, len(w.queue)).Draw(t, "lost")
			w.queue, w.lost = w.queue[n:], w.lost || n > 0
		},
		"resync": func(*rapid.T) { w.resync() },
	}
}

// end lets all that is under way happen: events, starts, answers, and retries.
func (w *history) end() {
	w.hear(len(w.queue))
	if w.lost {
		w.resync()
	}
	for _, d := range w.present {
		w.started(d)
	}
	for range 100 {
		if w.loop.running {
			w.answer()
			continue
		}
		next := w.loop.schedule.next()
		if next.IsZero() {
			return
		}
		w.now = next
		w.turn()
	}
	w.t.Fatal("the loop does not come to rest")
}

// DESIGN: an event says where to look, never what is there. So whatever becomes of events, if each loss is told of, the Tree is the one
// that follows from the files, and from what adf_ctl says, alone.
func TestAnyHistoryEndsInWhatTheHostSays(t *testing.T) {
	parent, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(parent, fmt.Sprint(n))
		defer os.RemoveAll(dir)
		w := newHistory(t, dir)
		t.Repeat(w.actions())
		w.end()
		tree, left := w.freshTree(t)
		if diff := cmp.Diff(filled(tree), filled(w.loop.known.tree)); diff != "" {
			t.Fatalf("the Tree after this history (-fresh look +got):\n%s", diff)
		}
		if diff := cmp.Diff(sortOmissions(left), w.loop.known.left, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("what is left out after this history (-fresh look +got):\n%s", diff)
		}
	})
}

// filled leaves out the resources that are empty: they stay for the kubelet, and a fresh look does not know that they ever were.
func filled(tree *devtree.Tree) map[string][]*devtree.Device {
	m := map[string][]*devtree.Device{}
	for r := range tree.Resources() {
		for d := range r.Devices() {
			m[r.Name()] = append(m[r.Name()], d)
		}
	}
	return m
}
