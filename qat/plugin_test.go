package qat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// deadline is far beyond what anything here takes; it only keeps a broken test from hanging.
const deadline = 20 * time.Second

// running is a Plugin that watches a host.
type running struct {
	t         testing.TB
	plugin    *Plugin
	publisher devtree.Publisher
	changed   chan struct{} // a Tree was published
	published atomic.Int32
}

// start runs a Plugin on the host until the test ends. A zero Config hears the host by inotify alone.
func start(t testing.TB, h *lookalike.Host, cfg Config) *running {
	t.Helper()
	cfg.SysfsRoot, cfg.DevRoot = h.Sysfs(), h.Dev()
	if cfg.Sources == nil && cfg.OpenWatcher == nil {
		cfg.OpenWatcher = func() (Watcher, error) { return events.NewWatcher() }
	}
	p, err := New(cfg)
	must(t, err)
	r := &running{t: t, plugin: p, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- p.Watch(ctx, func(tree *devtree.Tree) {
			r.publisher.Publish(tree)
			r.published.Add(1)
			select {
			case r.changed <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return r
}

// becomes waits until the lists are these.
func (r *running) becomes(want map[string][]string) {
	r.t.Helper()
	for timeout := time.After(deadline); ; {
		got := lists(r.publisher.Tree())
		if cmp.Equal(want, got) {
			return
		}
		select {
		case <-r.changed:
		case <-timeout:
			r.t.Fatalf("after %v the lists are (-want +got):\n%s", deadline, cmp.Diff(want, got))
		}
	}
}

// heardBy are the two ways in which a host is heard: both must do alone.
func heardBy(t *testing.T, test func(t *testing.T, config func(h *lookalike.Host) Config)) {
	t.Run("by uevents", func(t *testing.T) {
		test(t, func(h *lookalike.Host) Config {
			s := newUeventSource(h)
			return Config{Sources: []func() (events.Source, error){func() (events.Source, error) { return s, nil }}}
		})
	})
	t.Run("by inotify", func(t *testing.T) {
		test(t, func(*lookalike.Host) Config { return Config{} })
	})
}

func TestVFsComeAndGo(t *testing.T) {
	heardBy(t, func(t *testing.T, config func(h *lookalike.Host) Config) {
		h := lookalike.Start(t)
		cfg := config(h)
		must(t, h.LoadDriver(driverVFIO))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.AddPF(lookalike.PF{Address: pfB, DeviceID: "4944", Services: "dc"}))
		r := start(t, h, cfg)
		r.becomes(map[string][]string{})

		must(t, h.SetVFs(pfA, 16)) // unbound: the plugin binds them
		all := h.VFs(pfA)
		r.becomes(map[string][]string{"cy": all})

		must(t, h.RemoveVF(all[3]))
		r.becomes(map[string][]string{"cy": slices.Concat(all[:3], all[4:])})
		must(t, h.AddVF(lookalike.VF{Address: all[3], PF: pfA}))
		r.becomes(map[string][]string{"cy": all})

		must(t, h.SetVFs(pfB, 16))
		r.becomes(map[string][]string{"cy": all, "dc": h.VFs(pfB)})
		must(t, h.RemovePF(pfA))
		r.becomes(map[string][]string{"cy": {}, "dc": h.VFs(pfB)})
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.SetVFs(pfA, 16))
		r.becomes(map[string][]string{"cy": all, "dc": h.VFs(pfB)})

		must(t, h.Unbind(all[0]))
		r.becomes(map[string][]string{"cy": all, "dc": h.VFs(pfB)}) // it is bound again
	})
}

// While VFs come and go, links come and go one by one. None of these moments may show a VF under a resource that its PF never served.
func TestNoMomentShowsAVFUnderAnotherResource(t *testing.T) {
	heardBy(t, func(t *testing.T, config func(h *lookalike.Host) Config) {
		h := lookalike.Start(t)
		cfg := config(h)
		must(t, h.LoadDriver(driverVFIO))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		r := start(t, h, cfg)
		for range 20 {
			must(t, h.SetVFs(pfA, 16))
			r.becomes(map[string][]string{"cy": h.VFs(pfA)}) // and no other resource, not even an empty one that was
			must(t, h.SetState(pfA, "down"))
			r.becomes(map[string][]string{"cy": {}})
			must(t, h.SetState(pfA, "up"))
		}
	})
}

// A VF that the kernel has unbound to take it away must not be bound again on its way out: that would hold up its removal.
func TestAVFOnItsWayOutIsNotBoundAgain(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 2))
	bindAll(t, h, pfA, driverVFIO)
	vfs := h.VFs(pfA)
	f := newFoldOf(h, 0)
	f.binder.observe = false
	asked := map[string]bool{}
	f.binder.write.Dry, f.binder.write.Note = true, func(_, value string) { asked[value] = true }
	must(t, f.lookAtAll(time.Now()))
	must(t, h.RemoveAttr(vfs[0], "physfn")) // as the kernel does before it unbinds the VF
	must(t, h.Unbind(vfs[0]))
	must(t, h.Unbind(vfs[1])) // by hand
	must(t, f.lookAtAll(time.Now()))
	f.binder.wait()
	if asked[vfs[0]] || !asked[vfs[1]] {
		t.Errorf("asked to bind %v; want only %s, which is not being removed", asked, vfs[1])
	}
}

