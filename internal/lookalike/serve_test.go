// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startHost returns a host that is served, with the driver vfio-pci and these PFs, and its
// operations from then on.
func startHost(t *testing.T, pfs ...PF) (*Host, <-chan Operation) {
	t.Helper()
	h := Start(t)
	must(t, h.LoadDriver("vfio-pci"))
	for _, pf := range pfs {
		must(t, h.AddPF(pf))
	}
	ops := make(chan Operation, 8192)
	h.Observe(func(o Operation) { ops <- o })
	return h, ops
}

// write writes as the plugin does: it opens the file without blocking.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// describe returns an operation and whether it was refused, in one line.
func describe(o Operation) string {
	s := fmt.Sprintf("%s %s %s", o.Name, o.Target, o.Value)
	if o.Err != nil {
		s += ": refused"
	}
	return s
}

func TestDriversProbeHonoursDriverOverride(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	<-ops
	must(t, write(filepath.Join(h.Path(vf0), "driver_override"), "vfio-pci\n"))
	must(t, write(h.sys("bus/pci/drivers_probe"), vf0+"\n"))
	o := wait(t, ops, "bind")
	equal(t, "operation", "bind 0000:6b:00.1 vfio-pci", describe(o))
	equal(t, "requested", true, o.Requested)
	equal(t, "driver", "vfio-pci", linkOf(t, h.Path(vf0), "driver"))

	must(t, write(h.sys("bus/pci/drivers/vfio-pci/unbind"), vf0+"\n"))
	equal(t, "operation", "unbind 0000:6b:00.1 vfio-pci", describe(wait(t, ops, "unbind")))
	must(t, write(h.sys("bus/pci/drivers/vfio-pci/bind"), vf0))
	equal(t, "operation", "bind 0000:6b:00.1 vfio-pci", describe(wait(t, ops, "second bind")))
}

func TestBindWithoutOverrideIsRefused(t *testing.T) {
	h, ops := startHost(t)
	must(t, h.AddVF(VF{Address: vf0}))
	<-ops
	must(t, write(h.sys("bus/pci/drivers/vfio-pci/bind"), vf0+"\n"))
	equal(t, "operation", "bind 0000:6b:00.1 vfio-pci: refused", describe(wait(t, ops, "refusal")))
	equal(t, "driver", "", linkOf(t, h.Path(vf0), "driver"))
}

func TestNoWriteToAFIFOIsLost(t *testing.T) {
	h, ops := startHost(t)
	const n = 128
	must(t, h.AddPF(PF{Address: pf0, TotalVFs: n}))
	must(t, h.SetVFs(pf0, n))
	<-ops
	<-ops
	var writers sync.WaitGroup
	for i, vf := range h.VFs(pf0) {
		must(t, write(filepath.Join(h.Path(vf), "driver_override"), "vfio-pci"))
		end := []string{"\n", ""}[i%2] // the newline is optional
		writers.Go(func() {
			if err := write(h.sys("bus/pci/drivers_probe"), vf+end); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	bound := map[string]bool{}
	for range n {
		o := wait(t, ops, "bind")
		if o.Err != nil || o.Name != "bind" {
			t.Errorf("%+v", o)
		}
		bound[o.Target] = true
	}
	equal(t, "bound VFs", n, len(bound))
}

func TestDriversProbeIgnoresWhatItCannotBind(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 2))
	<-ops
	must(t, write(filepath.Join(h.Path(vf1), "driver_override"), "vfio-pci"))
	must(t, write(h.sys("bus/pci/drivers_probe"), "0000:99:00.1\nnonsense\n"+vf0+"\n"+vf1+"\n"))
	equal(t, "operation", "bind 0000:6b:00.2 vfio-pci", describe(wait(t, ops, "bind")))
}

func TestNotServedMeansENXIO(t *testing.T) {
	h := newHost(t, nil)
	if err := write(h.sys("bus/pci/drivers_probe"), vf0); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("got %v, want ENXIO", err)
	}
}

func TestServeAgain(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	ops := make(chan Operation, 16)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := h.Ready(), make(chan error, 1)
		go func() { ended <- h.Serve(ctx) }()
		wait(t, ready, "Serve")
		if err := h.Serve(ctx); err == nil {
			t.Error("a second Serve at the same time: no error")
		}
		h.Observe(func(o Operation) { ops <- o })
		must(t, write(filepath.Join(h.Path(vf0), "driver_override"), "vfio-pci"))
		must(t, write(h.sys("bus/pci/drivers_probe"), vf0))
		wait(t, ops, "bind")
		must(t, h.Unbind(vf0))
		wait(t, ops, "unbind")
		cancel()
		must(t, wait(t, ended, "return of Serve"))
	}
}

