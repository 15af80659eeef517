// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/qat/internal/hostwatch"
)

func (r *rig) audit() {
	r.t.Helper()
	r.reconcile(&hostwatch.Batch[Key]{Audit: true})
}

func TestAuditReportsDriftAfterTheGracePeriod(t *testing.T) {
	remove := func(h *lookalike.Host) error { return h.RemoveVF(vfA2) }
	for name, tt := range map[string]struct {
		change func(h *lookalike.Host) error // which no event reports
		within func(t *testing.T, h *lookalike.Host, r *rig)
		drift  uint64
		want   []string // listed in the end
	}{
		"nothing changed": {want: []string{vfA1, vfA2}},
		"VF gone":         {change: remove, drift: 1, want: []string{vfA1}}, // the PF, which comes first
		"VF gone that its PF still links to": {
			change: func(h *lookalike.Host) error { return os.Remove(h.Path(vfA2)) },
			drift:  1,
			want:   []string{vfA1},
		},
		"VF new": {
			change: func(h *lookalike.Host) error {
				if err := h.AddVF(lookalike.VF{Address: vfA3, PF: pfA}); err != nil {
					return err
				}
				return h.Bind(vfA3, "vfio-pci")
			},
			drift: 2, // the VF, and its link of the PF
			want:  []string{vfA1, vfA2, vfA3},
		},
		"event within the grace period": {
			change: remove,
			within: func(_ *testing.T, _ *lookalike.Host, r *rig) { r.read(pfA, vfA2) },
			want:   []string{vfA1},
		},
		"full read within the grace period": {
			change: remove,
			within: func(_ *testing.T, _ *lookalike.Host, r *rig) { r.rescan() },
			want:   []string{vfA1},
		},
		"change undone within the grace period": {
			change: func(h *lookalike.Host) error { return os.Rename(h.Path(vfA2)+"/numa_node", h.Dir()+"/aside") },
			within: func(t *testing.T, h *lookalike.Host, _ *rig) {
				must(t, os.Rename(h.Dir()+"/aside", h.Path(vfA2)+"/numa_node"))
			},
			want: []string{vfA1, vfA2},
		},
		"another audit within the grace period": {
			change: remove,
			within: func(_ *testing.T, _ *lookalike.Host, r *rig) { r.audit() },
			drift:  1,
			want:   []string{vfA1},
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1, vfA2)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			if tt.change != nil {
				must(t, tt.change(h))
			}
			r.audit()
			r.wantList(map[string][]string{"cy": {vfA1, vfA2}})
			time.Sleep(hostwatch.AuditGrace / 2)
			if tt.within != nil {
				tt.within(t, h, r)
			}
			time.Sleep(hostwatch.AuditGrace/2 - time.Nanosecond)
			r.settle()
			if n := r.controller.drift.Total(); n != 0 {
				t.Errorf("drift %d within the grace period, want 0", n)
			}
			time.Sleep(time.Nanosecond)
			r.settle()
			if n := r.controller.drift.Total(); n != tt.drift {
				t.Errorf("drift %d, want %d", n, tt.drift)
			}
			r.wantList(map[string][]string{"cy": tt.want})
			r.pass(time.Hour)
			if n := r.controller.drift.Total(); n != tt.drift {
				t.Errorf("drift %d an hour later, want %d", n, tt.drift)
			}
		})
	}
}

// The event or full read has read every earlier change. A later change is left to the next audit.
func TestSuspectIsForgottenWhenItIsRead(t *testing.T) {
	for name, read := range map[string]func(r *rig){
		"event":     func(r *rig) { r.read(pfA) },
		"full read": func(r *rig) { r.rescan() },
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			must(t, h.SetAttr(pfA, "qat/cfg_services", "dc"))
			r.audit()
			read(r)
			must(t, h.SetAttr(pfA, "qat/cfg_services", "sym"))
			r.pass(time.Hour)
			if n := r.controller.drift.Total(); n != 0 {
				t.Errorf("drift %d, want 0", n)
			}
		})
	}
}

func TestSuspectWakesThePlugin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		must(t, h.SetAttr(pfA, "qat/cfg_services", "dc"))
		r.audit()
		if wait := r.wake(); wait != hostwatch.AuditGrace {
			t.Errorf("the plugin wakes after %v, want %v", wait, hostwatch.AuditGrace)
		}
		r.wantList(map[string][]string{"cy": {}, "dc": {vfA1}})
	})
}

func TestDriftIsAnErrorUnlessChangesMayGoUnreported(t *testing.T) {
	for name, mayMiss := range map[string]bool{"all is reported": false, "events may be missed": true} {
		inBubble(t, name, func(t *testing.T) {
			log := testlog.Capture(t)
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			must(t, h.Unbind(vfA1))
			r.audit()
			time.Sleep(hostwatch.AuditGrace)
			r.reconcile(&hostwatch.Batch[Key]{MayMissEvents: mayMiss})
			const want = `before="in cy" now="not listed: it is not bound to vfio-pci`
			found := false
			for _, line := range log() {
				found = found || strings.HasPrefix(line, `"Drift: `) && strings.Contains(line, want)
			}
			if found == mayMiss {
				t.Errorf("drift is logged: %v, want %v: %q", found, !mayMiss, log())
			}
		})
	}
}

func TestHostWithoutPCIBusIsNotComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testlog.Capture(t)
		h := newHost4xxx(t)
		dir, aside := filepath.Join(h.Sysfs(), "bus/pci/devices"), filepath.Join(h.Dir(), "aside")
		must(t, os.Rename(dir, aside))
		r := newRig(t, h, Config{})
		r.rescan()
		r.rescan()
		if r.state.Complete {
			t.Error("complete without a list of PCI functions")
		}
		n := 0
		for _, line := range log() {
			if strings.HasPrefix(line, `"Cannot list the host's PCI functions`) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("logged %d times, want once: %q", n, log())
		}
		must(t, os.Rename(aside, dir))
		if r.rescan(); !r.state.Complete {
			t.Error("not complete after the list could be read")
		}
	})
}

func TestOutcome(t *testing.T) {
	const notBound = "it is not bound to vfio-pci, and -bind=false leaves binding to others"
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
		addVFs(t, h, pfA, vfA1, vfA2)
		addVFs(t, h, pfB, vfB1)
		must(t, h.Unbind(vfA2))
		must(t, h.SetAttr(pfB, "qat/state", "down"))
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		function := func(a string) Key { return Key{address: r.address(a)} }
		want := map[Key]string{
			function(pfA):               "PF with 2 VFs, resource cy",
			function(vfA1):              "in cy",
			function(vfA2):              "not listed: " + notBound,
			function(vfB1):              "in dc, unhealthy: its PF 0000:70:00.0 is down",
			function(vfA3):              "no QAT function there",
			{kind: keyGroup, group: 12}: "read IOMMU group 12",
			{kind: keyNodes}:            "read unusable VFs, after a device node changed",
			{kind: keyDriver}:           "read unusable VFs, after the DPDK driver changed",
		}
		for key, want := range want {
			if got := r.controller.Outcome(key); got != want {
				t.Errorf("Outcome(%v) = %q, want %q", key, got, want)
			}
		}
		file := filepath.Join(h.Path(pfB), "qat/cfg_services")
		must(t, os.Remove(file))
		must(t, os.Mkdir(file, 0o755)) // reading it fails with EISDIR
		r.read(pfB)
		if got := r.controller.Outcome(function(pfB)); !strings.HasPrefix(got, "PF that cannot be read: ") {
			t.Errorf("Outcome of an unreadable PF = %q", got)
		}
	})
}