func TestVFsAreTakenFromTheirKernelDriver(t *testing.T) {
	heardBy(t, func(t *testing.T, config func(h *lookalike.Host) Config) {
		h := lookalike.Start(t)
		cfg := config(h)
		must(t, h.LoadDriver(driverVFIO, "disable_denylist=1"))
		must(t, h.LoadDriver("c6xxvf"))
		must(t, h.AddPF(lookalike.PF{Address: "0000:3d:00.0", DeviceID: "37c8"}))
		must(t, h.SetVFs("0000:3d:00.0", 16))
		r := start(t, h, cfg)
		r.becomes(map[string][]string{"generic": h.VFs("0000:3d:00.0")})
	})
}

func TestAVFThatAnotherDriverHoldsIsLeftAlone(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.LoadDriver("uio_pci_generic"))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 4))
	vfs := h.VFs(pfA)
	must(t, h.Bind(vfs[1], "uio_pci_generic"))
	r := start(t, h, Config{})
	r.becomes(map[string][]string{"cy": {vfs[0], vfs[2], vfs[3]}})
	if driver, _ := os.Readlink(filepath.Join(h.Path(vfs[1]), "driver")); filepath.Base(driver) != "uio_pci_generic" {
		t.Errorf("the VF's driver is %q, want the one that held it", driver)
	}
}

func TestVFsAreBoundWhenTheDriverIsLoadedLater(t *testing.T) {
	heardBy(t, func(t *testing.T, config func(h *lookalike.Host) Config) {
		h := lookalike.Start(t)
		cfg := config(h)
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.SetVFs(pfA, 4))
		r := start(t, h, cfg)
		r.becomes(map[string][]string{})
		must(t, h.LoadDriver(driverVFIO))
		r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	})
}

func TestOneFailingBindKeepsNoOtherBack(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 16))
	vfs := h.VFs(pfA)
	h.FailBind(vfs[7], errors.New("no"))
	r := start(t, h, Config{})
	r.becomes(map[string][]string{"cy": slices.Concat(vfs[:7], vfs[8:])})
	h.FailBind(vfs[7], nil)
	r.becomes(map[string][]string{"cy": vfs}) // after the back-off, with no event
}

// The kernel sends vfio-dev's remove event first, and nothing else until the holder closes the device.
func TestAVFThatIsTakenFromItsHolderIsUnhealthy(t *testing.T) {
	heardBy(t, func(t *testing.T, config func(h *lookalike.Host) Config) {
		h := lookalike.Start(t)
		cfg := config(h)
		must(t, h.LoadDriver(driverVFIO))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.SetVFs(pfA, 2))
		vfs := h.VFs(pfA)
		r := start(t, h, cfg)
		r.becomes(map[string][]string{"cy": vfs})
		release := h.Hold(vfs[0])
		defer release()
		removed := make(chan error, 1)
		go func() { removed <- h.RemoveVF(vfs[0]) }()
		r.becomes(map[string][]string{"cy": {vfs[0] + ": " + leaving, vfs[1]}})
		release()
		must(t, <-removed)
		r.becomes(map[string][]string{"cy": {vfs[1]}})
	})
}

func TestServicesMoveVFs(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	r := start(t, h, Config{})
	must(t, h.SetVFs(pfA, 4))
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	must(t, h.SetState(pfA, "down"))
	r.becomes(map[string][]string{"cy": {}})
	must(t, h.SetService(pfA, "dc"))
	must(t, h.SetState(pfA, "up"))
	must(t, h.SetVFs(pfA, 4))
	r.becomes(map[string][]string{"cy": {}, "dc": h.VFs(pfA)})
}