func TestDriverLoadedWhileServed(t *testing.T) {
	h, ops := startHost(t)
	must(t, h.AddVF(VF{Address: vf0}))
	<-ops
	for range 2 {
		must(t, h.LoadDriver("igb_uio"))
		must(t, write(filepath.Join(h.Path(vf0), "driver_override"), "igb_uio"))
		<-ops
		must(t, write(h.sys("bus/pci/drivers/igb_uio/bind"), vf0))
		equal(t, "operation", "bind 0000:6b:00.1 igb_uio", describe(wait(t, ops, "bind")))
		must(t, h.UnloadDriver("igb_uio"))
		<-ops
	}
}

// attributes returns sriov_numvfs, qat/state and qat/cfg_services of pf0.
func attributes(h *Host) string {
	var values []string
	for _, name := range []string{"sriov_numvfs", "qat/state", "qat/cfg_services"} {
		values = append(values, read(filepath.Join(h.Path(pf0), name)))
	}
	return strings.Join(values, " ")
}

func TestWritesToPF(t *testing.T) {
	type step struct{ file, value, want string }
	for _, c := range []struct {
		name  string
		steps []step
		final string // as attributes returns it
	}{
		{"any number creates all VFs", []step{
			{"sriov_numvfs", "4\n", "set VFs of 0000:6b:00.0 16"},
		}, "16 up sym;asym"},
		{"0 removes them", []step{
			{"sriov_numvfs", "16", "set VFs of 0000:6b:00.0 16"},
			{"sriov_numvfs", "0", "set VFs of 0000:6b:00.0 0"},
		}, "0 up sym;asym"},
		{"another number is refused and reverted", []step{
			{"sriov_numvfs", "16", "set VFs of 0000:6b:00.0 16"},
			{"sriov_numvfs", "8", "set VFs of 0000:6b:00.0 8: refused"},
		}, "16 up sym;asym"},
		{"not a number", []step{
			{"sriov_numvfs", "many\n", "set VFs of 0000:6b:00.0 many: refused"},
		}, "0 up sym;asym"},
		{"down, services, up", []step{
			{"sriov_numvfs", "16", "set VFs of 0000:6b:00.0 16"},
			{"qat/state", "down\n", "set state of 0000:6b:00.0 down"},
			{"qat/cfg_services", "dc\n", "set services of 0000:6b:00.0 dc"},
			{"qat/state", "up\n", "set state of 0000:6b:00.0 up"},
		}, "0 up dc"},
		{"services while up are refused", []step{
			{"qat/cfg_services", "dc\n", "set services of 0000:6b:00.0 dc: refused"},
		}, "0 up sym;asym"},
		{"services right after up are refused", []step{
			{"qat/state", "down\n", "set state of 0000:6b:00.0 down"},
			{"qat/state", "up\n", "set state of 0000:6b:00.0 up"},
			{"qat/cfg_services", "dc\n", "set services of 0000:6b:00.0 dc: refused"},
		}, "0 up sym;asym"},
		{"unknown state", []step{
			{"qat/state", "asleep\n", "set state of 0000:6b:00.0 asleep: refused"},
		}, "0 up sym;asym"},
		{"remove", []step{
			{"remove", "1\n", "remove PF 0000:6b:00.0 "},
		}, "  "},
		{"remove and rescan", []step{
			{"remove", "1\n", "remove PF 0000:6b:00.0 "},
			{"../../../bus/pci/rescan", "1\n", "add PF 0000:6b:00.0 "},
		}, "0 up sym;asym"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, ops := startHost(t, PF{Address: pf0, Services: "sym;asym"})
			for _, s := range c.steps {
				must(t, write(filepath.Join(h.sys("devices/pci0000:6b", pf0), s.file), s.value))
				equal(t, "operation", s.want, describe(wait(t, ops, s.want)))
			}
			equal(t, "final state", c.final, attributes(h))
		})
	}
}

// TestScriptWritesFasterThanServeLooks writes down, services, up and sriov_numvfs in a row.
func TestScriptWritesFasterThanServeLooks(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, Services: "sym;asym"})
	must(t, h.SetVFs(pf0, 16))
	<-ops
	dir := filepath.Join(h.Path(pf0), "qat")
	must(t, write(filepath.Join(dir, "state"), "down\n"))
	must(t, write(filepath.Join(dir, "cfg_services"), "dc\n"))
	must(t, write(filepath.Join(dir, "state"), "up\n"))
	must(t, write(filepath.Join(h.Path(pf0), "sriov_numvfs"), "16\n")) // the old value
	for {
		o := wait(t, ops, "16 VFs with services dc")
		if o.Err != nil {
			t.Fatalf("refused: %v", o.Err)
		}
		h.mu.Lock()
		spec, vfs := *h.devices[pf0].spec, len(h.devices[pf0].vfs)
		h.mu.Unlock()
		if o.Name == "set VFs of" && spec.Services == "dc" && spec.State == "up" {
			equal(t, "VFs", 16, vfs)
			equal(t, "attributes", "16 up dc", attributes(h))
			return
		}
	}
}

