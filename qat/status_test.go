// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
)

// status returns a Snapshot of a running Plugin.
func (r *running) status() *status.Snapshot {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), timeout)
	defer cancel()
	s := &status.Snapshot{}
	r.Status(ctx, s)
	for _, l := range s.Loops {
		if l.Err != "" {
			r.t.Fatalf("loop %s: %s", l.Name, l.Err)
		}
	}
	return s
}

// statusBecomes waits until a Snapshot satisfies a condition.
func (r *running) statusBecomes(what string, is func(*status.Snapshot) bool) *status.Snapshot {
	r.t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		s := r.status()
		if is(s) {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("after %v, it is not true that %s: %+v, %+v, %+v", timeout, what, s.PFs, s.Provisioning,
				s.Counters)
		}
	}
}

func TestStatusDescribesPFsAndVFs(t *testing.T) {
	h, vfs := mixedHost(t) // which has a Gen2 PF with four VFs, the second bound to another driver
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym", NUMANode: 1}))
	must(t, h.SetVFs(pfA, 2))
	r := start(t, h, Config{MaxNumDevices: 4, AuditInterval: -1})
	cy := h.VFs(pfA)
	r.becomes(map[string][]string{"cy": {cy[0]}, "generic": {vfs[0], vfs[2], vfs[3]}})
	s := r.statusBecomes("two VFs are skipped", func(s *status.Snapshot) bool {
		skipped := 0
		for _, vf := range s.VFs {
			if vf.State == status.StateSkipped {
				skipped++
			}
		}
		return skipped == 2
	})
	wantPFs := []status.PF{
		{
			Address: pfGen2, Family: "C62x", DeviceID: "37c8", Driver: "c6xx", Resource: "generic",
			VFs: 4, TotalVFs: 4, Health: status.Healthy,
		},
		{
			Address: pfA, Family: "4xxx", DeviceID: "4940", Driver: "4xxx", NUMANode: 1, State: "up",
			Services: "sym;asym", Resource: "cy", VFs: 2, TotalVFs: 16, Health: status.Healthy,
		},
	}
	if diff := cmp.Diff(wantPFs, s.PFs, cmpopts.IgnoreFields(status.PF{}, "Heartbeat")); diff != "" {
		t.Errorf("PFs (-want +got):\n%s", diff)
	}
	listed := func(address, pf, family, id, resource string, numa int) status.VF {
		return status.VF{
			Address: address, PF: pf, Family: family, DeviceID: id, Driver: "vfio-pci", NUMANode: numa,
			State: status.StateListed, Resource: resource,
		}
	}
	gen2 := func(address string) status.VF { return listed(address, pfGen2, "C62x", "37c9", "generic", 0) }
	foreign := gen2(vfs[1])
	foreign.Driver, foreign.State, foreign.Resource = "uio_pci_generic", status.StateSkipped, ""
	foreign.Reason = "it is bound to uio_pci_generic, which is left alone without -steal"
	foreign.Class = status.ClassOtherDriver
	hidden := listed(cy[1], pfA, "4xxx", "4941", "", 1)
	hidden.Driver, hidden.State = "", status.StateSkipped
	hidden.Reason, hidden.Class = "hidden by -max-num-devices=4", status.ClassLimit
	wantVFs := []status.VF{
		gen2(vfs[0]), foreign, gen2(vfs[2]), gen2(vfs[3]), listed(cy[0], pfA, "4xxx", "4941", "cy", 1), hidden,
	}
	if diff := cmp.Diff(wantVFs, s.VFs, cmpopts.IgnoreFields(status.VF{}, "IOMMUGroup", "Node")); diff != "" {
		t.Errorf("VFs (-want +got):\n%s", diff)
	}
	for _, vf := range s.VFs {
		switch {
		case vf.IOMMUGroup == nil:
			t.Errorf("%s has no IOMMU group", vf.Address)
		case vf.Driver != "vfio-pci":
		case vf.Node != fmt.Sprintf("/dev/vfio/%d", *vf.IOMMUGroup):
			t.Errorf("%s in group %d has the node %s", vf.Address, *vf.IOMMUGroup, vf.Node)
		}
	}
	if s.Mode != ModeDPDK || len(s.Loops) != 1 || !s.Loops[0].Complete || s.Loops[0].NextAudit != nil {
		t.Errorf("mode %s, loops %+v", s.Mode, s.Loops)
	}
	if got := slices.Sorted(maps.Keys(s.Loops[0].Skipped)); !slices.Equal(got, []string{vfs[1], cy[1]}) {
		t.Errorf("skipped are %q", got)
	}
	keys := slices.Sorted(maps.Keys(s.Counters.Binds))
	if want := slices.Sorted(slices.Values(status.BindResults)); !slices.Equal(keys, want) {
		t.Errorf("results of binds are %q, want %q", keys, want)
	}
	if s.Counters.Binds["bound"] != 4 { // the first and the last two of Gen2, and one of the other PF
		t.Errorf("binds: %v", s.Counters.Binds)
	}
}

