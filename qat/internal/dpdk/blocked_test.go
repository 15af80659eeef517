// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/readpool"
)

// newHost2PFs returns a host with two PFs for cy and dc, and two VFs of each that are bound.
func newHost2PFs(t *testing.T) *lookalike.Host {
	t.Helper()
	h := newHost4xxx(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	addVFs(t, h, pfA, vfA1, vfA2)
	addVFs(t, h, pfB, vfB1, vfB2)
	return h
}

func TestFirstListDoesNotWaitForABlockedRead(t *testing.T) {
	for name, tt := range map[string]struct {
		blocked []string
		want    map[string][]string
		skipped []string
	}{
		"VF": {
			[]string{vfA1}, map[string][]string{"cy": {vfA2}, "dc": {vfB1, vfB2}}, []string{vfA1},
		},
		"PF": {
			[]string{pfA}, map[string][]string{"dc": {vfB1, vfB2}}, []string{pfA, vfA1, vfA2},
		},
		"PF and its VFs": {
			[]string{pfA, vfA1, vfA2}, map[string][]string{"dc": {vfB1, vfB2}}, []string{pfA, vfA1, vfA2},
		},
		"all": {
			[]string{pfA, vfA1, vfA2, pfB, vfB1, vfB2}, map[string][]string{},
			[]string{pfA, vfA1, vfA2, pfB, vfB1, vfB2},
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			r := newRig(t, newHost2PFs(t), Config{NoBind: true})
			release := r.holdReads(tt.blocked...)
			start := time.Now()
			r.rescan()
			if took := time.Since(start); took > 3*readpool.Wait {
				t.Errorf("the first list took %v, want %v at most", took, 3*readpool.Wait)
			}
			r.wantList(tt.want)
			r.wantSkipped(tt.skipped...)
			if !r.state.Complete {
				t.Error("the first read is not complete")
			}
			release()
			r.settle()
			r.wantList(map[string][]string{"cy": {vfA1, vfA2}, "dc": {vfB1, vfB2}})
			r.wantSkipped()
		})
	}
}

func TestManyBlockedReadsDelayOthersLikeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		must(t, h.LoadDriver(device.DriverVFIO))
		var blocked, want []string
		for i := range 64 {
			pf := pci.Address{Bus: uint8(i + 1)}.String()
			must(t, h.AddPF(lookalike.PF{Address: pf, Services: "dc"}))
			must(t, h.SetVFs(pf, 1))
			bindAll(t, h, pf, device.DriverVFIO)
			blocked = append(append(blocked, pf), h.VFs(pf)...)
		}
		must(t, h.AddPF(lookalike.PF{Address: "0000:ff:00.0", Services: "dc"}))
		addVFs(t, h, "0000:ff:00.0", "0000:ff:00.1")
		want = []string{"0000:ff:00.1"}
		r := newRig(t, h, Config{NoBind: true})
		release := r.holdReads(blocked...)
		start := time.Now()
		r.rescan()
		if took := time.Since(start); took > 3*readpool.Wait {
			t.Errorf("the first list took %v, want %v at most", took, 3*readpool.Wait)
		}
		r.wantList(map[string][]string{"dc": want})
		start = time.Now()
		r.audit()
		r.read("0000:ff:00.1")
		if took := time.Since(start); took > 0 {
			t.Errorf("an audit and an event took %v while the same reads are blocked, want no time", took)
		}
		release()
		r.settle()
		if n := r.tree.Resource("dc").Len(); n != 64+1 {
			t.Errorf("%d VFs are listed after the reads returned, want %d", n, 64+1)
		}
	})
}

func TestBlockedReadKeepsWhatIsKnownAndCountsWhenItReturns(t *testing.T) {
	for name, tt := range map[string]struct {
		blocked string
		change  func(h *lookalike.Host) error
		want    map[string][]string // in the end
	}{
		"VF": {
			vfA1, func(h *lookalike.Host) error { return h.Unbind(vfA1) },
			map[string][]string{"cy": {vfA2}, "dc": {vfB1, vfB2}},
		},
		"PF": {
			pfA, func(h *lookalike.Host) error { return h.SetAttr(pfA, "qat/cfg_services", "dc") },
			map[string][]string{"cy": {}, "dc": {vfA1, vfA2, vfB1, vfB2}},
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost2PFs(t)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			before := r.list()
			reads := r.readsOf(tt.blocked)
			release := r.holdReads(tt.blocked)
			must(t, tt.change(h))
			for range 5 {
				r.read(tt.blocked)
				r.pass(10 * time.Second)
				r.audit()
			}
			r.wantList(before)
			r.wantSkipped()
			if n := r.readsOf(tt.blocked) - reads; n != 1 {
				t.Errorf("%d reads of %s, want one that is blocked", n, tt.blocked)
			}
			if next := r.nextWake(); !next.IsZero() {
				t.Errorf("the plugin would wake at %v though only the kernel can go on", next)
			}
			if n := r.controller.drift.Total(); n != 0 {
				t.Errorf("drift %d, want 0", n)
			}
			release()
			r.settle()
			r.wantList(tt.want)
			if n := r.readsOf(tt.blocked) - reads; n != 2 {
				t.Errorf("%d reads of %s, want another one for the events meanwhile", n, tt.blocked)
			}
		})
	}
}