func TestLossIsMadeGoodByAResync(t *testing.T) {
	h := lookalike.Start(t)
	s := newUeventSource(h)
	resync := make(chan struct{})
	lossy := sourceFunc(func(ctx context.Context, sink events.Sink) error {
		select {
		case <-resync:
			s.take()
			sink.Resync("test")
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	})
	must(t, h.LoadDriver(driverVFIO))
	r := start(t, h, Config{ObserveOnly: true, Sources: []func() (events.Source, error){func() (events.Source, error) { return lossy, nil }}})
	r.becomes(map[string][]string{})
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 4))
	bindAll(t, h, pfA, driverVFIO)
	close(resync)
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}

func TestASourceThatBreaksIsOpenedAgain(t *testing.T) {
	h := lookalike.Start(t)
	s := newUeventSource(h)
	opened := 0
	r := start(t, h, Config{Sources: []func() (events.Source, error){func() (events.Source, error) {
		opened++
		switch opened {
		case 1:
			return sourceFunc(func(context.Context, events.Sink) error { return errors.New("broken") }), nil
		case 2:
			return nil, errors.New("cannot be opened")
		}
		return s, nil
	}}})
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 4))
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}

type sourceFunc func(ctx context.Context, sink events.Sink) error

func (f sourceFunc) Run(ctx context.Context, sink events.Sink) error { return f(ctx, sink) }

func TestTheAuditFindsWhatNoEventTold(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	deaf := sourceFunc(func(ctx context.Context, _ events.Sink) error { <-ctx.Done(); return nil })
	r := start(t, h, Config{ObserveOnly: true, AuditInterval: 50 * time.Millisecond, Sources: []func() (events.Source, error){func() (events.Source, error) { return deaf, nil }}})
	r.becomes(map[string][]string{})
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 2))
	bindAll(t, h, pfA, driverVFIO)
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}

func TestPostAllocate(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 4))
	bindAll(t, h, pfA, driverVFIO)
	vfs := h.VFs(pfA)
	p, err := New(Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev()})
	must(t, err)
	devices := func(ids ...string) (list []*devtree.Device) {
		for _, id := range ids {
			list = append(list, &devtree.Device{ID: id})
		}
		return list
	}
	edits := &devtree.ContainerEdits{}
	must(t, p.PostAllocate(t.Context(), "cy", devices(vfs[2], vfs[0]), edits))
	if diff := cmp.Diff(map[string]string{"QAT0": vfs[2], "QAT1": vfs[0]}, edits.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	must(t, h.RemoveVF(vfs[0]))
	must(t, h.Unbind(vfs[1]))
	for id, part := range map[string]string{vfs[0]: "has gone", vfs[1]: "does not hold it", "x": "not a PCI address"} {
		err := p.PostAllocate(t.Context(), "cy", devices(vfs[2], id), &devtree.ContainerEdits{})
		if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), id) {
			t.Errorf("allocating %s: error %v, want one that names it and says %q", id, err, part)
		}
	}
}

func TestNewSaysWhatIsAllowed(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  Config
		want []string
	}{
		"driver":    {Config{DPDKDriver: "nvme"}, []string{`"nvme"`, "vfio-pci, igb_uio"}},
		"VF driver": {Config{KernelVFDrivers: []string{"4xxxvf", "4xxx"}}, []string{`"4xxx"`, "4xxxvf", "dh895xccvf"}},
		"limit":     {Config{MaxNumDevices: -1}, []string{"-1", "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(test.cfg)
			for _, part := range test.want {
				if !strings.Contains(fmt.Sprint(err), part) {
					t.Errorf("error %v does not say %s", err, part)
				}
			}
		})
	}
}

func TestALimitWithBalancedIsSpreadOverPFs(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	for _, pf := range []string{pfA, pfB} {
		must(t, h.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
		must(t, h.SetVFs(pf, 16))
	}
	a, b := h.VFs(pfA), h.VFs(pfB)
	r := start(t, h, Config{MaxNumDevices: 6, Policy: Balanced})
	r.becomes(map[string][]string{"cy": slices.Concat(a[:3], b[:3])})
	p := r.plugin
	var available []*devtree.Device
	for d := range r.publisher.Tree().Resource("cy").Devices() {
		available = append(available, d)
	}
	got, err := p.PreferredAllocation(t.Context(), "cy", available, nil, 4)
	must(t, err)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Concat(a[:2], b[:2]), got); diff != "" {
		t.Errorf("preferred (-want +got):\n%s", diff)
	}
}

func TestALimitWaitsNotForABindThatFails(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 4))
	vfs := h.VFs(pfA)
	h.FailBind(vfs[0], errors.New("no"))
	r := start(t, h, Config{MaxNumDevices: 2})
	r.becomes(map[string][]string{"cy": vfs[1:3]})
}