func TestStatusOfUnhealthyAndFailingDevices(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 2))
	vfs := h.VFs(pfA)
	h.FailBind(vfs[1], fmt.Errorf("no"))
	r := start(t, h, Config{})
	r.becomes(map[string][]string{"cy": {vfs[0]}})
	must(t, h.SetHeartbeat(pfA, "-1"))
	must(t, h.SetAttr(pfA, "qat/state", "down"))
	s := r.statusBecomes("the PF is down, and a bind has failed", func(s *status.Snapshot) bool {
		return len(s.PFs) == 1 && s.PFs[0].Health == status.Unhealthy && s.Counters.Binds["failed"] > 0 &&
			s.VFs[1].State == status.StateSkipped && s.VFs[0].State == status.StateUnhealthy
	})
	if pf := s.PFs[0]; pf.State != "down" || pf.Reason != "is down" {
		t.Errorf("PF %+v", pf)
	}
	if vf := s.VFs[0]; vf.State != status.StateUnhealthy || vf.Reason != "its PF "+pfA+" is down" {
		t.Errorf("listed VF %+v", vf)
	}
	if vf := s.VFs[1]; vf.Class != status.ClassBindFailed || vf.Reason == "" {
		t.Errorf("VF that cannot be bound %+v", vf)
	}
}

func TestStatusCountsEvents(t *testing.T) {
	h := newHost(t)
	journal := status.NewJournal(1000)
	config := from(newUeventSource(h))
	config.Journal, config.NoBind = journal, true
	r := start(t, h, config)
	r.becomes(map[string][]string{})
	before := r.status().Counters
	must(t, h.SetVFs(pfA, 3))
	bindAll(t, h, pfA)
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	got := r.statusBecomes("the events of three VFs are counted", func(s *status.Snapshot) bool {
		u := s.Counters.Uevents
		return u["bind"]["pci"] == 3 && u["add"]["vfio"] == 3 && u["add"]["pci"] == before.Uevents["add"]["pci"]+3
	}).Counters
	if got.Loops["devices"].Turns == 0 || got.Loops["devices"].Drift != 0 {
		t.Errorf("loops %+v", got.Loops)
	}
	// The journal follows: each VF was added to the list, and a uevent says so.
	wanted := map[string]bool{}
	for _, vf := range h.VFs(pfA) {
		wanted[vf+" added"], wanted[vf+" in cy"] = true, true
	}
	for end := time.Now().Add(timeout); len(wanted) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, e := range journal.Since(0) {
			delete(wanted, e.Device+" "+e.Text)
		}
	}
	if len(wanted) > 0 {
		t.Errorf("the journal does not have %v: %+v", wanted, journal.Since(0))
	}
}

