package lookalike

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
)

func sorted(list []string) []string { slices.Sort(list); return list }

// served is a host that plays the kernel, and its operations from now on.
func served(t *testing.T, pfs ...PF) (*Host, <-chan Operation) {
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

// write writes as the plugin does: an open that cannot wait, then the value.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func summary(o Operation) string {
	s := fmt.Sprintf("%s %s %s", o.Name, o.Subject, o.Detail)
	if o.Err != nil {
		s += ": refused"
	}
	return s
}

func TestDriversProbeHonoursDriverOverride(t *testing.T) {
	h, ops := served(t, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	<-ops
	must(t, write(filepath.Join(h.Path(vf0), "driver_override"), "vfio-pci\n"))
	must(t, write(h.sys("bus/pci/drivers_probe"), vf0+"\n"))
	o := wait(t, ops, "the bind")
	want(t, "operation", "bind 0000:6b:00.1 vfio-pci", summary(o))
	want(t, "asked", true, o.Asked)
	want(t, "driver", "vfio-pci", linkOf(t, h.Path(vf0), "driver"))

	must(t, write(h.sys("bus/pci/drivers/vfio-pci/unbind"), vf0+"\n"))
	want(t, "operation", "unbind 0000:6b:00.1 vfio-pci", summary(wait(t, ops, "the unbind")))
	must(t, write(h.sys("bus/pci/drivers/vfio-pci/bind"), vf0))
	want(t, "operation", "bind 0000:6b:00.1 vfio-pci", summary(wait(t, ops, "the second bind")))
}

func TestBindWithoutOverrideIsRefused(t *testing.T) {
	h, ops := served(t)
	must(t, h.AddVF(VF{Address: vf0}))
	<-ops
	must(t, write(h.sys("bus/pci/drivers/vfio-pci/bind"), vf0+"\n"))
	want(t, "operation", "bind 0000:6b:00.1 vfio-pci: refused", summary(wait(t, ops, "the refusal")))
	want(t, "driver", "", linkOf(t, h.Path(vf0), "driver"))
}

func TestNoWriteToAFIFOIsLost(t *testing.T) {
	h, ops := served(t)
	const n = 128
	must(t, h.AddPF(PF{Address: pf0, TotalVFs: n}))
	must(t, h.SetVFs(pf0, n))
	<-ops
	<-ops
	var writers sync.WaitGroup
	for i, vf := range h.VFs(pf0) {
		must(t, write(filepath.Join(h.Path(vf), "driver_override"), "vfio-pci"))
		end := []string{"\n", ""}[i%2] // a newline is kind, not needed
		writers.Go(func() {
			if err := write(h.sys("bus/pci/drivers_probe"), vf+end); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	bound := map[string]bool{}
	for range n {
		o := wait(t, ops, "a bind")
		if o.Err != nil || o.Name != "bind" {
			t.Errorf("%+v", o)
		}
		bound[o.Subject] = true
	}
	want(t, "bound VFs", n, len(bound))
}

func TestADeviceThatGoesInBetweenIsFine(t *testing.T) {
	h, ops := served(t, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 2))
	<-ops
	must(t, write(filepath.Join(h.Path(vf1), "driver_override"), "vfio-pci"))
	must(t, write(h.sys("bus/pci/drivers_probe"), "0000:99:00.1\nnonsense\n"+vf1+"\n"))
	want(t, "operation", "bind 0000:6b:00.2 vfio-pci", summary(wait(t, ops, "the bind")))
}

func TestWithoutServeAWriterSeesENXIO(t *testing.T) {
	h := newHost(t, nil)
	if err := write(h.sys("bus/pci/drivers_probe"), vf0); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("got %v, want ENXIO", err)
	}
}

func TestServeCanEndAndBeginAgain(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	ops := make(chan Operation, 16)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := h.Ready(), make(chan error, 1)
		go func() { ended <- h.Serve(ctx) }()
		wait(t, ready, "Serve")
		if err := h.Serve(ctx); err == nil {
			t.Error("two Serves at a time")
		}
		h.Observe(func(o Operation) { ops <- o })
		must(t, write(filepath.Join(h.Path(vf0), "driver_override"), "vfio-pci"))
		must(t, write(h.sys("bus/pci/drivers_probe"), vf0))
		wait(t, ops, "the bind")
		must(t, h.Unbind(vf0))
		wait(t, ops, "the unbind")
		cancel()
		must(t, wait(t, ended, "the end of Serve"))
	}
}

func TestADriverLoadedAndUnloadedWhileServed(t *testing.T) {
	h, ops := served(t)
	must(t, h.AddVF(VF{Address: vf0}))
	<-ops
	for range 2 {
		must(t, h.LoadDriver("igb_uio"))
		must(t, write(filepath.Join(h.Path(vf0), "driver_override"), "igb_uio"))
		<-ops
		must(t, write(h.sys("bus/pci/drivers/igb_uio/bind"), vf0))
		want(t, "operation", "bind 0000:6b:00.1 igb_uio", summary(wait(t, ops, "the bind")))
		must(t, h.UnloadDriver("igb_uio"))
		<-ops
	}
}

func TestWhatAUserWritesToAPF(t *testing.T) {
	type step struct{ file, value, want string }
	for _, c := range []struct {
		name  string
		steps []step
		final string // sriov_numvfs, state, cfg_services
	}{
		{"any number makes all VFs", []step{{"sriov_numvfs", "4\n", "set VFs of 0000:6b:00.0 16"}}, "16 up sym;asym"},
		{"and 0 none", []step{{"sriov_numvfs", "16", "set VFs of 0000:6b:00.0 16"}, {"sriov_numvfs", "0", "set VFs of 0000:6b:00.0 0"}}, "0 up sym;asym"},
		{"another number is refused and undone", []step{{"sriov_numvfs", "16", "set VFs of 0000:6b:00.0 16"}, {"sriov_numvfs", "8", "set VFs of 0000:6b:00.0 8: refused"}}, "16 up sym;asym"},
		{"no number at all", []step{{"sriov_numvfs", "many\n", "set VFs of 0000:6b:00.0 many: refused"}}, "0 up sym;asym"},
		{"down, services, up", []step{
			{"sriov_numvfs", "16", "set VFs of 0000:6b:00.0 16"},
			{"qat/state", "down\n", "set state of 0000:6b:00.0 down"},
			{"qat/cfg_services", "dc\n", "set services of 0000:6b:00.0 dc"},
			{"qat/state", "up\n", "set state of 0000:6b:00.0 up"},
		}, "0 up dc"},
		{"services while up are refused", []step{{"qat/cfg_services", "dc\n", "set services of 0000:6b:00.0 dc: refused"}}, "0 up sym;asym"},
		{"even right after it went up", []step{
			{"qat/state", "down\n", "set state of 0000:6b:00.0 down"}, {"qat/state", "up\n", "set state of 0000:6b:00.0 up"},
			{"qat/cfg_services", "dc\n", "set services of 0000:6b:00.0 dc: refused"},
		}, "0 up sym;asym"},
		{"an unknown state", []step{{"qat/state", "asleep\n", "set state of 0000:6b:00.0 asleep: refused"}}, "0 up sym;asym"},
		{"remove", []step{{"remove", "1\n", "remove PF 0000:6b:00.0 "}}, "  "},
		{"remove and rescan", []step{{"remove", "1\n", "remove PF 0000:6b:00.0 "}, {"../../../bus/pci/rescan", "1\n", "add PF 0000:6b:00.0 "}}, "0 up sym;asym"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, ops := served(t, PF{Address: pf0, Services: "sym;asym"})
			for _, s := range c.steps {
				must(t, write(filepath.Join(h.sys("devices/pci0000:6b", pf0), s.file), s.value))
				got := summary(wait(t, ops, s.want))
				want(t, "operation", s.want, got)
			}
			dir := h.Path(pf0)
			want(t, "at the end", c.final, read(filepath.Join(dir, "sriov_numvfs"))+" "+read(filepath.Join(dir, "qat/state"))+" "+read(filepath.Join(dir, "qat/cfg_services")))
		})
	}
}

