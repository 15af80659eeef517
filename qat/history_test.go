package qat

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A history is a host to which things happen, and a loop that hears of them late, twice, in another order, or not at all.
type history struct {
	t     *rapid.T
	host  *lookalike.Host
	loop  *loop
	queue []events.Event // sent and not heard yet
	lost  bool           // some will never be
}

// pfs are the PFs that come and go; the second has other services, the third is of Gen2.
var historyPFs = []lookalike.PF{
	{Address: pfA, Services: "sym;asym", TotalVFs: 4},
	{Address: pfB, DeviceID: "4944", Services: "dc", TotalVFs: 4},
	{Address: "0000:3d:00.0", DeviceID: "37c8", TotalVFs: 4},
}

func newHistory(t *rapid.T, dir string) *history {
	h, err := lookalike.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := &history{t: t, host: h}
	p, err := New(Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), AuditInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	w.loop = newLoop(p, func(tree *devtree.Tree) { w.checkEachDeviceIsOnce(tree) })
	w.loop.fold = newFoldOf(h, 0)
	h.Uevents(func(message []byte) {
		var e events.Event
		if err := events.ParseUevent(&e, slices.Clone(message)); err != nil {
			t.Fatal(err)
		}
		w.queue = append(w.queue, e)
	})
	if err := h.LoadDriver(driverVFIO, "disable_denylist=1"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *history) checkEachDeviceIsOnce(tree *devtree.Tree) {
	seen := map[string]string{}
	for r := range tree.Resources() {
		for d := range r.Devices() {
			if other := seen[d.ID]; other != "" {
				w.t.Fatalf("device %s is in %s and in %s", d.ID, other, r.Name())
			}
			seen[d.ID] = r.Name()
		}
	}
}

func (w *history) wrote(address, attribute string) {
	w.queue = append(w.queue, events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte(filepath.Join(w.host.Path(address), attribute))})
}

// actions are what can happen. The host's refusals, as of a VF that is not there, are part of life.
func (w *history) actions() map[string]func(*rapid.T) {
	pf := func(t *rapid.T) lookalike.PF { return rapid.SampledFrom(historyPFs).Draw(t, "pf") }
	vf := func(t *rapid.T) string {
		var all []string
		for _, p := range historyPFs {
			all = append(all, w.host.VFs(p.Address)...)
		}
		if len(all) == 0 {
			t.Skip("no VF")
		}
		slices.Sort(all)
		return rapid.SampledFrom(all).Draw(t, "vf")
	}
	return map[string]func(*rapid.T){
		"add PF":    func(t *rapid.T) { _ = w.host.AddPF(pf(t)) },
		"remove PF": func(t *rapid.T) { _ = w.host.RemovePF(pf(t).Address) },
		"VFs":       func(t *rapid.T) { _ = w.host.SetVFs(pf(t).Address, rapid.SampledFrom([]int{0, 4}).Draw(t, "n")) },
		"remove VF": func(t *rapid.T) { _ = w.host.RemoveVF(vf(t)) },
		"bind":      func(t *rapid.T) { _ = w.host.Bind(vf(t), driverVFIO) },
		"unbind":    func(t *rapid.T) { _ = w.host.Unbind(vf(t)) },
		"failing bind": func(t *rapid.T) {
			a := vf(t)
			w.host.FailBind(a, fmt.Errorf("no"))
			_ = w.host.Bind(a, driverVFIO)
			w.host.FailBind(a, nil)
		},
		"services": func(t *rapid.T) {
			p := pf(t)
			if w.host.SetAttr(p.Address, "qat/cfg_services", rapid.SampledFrom([]string{"dc", "sym;asym", "sym;dc", "", "x"}).Draw(t, "services")) == nil {
				w.wrote(p.Address, "qat/cfg_services")
			}
		},
		"state": func(t *rapid.T) {
			p := pf(t)
			if w.host.SetAttr(p.Address, "qat/state", rapid.SampledFrom([]string{"up", "down"}).Draw(t, "state")) == nil {
				w.wrote(p.Address, "qat/state")
			}
		},
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
		"resync": func(t *rapid.T) { w.resync() },
	}
}

func (w *history) hear(n int) {
	for _, e := range w.queue[:n] {
		w.loop.Event(&e)
	}
	w.queue = w.queue[n:]
	w.loop.turn(time.Now())
}

func (w *history) resync() {
	w.loop.Resync("test")
	w.loop.turn(time.Now())
	w.lost = false
}

// DESIGN: an event says where to look, never what is there. So whatever becomes of events, if each loss is told of, the Tree is the one
// that a fresh full read makes.
func TestAnyHistoryEndsInWhatAFreshReadSays(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := newHistory(t, filepath.Join(dir, fmt.Sprint(n)))
		t.Repeat(w.actions())
		w.hear(len(w.queue))
		if w.lost {
			w.resync()
		}
		fresh := newFoldOf(w.host, 0)
		if err := fresh.lookAtAll(time.Now()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(filled(fresh.tree), filled(w.loop.fold.tree)); diff != "" {
			t.Fatalf("the Tree after this history (-fresh read +got):\n%s", diff)
		}
	})
}

// filled leaves out the resources that are empty: they stay for the kubelet, and a fresh read does not know that they ever were.
func filled(tree *devtree.Tree) map[string][]*devtree.Device {
	m := map[string][]*devtree.Device{}
	for r := range tree.Resources() {
		for d := range r.Devices() {
			m[r.Name()] = append(m[r.Name()], d)
		}
	}
	return m
}
