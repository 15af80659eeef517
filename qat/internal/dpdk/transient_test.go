// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/qat/internal/device"
)

// takeDescriptors lets no file be opened until the returned function is called, which may be called
// more than once.
func takeDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}))
	restore = func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }
	t.Cleanup(restore)
	return restore
}

// newHost16 returns a host with a PF for cy and 16 VFs that are bound to vfio-pci.
func newHost16(t *testing.T) *lookalike.Host {
	t.Helper()
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 16))
	bindAll(t, h, pfA, device.DriverVFIO)
	return h
}

func TestTransientErrorKeepsWhatIsListed(t *testing.T) {
	for name, read := range map[string]func(r *rig, all []string){
		"event of a VF": func(r *rig, all []string) { r.read(all[3]) },
		"event of a PF": func(r *rig, _ []string) { r.read(pfA) },
		"events of all": func(r *rig, all []string) { r.read(append(all, pfA)...) },
		"full read":     func(r *rig, _ []string) { r.rescan() },
		"audit":         func(r *rig, _ []string) { r.audit() },
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost16(t)
			all := h.VFs(pfA)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			watched := r.watched()
			restore := takeDescriptors(t)
			read(r, all)
			r.pass(10 * time.Second)
			r.wantList(map[string][]string{"cy": all})
			r.wantSkipped()
			restore()
			r.pass(10 * time.Second)
			r.wantList(map[string][]string{"cy": all})
			r.wantSkipped()
			if got := r.watched(); !slices.Equal(got, watched) {
				t.Errorf("watched: %q, want %q as before", got, watched)
			}
			if n := r.controller.drift.Total(); n != 0 {
				t.Errorf("drift %d, want 0", n)
			}
			if next := r.nextWake(); !next.IsZero() {
				t.Errorf("the plugin would wake at %v though nothing is left to do", next)
			}
		})
	}
}

// A change that could not be read is read within a second after reads work again.
func TestChangeDuringTransientErrorIsReadAfterIt(t *testing.T) {
	for name, read := range map[string]func(r *rig, vf string){
		"event of the VF": func(r *rig, vf string) { r.read(vf, pfA) },
		"event of the PF": func(r *rig, _ string) { r.read(pfA) },
		"full read":       func(r *rig, _ string) { r.rescan() },
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			addVFs(t, h, pfA, vfA2)
			restore := takeDescriptors(t)
			read(r, vfA2)
			r.pass(time.Minute)
			r.wantList(map[string][]string{"cy": {vfA1}})
			restore()
			if r.pass(time.Second); name == "event of the PF" {
				r.read(vfA2) // a PF does not tell of a VF that has sent no event
			}
			r.wantList(map[string][]string{"cy": {vfA1, vfA2}})
			r.wantSkipped()
		})
	}
}

// failReads makes reads of an attribute fail with EIO until the returned function is called.
func failReads(t *testing.T, h *lookalike.Host, address, attribute string) (restore func()) {
	t.Helper()
	file := filepath.Join(h.Path(address), attribute)
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.Remove(file))
	must(t, os.Symlink("/proc/self/mem", file)) // nothing is mapped at address 0
	if _, err := os.ReadFile(file); !errors.Is(err, unix.EIO) {
		t.Fatalf("reading %s: %v, want EIO", file, err)
	}
	return func() {
		t.Helper()
		must(t, os.Remove(file))
		must(t, os.WriteFile(file, text, 0o600))
	}
}

func TestRetriesBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		restore := failReads(t, h, vfA1, "numa_node")
		r.readFully(vfA1)
		for _, want := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
			if wait := r.wake(); wait != want*time.Millisecond {
				t.Fatalf("the plugin waits %v, want %v", wait, want*time.Millisecond)
			}
		}
		restore()
		r.wake()
		if next := r.nextWake(); !next.IsZero() {
			t.Errorf("the plugin would wake at %v after the VF could be read", next)
		}
		failReads(t, h, vfA1, "numa_node")
		r.readFully(vfA1)
		if wait := r.wake(); wait != 10*time.Millisecond {
			t.Errorf("the next failure is retried after %v, want 10ms", wait)
		}
	})
}