func TestBlockedReadsDoNotKeepAnAuditFromTheOtherFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost2PFs(t)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		r.holdReads(pfA, pfB, vfA1, vfA2, vfB1)
		must(t, h.Unbind(vfB2)) // which no event reports
		start := time.Now()
		r.audit()
		if took := time.Since(start); took > 3*readpool.Wait {
			t.Errorf("the audit took %v, want %v at most", took, 3*readpool.Wait)
		}
		r.pass(hostwatch.AuditGrace)
		r.wantList(map[string][]string{"cy": {vfA1, vfA2}, "dc": {vfB1}})
		if n := r.controller.drift.Total(); n != 1 {
			t.Errorf("drift %d, want 1", n)
		}
	})
}

// A device whose reads always take long must be listed all the same.
func TestSlowReadCountsWithoutAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true})
		release := r.holdReads(vfA1)
		r.rescan()
		r.wantSkipped(vfA1)
		release()
		r.settle()
		r.wantSkipped()
		if n := r.readsOf(vfA1); n != 1 {
			t.Errorf("%d reads, want 1", n)
		}
	})
}

func TestBlockedReadIsLoggedOnceWithItsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testlog.Capture(t)
		h := newHost2PFs(t)
		r := newRig(t, h, Config{NoBind: true})
		release := r.holdReads(vfA1)
		r.rescan()
		blocked := func() (lines []string) {
			for _, line := range log() {
				if strings.HasPrefix(line, `"A read does not return`) {
					lines = append(lines, line)
				}
			}
			return lines
		}
		if r.pass(readpool.Timeout - 5*readpool.Wait); len(blocked()) != 0 {
			t.Errorf("logged before %v: %q", readpool.Timeout, log())
		}
		r.pass(time.Hour)
		file := ` file="` + h.Path(vfA1) + `"`
		if lines := blocked(); len(lines) != 1 || !strings.Contains(lines[0], file) {
			t.Errorf("logged %q, want one line with%s", lines, file)
		}
		if reason := r.reason(vfA1); !strings.Contains(reason, "read "+h.Path(vfA1)+":") {
			t.Errorf("the VF is not listed because %q, want the name of the file", reason)
		}
		release()
		r.settle()
		if !slices.ContainsFunc(log(), func(line string) bool {
			return strings.HasPrefix(line, `"A read has returned at last" device="`+vfA1)
		}) {
			t.Errorf("the end is not logged: %q", log())
		}
	})
}

func TestFunctionThatVanishesDuringABlockedReadIsGone(t *testing.T) {
	for name, known := range map[string]bool{"listed": true, "skipped": false} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost2PFs(t)
			r := newRig(t, h, Config{NoBind: true})
			if known {
				r.rescan()
			}
			release := r.holdReads(vfA1)
			r.rescan()
			must(t, h.RemoveVF(vfA1))
			r.read(vfA1, pfA)
			r.wantList(map[string][]string{"cy": {vfA2}, "dc": {vfB1, vfB2}})
			r.wantSkipped()
			addVFs(t, h, pfA, vfA1)
			r.read(vfA1)
			release()
			r.settle()
			r.wantList(map[string][]string{"cy": {vfA1, vfA2}, "dc": {vfB1, vfB2}})
		})
	}
}

func TestBlockedReadDoesNotEndABinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		r := newRig(t, h, Config{})
		r.rescan()
		release := r.holdReads(vfA1)
		r.read(vfA1)
		r.pass(time.Minute)
		if n := r.probes(vfA1); n != 1 {
			t.Errorf("the kernel was asked %d times to bind a VF that cannot be read, want once before", n)
		}
		must(t, h.Bind(vfA1, device.DriverVFIO))
		release()
		r.settle()
		r.wantList(map[string][]string{"cy": {vfA1}})
	})
}

func TestCloseDoesNotWaitLongForABlockedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newHost2PFs(t), Config{NoBind: true})
		r.holdReads(vfA1)
		r.rescan()
		start := time.Now()
		r.controller.Close()
		if took := time.Since(start); took == 0 || took > 3*time.Second {
			t.Errorf("Close took %v, want that it waits a while", took)
		}
	})
}

// The kubelet admits no other pod while it waits for Allocate.
func TestAllocateDoesNotWaitLongForABlockedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost2PFs(t)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		must(t, h.Unbind(vfA1)) // so that it is read to find out why it is not usable
		held, reads := make(chan struct{}), 0
		reader := r.config.Reader
		read := func(a pci.Address, p *device.Progress) (*device.Function, error) {
			reads++
			vf, err := reader.Tracked(p).Read(a)
			<-held
			return vf, err
		}
		c := newAllocator(reader, r.config.Driver, read)
		devices := []*devtree.Device{r.device(vfA1)}
		for _, want := range []time.Duration{readpool.Timeout, 0} {
			start := time.Now()
			err := c.PostAllocate(devices, &devtree.ContainerEdits{})
			text := "allocate " + vfA1 + ": read " + h.Path(vfA1) + ": it has not returned"
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("PostAllocate: %v, want %q", err, text)
			}
			if took := time.Since(start); took != want {
				t.Errorf("PostAllocate took %v, want %v", took, want)
			}
		}
		close(held)
		synctest.Wait()
		if err := c.PostAllocate(devices, &devtree.ContainerEdits{}); !errors.Is(err, devtree.ErrUnfit) || reads != 2 {
			t.Errorf("PostAllocate: %v after %d reads, want that the VF is not bound, after 2", err, reads)
		}
	})
}