func TestStatusOfProvisioning(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	k := &kubelet{}
	rule := func(pf, settings string) string { return fmt.Sprintf("match: {pfs: [%q]}; %s", pf, settings) }
	rules := newConfigMap(t, rule(pfA, "vfs: all"), rule(pfB, "vfs: all"))
	config := Config{ProvisioningDir: rules.dir, Holders: k.holders}
	r := start(t, h, config)
	s := r.statusBecomes("both PFs are provisioned", func(s *status.Snapshot) bool {
		return s.Provisioning != nil && len(s.Provisioning.PFs) == 2 &&
			s.Provisioning.PFs[0].State == status.ProvisioningDone &&
			s.Provisioning.PFs[1].State == status.ProvisioningDone
	})
	if p := s.Provisioning; p.File == "" || p.Err != "" || p.PFs[0].Address != pfA || p.PFs[0].Rule == "" {
		t.Errorf("provisioning %+v", p)
	}
	if len(s.Loops) != 2 || s.Loops[1].Name != "provisioning" {
		t.Errorf("loops %+v", s.Loops)
	}
	if _, ok := s.Counters.Loops["provisioning"]; !ok {
		t.Errorf("counters of %v", s.Counters.Loops)
	}
	k.hold("pod", h.VFs(pfA)[0])
	rules.set(rule(pfA, "services: [dc]; vfs: all"), rule(pfB, "services: [decomp]; vfs: all"))
	s = r.statusBecomes("one waits and one has failed", func(s *status.Snapshot) bool {
		p := s.Provisioning.PFs
		return p[0].State == status.ProvisioningWaiting && p[1].State == status.ProvisioningFailed &&
			s.PFs[0].Withdrawn != ""
	})
	if p := s.Provisioning.PFs; p[0].Reason == "" || p[1].Reason == "" {
		t.Errorf("PFs %+v", p)
	}
	s = r.statusBecomes("VFs are unhealthy", func(s *status.Snapshot) bool {
		return s.VFs[0].State == status.StateUnhealthy
	})
	if s.VFs[0].Reason != s.PFs[0].Withdrawn {
		t.Errorf("a VF is unhealthy because %q, and its PF withdrawn because %q", s.VFs[0].Reason, s.PFs[0].Withdrawn)
	}
	rules.set("nonsense: 1")
	r.statusBecomes("the configuration is wrong", func(s *status.Snapshot) bool { return s.Provisioning.Err != "" })
}

// A loop that the kernel blocks takes all the time of a reader, and must not make the other one
// look blocked as well.
func TestStatusOfOneLoopDoesNotDependOnTheOther(t *testing.T) {
	h := newHost(t)
	blocked, release := make(chan struct{}, 1), make(chan struct{})
	defer close(release)
	config := Config{
		ProvisioningDir: newConfigMap(t, fmt.Sprintf("match: {pfs: [%q]}; vfs: all", pfA)).dir,
		Holders:         (&kubelet{}).holders,
		Publishing: func(old, _ *devtree.Tree, _ time.Time) {
			if old != nil {
				select {
				case blocked <- struct{}{}:
				default: // the test is over
				}
				<-release
			}
		},
	}
	r := start(t, h, config)
	select {
	case <-blocked:
	case <-time.After(timeout):
		t.Fatal("no second list")
	}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		s := &status.Snapshot{}
		r.Status(ctx, s)
		cancel()
		if len(s.Loops) != 2 || s.Loops[0].Err == "" || s.Loops[1].Err != "" || s.Provisioning == nil {
			t.Fatalf("only the first loop is blocked: %+v", s.Loops)
		}
	}
}

func TestStatusBeforeWatch(t *testing.T) {
	for _, mode := range []string{ModeDPDK, ModeKernel} {
		config := from(sourceFunc(silentSource))
		config.Mode = mode
		p, err := New(config)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var s status.Snapshot
		p.Status(ctx, &s)
		if s.Mode != mode || len(s.Loops) != 1 || s.Loops[0].Err == "" || s.Loops[0].Complete {
			t.Errorf("status %+v", s)
		}
	}
}

func TestPublishingIsCalledForEachTree(t *testing.T) {
	h := newHost(t)
	var last *devtree.Tree // only the goroutine of Watch uses it
	config := Config{Publishing: func(old, new *devtree.Tree, since time.Time) {
		if old != last || new == last || since.IsZero() || time.Since(since) > timeout {
			t.Errorf("from generation %d to %d since %v", old.Generation(), new.Generation(), since)
		}
		last = new
	}}
	config.OpenWatcher = func() (Watcher, error) { return events.NewWatcher() }
	r := start(t, h, config)
	must(t, h.SetVFs(pfA, 2))
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}