func TestOverflowHandlesEveryFile(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, Services: "sym;asym"})
	h.mu.Lock() // Serve waits until both are there
	file := filepath.Join(h.scratch(), "test")
	must(t, os.WriteFile(file, []byte("16"), 0o644))
	must(t, os.Rename(file, filepath.Join(h.Path(pf0), "sriov_numvfs"))) // no Write event
	h.server.enqueue("")
	h.mu.Unlock()
	equal(t, "operation", "set VFs of 0000:6b:00.0 16", describe(wait(t, ops, "VFs")))
}

func TestAttributesOfThePFFollowTheRulesOfTheDriver(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, Services: "sym;asym"})
	qat := func(name string) string { return filepath.Join(h.Path(pf0), "qat", name) }
	for _, step := range []struct{ file, value, want string }{
		{"auto_reset", "on", "set automatic reset of 0000:6b:00.0 on"}, // at any time
		{"auto_reset", "maybe", "set automatic reset of 0000:6b:00.0 maybe: refused"},
		{"pm_idle_enabled", "0", "set idle power management of 0000:6b:00.0 0: refused"}, // the PF is up
		{"cfg_services", "dc", "set services of 0000:6b:00.0 dc: refused"},
		{"state", "down", "set state of 0000:6b:00.0 down"},
		{"pm_idle_enabled", "0", "set idle power management of 0000:6b:00.0 0"},
		{"cfg_services", "sym;asym;dc", "set services of 0000:6b:00.0 sym;asym;dc: refused"}, // Gen4 takes two
		{"cfg_services", "dc", "set services of 0000:6b:00.0 dc"},
		{"state", "up", "set state of 0000:6b:00.0 up"},
	} {
		before := h.Writes()[step.file]
		must(t, write(qat(step.file), step.value+"\n"))
		equal(t, "operation", step.want, describe(wait(t, ops, step.want)))
		if h.Writes()[step.file] == before {
			t.Errorf("Writes does not count the write to %s", step.file)
		}
	}
	for name, want := range map[string]string{
		"auto_reset": "on", "pm_idle_enabled": "0", "cfg_services": "dc", "state": "up",
	} {
		equal(t, name, want, read(qat(name)))
	}
}

// A shell truncates state before it writes up. Serve may look in between.
func TestStateIsTruncatedWhenServeLooks(t *testing.T) {
	for range 20 {
		h, ops := startHost(t, PF{Address: pf0, Services: "sym;asym"})
		dir := h.sys("devices/pci0000:6b", pf0, "qat")
		state, services := filepath.Join(dir, "state"), filepath.Join(dir, "cfg_services")
		h.mu.Lock()                       // Serve waits
		must(t, write(state, "down\n"))   // not seen
		must(t, os.Truncate(state, 0))    // the first half of the next write
		must(t, write(services, "dc\n"))  // which the kernel accepts, because it is down
		for !h.server.pending(services) { // until Serve knows
			time.Sleep(time.Millisecond)
		}
		h.mu.Unlock()
		must(t, write(state, "up\n"))
		equal(t, "operation", "set services of 0000:6b:00.0 dc", describe(wait(t, ops, "services")))
	}
}

// Serve handles one of two writes to state when the third one is there already. Both come before
// the write to cfg_services.
func TestStateIsUpAgainWhenServeLooks(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, Services: "sym;asym"})
	dir := h.sys("devices/pci0000:6b", pf0, "qat")
	state, services := filepath.Join(dir, "state"), filepath.Join(dir, "cfg_services")
	must(t, write(state, "down\n"))
	equal(t, "operation", "set state of 0000:6b:00.0 down", describe(wait(t, ops, "state")))
	h.mu.Lock() // Serve waits
	must(t, write(state, "down\n"))
	must(t, write(services, "dc\n"))
	must(t, write(state, "up\n"))
	for !h.server.pending(services) { // until Serve knows
		time.Sleep(time.Millisecond)
	}
	h.mu.Unlock()
	equal(t, "operation", "set state of 0000:6b:00.0 up", describe(wait(t, ops, "state")))
	equal(t, "operation", "set services of 0000:6b:00.0 dc", describe(wait(t, ops, "services")))
}