// A script writes faster than anybody can look.
func TestAScriptsDownServicesUp(t *testing.T) {
	h, ops := served(t, PF{Address: pf0, Services: "sym;asym"})
	must(t, h.SetVFs(pf0, 16))
	<-ops
	dir := filepath.Join(h.Path(pf0), "qat")
	must(t, write(filepath.Join(dir, "state"), "down\n"))
	must(t, write(filepath.Join(dir, "cfg_services"), "dc\n"))
	must(t, write(filepath.Join(dir, "state"), "up\n"))
	must(t, write(filepath.Join(h.Path(pf0), "sriov_numvfs"), "16\n")) // as it was: only the event tells that somebody wrote
	for {
		o := wait(t, ops, "services dc, state up and 16 VFs")
		if o.Err != nil {
			t.Fatalf("refused: %v", o.Err)
		}
		h.mu.Lock()
		spec, vfs := *h.devices[pf0].spec, len(h.devices[pf0].vfs)
		h.mu.Unlock()
		if o.Name == "set VFs of" && spec.Services == "dc" && spec.State == "up" {
			want(t, "VFs", 16, vfs)
			want(t, "files", "up dc 16", read(filepath.Join(dir, "state"))+" "+read(filepath.Join(dir, "cfg_services"))+" "+read(filepath.Join(h.Path(pf0), "sriov_numvfs")))
			return
		}
	}
}

func TestAnOverflowLooksAtEverything(t *testing.T) {
	h, ops := served(t, PF{Address: pf0, Services: "sym;asym"})
	h.mu.Lock() // nothing is done until both are there
	must(t, os.Rename(put(t, h, "16"), filepath.Join(h.Path(pf0), "sriov_numvfs")))
	h.server.note("")
	h.mu.Unlock()
	want(t, "operation", "set VFs of 0000:6b:00.0 16", summary(wait(t, ops, "the VFs")))
}

// put writes a value beside the host; renamed into place it makes no Write event.
func put(t *testing.T, h *Host, value string) string {
	t.Helper()
	file := filepath.Join(h.scratch(), "put")
	must(t, os.WriteFile(file, []byte(value), 0o644))
	return file
}
