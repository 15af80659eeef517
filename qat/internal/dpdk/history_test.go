// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
)

// A history is a host to which things happen, and a controller that learns of
// them late, twice, in another order, or not at all.
type history struct {
	t          *rapid.T
	host       *lookalike.Host
	attributes bool // devices have attributes
	controller *controller
	queue      []events.Event // sent and not delivered yet
	lost       bool           // some never will be
}

// newReader returns a controller of the host that binds nothing.
func newReader(t interface{ Cleanup(func()) }, h *lookalike.Host, attributes bool) *controller {
	cfg := Config{NoBind: true, Attributes: attributes}
	c := New(context.Background(), withDefaults(h, cfg, nil), hostwatch.Host[Key]{
		Mark:    func(Key, time.Time) {},
		Watches: hostwatch.NewWatches(nil),
	}).(*controller)
	t.Cleanup(c.Close)
	return c
}

// historyPFs come and go. They differ in their services; the third is Gen2.
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
	w := &history{t: t, host: h, attributes: rapid.Bool().Draw(t, "attributes")}
	w.controller = newReader(t, h, w.attributes)
	h.Uevents(func(message []byte) {
		var e events.Event
		if err := events.ParseUevent(&e, slices.Clone(message)); err != nil {
			t.Fatal(err)
		}
		w.queue = append(w.queue, e)
	})
	if err := h.LoadDriver(device.DriverVFIO, "disable_denylist=1"); err != nil {
		t.Fatal(err)
	}
	return w
}

// checkDevicesAreUnique fails if a device is in two resources.
func (w *history) checkDevicesAreUnique(tree *devtree.Tree) {
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

// write sets an attribute of a PF, as a user does.
func (w *history) write(pf, attribute, value string) {
	if w.host.SetAttr(pf, attribute, value) != nil {
		return
	}
	path := filepath.Join(w.host.Path(pf), attribute)
	w.queue = append(w.queue, events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte(path)})
}

// actions are what can happen. The host may refuse an action, such as removing
// a VF that does not exist.
func (w *history) actions() map[string]func(*rapid.T) {
	pf := func(t *rapid.T) lookalike.PF { return rapid.SampledFrom(historyPFs).Draw(t, "pf") }
	vf := func(t *rapid.T) string {
		var all []string
		for _, p := range historyPFs {
			all = append(all, w.host.VFs(p.Address)...)
		}
		if len(all) == 0 {
			t.Skip("no VF") // of rapid.T: another action is drawn instead
		}
		slices.Sort(all)
		return rapid.SampledFrom(all).Draw(t, "vf")
	}
	return map[string]func(*rapid.T){
		"add PF":    func(t *rapid.T) { _ = w.host.AddPF(pf(t)) },
		"remove PF": func(t *rapid.T) { _ = w.host.RemovePF(pf(t).Address) },
		"VFs":       func(t *rapid.T) { _ = w.host.SetVFs(pf(t).Address, rapid.SampledFrom([]int{0, 4}).Draw(t, "n")) },
		"remove VF": func(t *rapid.T) { _ = w.host.RemoveVF(vf(t)) },
		"bind":      func(t *rapid.T) { _ = w.host.Bind(vf(t), device.DriverVFIO) },
		"unbind":    func(t *rapid.T) { _ = w.host.Unbind(vf(t)) },
		"failing bind": func(t *rapid.T) {
			a := vf(t)
			w.host.FailBind(a, fmt.Errorf("no"))
			_ = w.host.Bind(a, device.DriverVFIO)
			w.host.FailBind(a, nil)
		},
		"services": func(t *rapid.T) {
			values := []string{"dc", "sym;asym", "sym;dc", "", "x"}
			w.write(pf(t).Address, "qat/cfg_services", rapid.SampledFrom(values).Draw(t, "services"))
		},
		"state": func(t *rapid.T) {
			w.write(pf(t).Address, "qat/state", rapid.SampledFrom([]string{"up", "down"}).Draw(t, "state"))
		},
		"deliver some, in any order": func(t *rapid.T) {
			w.queue = rapid.Permutation(w.queue).Draw(t, "order")
			w.deliver(rapid.IntRange(0, len(w.queue)).Draw(t, "delivered"))
		},
		"deliver twice": func(t *rapid.T) {
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

// deliver delivers the first n events of the queue.
func (w *history) deliver(n int) {
	b := &hostwatch.Batch[Key]{}
	for _, e := range w.queue[:n] {
		key, verdict := w.controller.Classify(&e)
		switch verdict {
		case hostwatch.Relevant:
			b.Keys = append(b.Keys, key)
		case hostwatch.RelevantToAll:
			b.All = true
		}
	}
	w.queue = w.queue[n:]
	w.reconcile(b)
}

func (w *history) resync() {
	w.reconcile(&hostwatch.Batch[Key]{All: true})
	w.lost = false
}

func (w *history) reconcile(b *hostwatch.Batch[Key]) {
	w.checkDevicesAreUnique(w.controller.Reconcile(time.Now(), b).Tree)
}

// An event says where to look, never what is true there. So whatever becomes of the events, as
// long as each loss is reported, the Tree is the one that reading the whole host makes.
func TestAnyHistoryEndsInTheTreeOfAFullRead(t *testing.T) {
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := newHistory(t, filepath.Join(dir, fmt.Sprint(n)))
		t.Repeat(w.actions())
		w.deliver(len(w.queue))
		if w.lost {
			w.resync()
		}
		fresh := newReader(t, w.host, w.attributes).Reconcile(time.Now(), &hostwatch.Batch[Key]{All: true})
		if diff := cmp.Diff(devicesOf(fresh.Tree), devicesOf(w.controller.assignment.tree)); diff != "" {
			t.Fatalf("the Tree after this history (-full read +got):\n%s", diff)
		}
	})
}

// devicesOf leaves out empty resources, which stay in a Tree once they had a device.
func devicesOf(tree *devtree.Tree) map[string][]*devtree.Device {
	m := map[string][]*devtree.Device{}
	for r := range tree.Resources() {
		for d := range r.Devices() {
			m[r.Name()] = append(m[r.Name()], d)
		}
	}
	return m
}