func TestUnreadableFunctionThatIsNotKnownIsSkippedAndRetried(t *testing.T) {
	for name, tt := range map[string]struct {
		function, attribute string
		skipped             []string
	}{
		"VF":                  {vfA1, "device", []string{vfA1}},
		"VF's NUMA node":      {vfA1, "numa_node", []string{vfA1}},
		"PF":                  {pfA, "vendor", []string{pfA, vfA1}},
		"state of the PF":     {pfA, "qat/state", []string{pfA, vfA1}},
		"services of the PF":  {pfA, "qat/cfg_services", []string{pfA, vfA1}},
		"NUMA node of the PF": {pfA, "numa_node", []string{pfA, vfA1}},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			restore := failReads(t, h, tt.function, tt.attribute)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			r.wantList(map[string][]string{})
			r.wantSkipped(tt.skipped...)
			file := tt.function + "/" + tt.attribute
			if reason := r.reason(vfA1); !strings.Contains(reason, file+": input/output error") {
				t.Errorf("the VF is skipped because %q, want EIO and %s", reason, file)
			}
			restore()
			r.pass(20 * time.Millisecond)
			r.wantList(map[string][]string{"cy": {vfA1}})
			r.wantSkipped()
		})
	}
}

func TestUnreadableVFThatIsGoneIsNotSkipped(t *testing.T) {
	garble := func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(vfA1, "vendor", "garbage")) }
	for name, tt := range map[string]struct {
		makeUnreadable func(t *testing.T, h *lookalike.Host)
		event          func(r *rig)
		within         time.Duration
	}{
		"transient error, no event": {
			func(t *testing.T, h *lookalike.Host) { failReads(t, h, vfA1, "vendor") }, (*rig).settle, maxRetry,
		},
		"other error, no event":        {garble, (*rig).settle, slowRetry},
		"other error, event of the PF": {garble, func(r *rig) { r.read(pfA) }, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			tt.makeUnreadable(t, h)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			r.wantSkipped(vfA1)
			must(t, h.RemoveVF(vfA1))
			tt.event(r)
			r.pass(tt.within)
			r.wantSkipped()
		})
	}
}

// The binder must still know which driver the VF had.
func TestTransientErrorDoesNotEndABinding(t *testing.T) {
	const vf = "0000:6b:01.0"
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		must(t, h.LoadDriver(device.DriverVFIO, "disable_denylist=1"))
		must(t, h.LoadDriver("c6xxvf"))
		must(t, h.AddPF(lookalike.PF{Address: pfA, DeviceID: "37c8"}))
		must(t, h.AddVF(lookalike.VF{Address: vf, PF: pfA}))
		r := newRig(t, h, Config{})
		r.rescan()
		must(t, h.Unbind(vf)) // as the plugin asked
		restore := failReads(t, h, vf, "numa_node")
		r.readFully(vf)
		r.pass(time.Minute)
		if n := r.probes(vf); n != 1 {
			t.Errorf("the kernel was asked %d times to bind a VF that cannot be read, want once before", n)
		}
		restore()
		r.pass(3 * time.Second)
		if w := r.writes(); !slices.Contains(w, vf+" > bus/pci/drivers/c6xxvf/bind") {
			t.Errorf("the VF was not given back to its driver: %q", w)
		}
	})
}

func TestAuditLeavesTransientErrorsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		restore := failReads(t, h, vfA1, "numa_node")
		r.audit()
		if n := len(r.controller.suspects); n != 0 {
			t.Errorf("%d suspects, want none", n)
		}
		restore()

		must(t, h.SetAttr(pfA, "qat/cfg_services", "dc")) // no event reports it
		r.audit()
		restore = failReads(t, h, pfA, "numa_node")
		r.pass(time.Minute)
		if n := r.controller.drift.Total(); n != 0 {
			t.Errorf("drift %d while the suspect cannot be read, want 0", n)
		}
		r.wantList(map[string][]string{"cy": {vfA1}})
		restore()
		r.pass(time.Minute)
		if n := r.controller.drift.Total(); n != 1 {
			t.Errorf("drift %d, want 1", n)
		}
		r.wantList(map[string][]string{"cy": {}, "dc": {vfA1}})
	})
}

// All devices may fail at once, and each of them again and again.
func TestTransientErrorsAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testlog.Capture(t)
		h := newHost16(t)
		must(t, h.AddPF(lookalike.PF{Address: pfB}))
		must(t, h.SetAttr(pfB, "vendor", "garbage")) // which stays so
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		for range 2 {
			restore := takeDescriptors(t)
			r.read(h.VFs(pfA)...)
			r.pass(time.Minute)
			restore()
			r.pass(time.Minute)
		}
		n := 0
		for _, line := range log() {
			if strings.HasPrefix(line, `"Cannot read a PCI function now`) {
				n++
			}
		}
		if n != 2 {
			t.Errorf("two times without descriptors are logged in %d lines, want 2: %q", n, log())
		}
	})
}
