// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	pfA, pfB = "0000:6b:00.0", "0000:70:00.0"
	pfGen2   = "0000:3d:00.0"

	// timeout only keeps a broken test from hanging.
	timeout = 20 * time.Second
)

// must fails the test for an error of the look-alike host, which is never what a test is about.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ueventSource delivers the uevents of a look-alike host, through the real
// parser. Like the kernel, it never blocks the sender.
type ueventSource struct {
	mu       sync.Mutex
	messages [][]byte
	wake     chan struct{}
}

func newUeventSource(h *lookalike.Host) *ueventSource {
	s := &ueventSource{wake: make(chan struct{}, 1)}
	h.Uevents(s.send)
	return s
}

func (s *ueventSource) send(message []byte) {
	s.mu.Lock()
	s.messages = append(s.messages, slices.Clone(message))
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *ueventSource) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	messages := s.messages
	s.messages = nil
	return messages
}

func (s *ueventSource) Run(ctx context.Context, sink events.Sink) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for _, message := range s.take() {
			e := events.Event{Time: time.Now()}
			if err := events.ParseUevent(&e, message); err != nil {
				return err
			}
			sink.Event(&e)
		}
	}
}

// sourceFunc is a source that consists of its Run.
type sourceFunc func(ctx context.Context, sink events.Sink) error

func (f sourceFunc) Run(ctx context.Context, sink events.Sink) error { return f(ctx, sink) }

// silentSource delivers nothing.
func silentSource(ctx context.Context, _ events.Sink) error { <-ctx.Done(); return nil }

// from makes a Config that listens to one source, and does not watch directories.
func from(source events.Source) Config {
	return Config{Sources: []func() (events.Source, error){func() (events.Source, error) { return source, nil }}}
}

// running is a Plugin that watches a host.
type running struct {
	*Plugin
	t         testing.TB
	host      *lookalike.Host
	publisher devtree.Publisher
	changed   chan struct{} // a Tree was published
}

// start runs a Plugin on the host until the test ends. With neither Sources nor
// a Watcher in the Config it watches directories.
func start(t testing.TB, h *lookalike.Host, config Config) *running {
	t.Helper()
	config.SysfsRoot, config.DevRoot = h.Sysfs(), h.Dev()
	if config.Sources == nil {
		config.OpenWatcher = func() (Watcher, error) { return events.NewWatcher() }
	}
	p, err := New(config)
	must(t, err)
	r := &running{Plugin: p, t: t, host: h, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- p.Watch(ctx, func(tree *devtree.Tree) {
			r.publisher.Publish(tree)
			select {
			case r.changed <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
	return r
}

// lists returns a Tree as resource → IDs; an unhealthy device with its reason.
func lists(t *devtree.Tree) map[string][]string {
	m := map[string][]string{}
	for r := range t.Resources() {
		m[r.Name()] = []string{}
		for d := range r.Devices() {
			id := d.ID
			if d.Health == devtree.Unhealthy {
				id += ": " + d.Reason
			}
			m[r.Name()] = append(m[r.Name()], id)
		}
	}
	return m
}

// becomes waits until the lists are these.
func (r *running) becomes(want map[string][]string) {
	r.t.Helper()
	for deadline := time.After(timeout); ; {
		got := lists(r.publisher.Tree())
		if cmp.Equal(want, got) {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			r.t.Fatalf("after %v the lists are (-want +got):\n%s", timeout, cmp.Diff(want, got))
		}
	}
}

// newHost returns a served host with a 4xxx PF for cy, and with vfio-pci loaded.
func newHost(t testing.TB) *lookalike.Host {
	t.Helper()
	h := lookalike.Start(t)
	must(t, h.LoadDriver("vfio-pci"))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	return h
}

func bindAll(t testing.TB, h *lookalike.Host, pf string) {
	t.Helper()
	for _, vf := range h.VFs(pf) {
		must(t, h.Bind(vf, "vfio-pci"))
	}
}

// withEachSource runs a test with uevents alone and with inotify alone: either must suffice.
func withEachSource(t *testing.T, test func(t *testing.T, h *lookalike.Host, config Config)) {
	t.Run("uevents", func(t *testing.T) {
		h := lookalike.Start(t)
		test(t, h, from(newUeventSource(h)))
	})
	t.Run("inotify", func(t *testing.T) {
		test(t, lookalike.Start(t), Config{})
	})
}

func TestVFsComeAndGo(t *testing.T) {
	withEachSource(t, func(t *testing.T, h *lookalike.Host, config Config) {
		must(t, h.LoadDriver("vfio-pci"))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.AddPF(lookalike.PF{Address: pfB, DeviceID: "4944", Services: "dc"}))
		r := start(t, h, config)
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

// While VFs come and go, their links come and go one by one. At no moment may
// a VF be listed in a resource that its PF never served.
func TestVFsNeverAppearInAnotherResource(t *testing.T) {
	withEachSource(t, func(t *testing.T, h *lookalike.Host, config Config) {
		must(t, h.LoadDriver("vfio-pci"))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		r := start(t, h, config)
		for range 20 {
			must(t, h.SetVFs(pfA, 16))
			r.becomes(map[string][]string{"cy": h.VFs(pfA)}) // a resource stays in the Tree once it was there
			must(t, h.SetState(pfA, "down"))
			r.becomes(map[string][]string{"cy": {}})
			must(t, h.SetState(pfA, "up"))
		}
	})
}

// mixedHost returns a served host with VFs that are bound to nothing, to a
// foreign driver, and to their kernel driver.
func mixedHost(t testing.TB) (h *lookalike.Host, vfs []string) {
	t.Helper()
	h = lookalike.Start(t)
	must(t, h.LoadDriver("vfio-pci", "disable_denylist=1"))
	must(t, h.LoadDriver("c6xxvf"))
	must(t, h.LoadDriver("uio_pci_generic"))
	must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8", TotalVFs: 4}))
	must(t, h.SetVFs(pfGen2, 4)) // which binds them to c6xxvf
	vfs = h.VFs(pfGen2)
	must(t, h.Unbind(vfs[0]))
	must(t, h.Unbind(vfs[1]))
	must(t, h.Bind(vfs[1], "uio_pci_generic"))
	return h, vfs
}

func TestWhichVFsAreBound(t *testing.T) {
	for name, tt := range map[string]struct {
		config  Config
		want    []int // of the VFs of mixedHost
		foreign string
	}{
		"by default all but those of a foreign driver": {Config{}, []int{0, 2, 3}, "uio_pci_generic"},
		"with Steal all":                  {Config{Steal: true}, []int{0, 1, 2, 3}, "vfio-pci"},
		"with NoBind those already bound": {Config{NoBind: true}, []int{2}, "uio_pci_generic"},
	} {
		t.Run(name, func(t *testing.T) {
			h, vfs := mixedHost(t)
			if tt.config.NoBind {
				must(t, h.Unbind(vfs[2]))
				must(t, h.Bind(vfs[2], "vfio-pci"))
			}
			r := start(t, h, tt.config)
			var want []string
			for _, i := range tt.want {
				want = append(want, vfs[i])
			}
			r.becomes(map[string][]string{"generic": want})
			if tt.config.NoBind { // and neither are they bound later
				must(t, h.Unbind(vfs[3]))
				must(t, h.Bind(vfs[3], "vfio-pci"))
				r.becomes(map[string][]string{"generic": {vfs[2], vfs[3]}})
			}
			link, _ := os.Readlink(filepath.Join(h.Path(vfs[1]), "driver"))
			if got := filepath.Base(link); got != tt.foreign {
				t.Errorf("the VF of a foreign driver is bound to %q, want %q", got, tt.foreign)
			}
		})
	}
}

func TestVFsAreTakenFromTheirKernelDriver(t *testing.T) {
	withEachSource(t, func(t *testing.T, h *lookalike.Host, config Config) {
		must(t, h.LoadDriver("vfio-pci", "disable_denylist=1"))
		must(t, h.LoadDriver("c6xxvf"))
		must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8"}))
		must(t, h.SetVFs(pfGen2, 16))
		r := start(t, h, config)
		r.becomes(map[string][]string{"generic": h.VFs(pfGen2)})
	})
}

func TestVFsAreBoundWhenTheDriverIsLoadedLater(t *testing.T) {
	withEachSource(t, func(t *testing.T, h *lookalike.Host, config Config) {
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.SetVFs(pfA, 4))
		r := start(t, h, config)
		r.becomes(map[string][]string{})
		must(t, h.LoadDriver("vfio-pci"))
		r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	})
}

// An administrator reserves a VF through its driver_override, and ends that with a write, which
// inotify reports.
func TestReservedVFIsBoundWhenTheReservationEnds(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 2))
	vfs := h.VFs(pfA)
	must(t, h.SetAttr(vfs[0], "driver_override", "none"))
	r := start(t, h, Config{})
	r.becomes(map[string][]string{"cy": vfs[1:]})
	must(t, os.WriteFile(filepath.Join(h.Path(vfs[0]), "driver_override"), []byte("\n"), 0o600))
	r.becomes(map[string][]string{"cy": vfs})
}

func TestFailingBindDelaysNoOther(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 16))
	vfs := h.VFs(pfA)
	h.FailBind(vfs[7], errors.New("no"))
	r := start(t, h, Config{})
	r.becomes(map[string][]string{"cy": slices.Concat(vfs[:7], vfs[8:])})
	h.FailBind(vfs[7], nil)
	r.becomes(map[string][]string{"cy": vfs}) // after the back-off, without an event
}

// The kernel sends the remove event of vfio-dev first, and nothing else until
// the workload closes the device.
func TestVFThatIsRemovedWhileHeldIsUnhealthy(t *testing.T) {
	withEachSource(t, func(t *testing.T, h *lookalike.Host, config Config) {
		must(t, h.LoadDriver("vfio-pci"))
		must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
		must(t, h.SetVFs(pfA, 2))
		vfs := h.VFs(pfA)
		r := start(t, h, config)
		r.becomes(map[string][]string{"cy": vfs})
		release := h.Hold(vfs[0])
		defer release()
		removed := make(chan error, 1)
		go func() { removed <- h.RemoveVF(vfs[0]) }()
		const reason = ": it is being removed or unbound while a workload holds it" // after a second
		r.becomes(map[string][]string{"cy": {vfs[0] + reason, vfs[1]}})
		release()
		must(t, <-removed)
		r.becomes(map[string][]string{"cy": {vfs[1]}})
	})
}

func TestServiceChangeMovesVFs(t *testing.T) {
	h := newHost(t)
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

func TestResyncMakesUpForLostEvents(t *testing.T) {
	h := lookalike.Start(t)
	s := newUeventSource(h)
	lose := make(chan struct{})
	config := from(sourceFunc(func(ctx context.Context, sink events.Sink) error {
		select {
		case <-lose:
			s.take()
			sink.Resync("test")
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	}))
	config.NoBind = true
	must(t, h.LoadDriver("vfio-pci"))
	r := start(t, h, config)
	r.becomes(map[string][]string{})
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 4))
	bindAll(t, h, pfA)
	close(lose)
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}

func TestFailedSourceIsOpenedAgain(t *testing.T) {
	h := lookalike.Start(t)
	s := newUeventSource(h)
	opened := 0
	open := func() (events.Source, error) {
		opened++
		switch opened {
		case 1:
			return sourceFunc(func(context.Context, events.Sink) error { return errors.New("failed") }), nil
		case 2:
			return nil, errors.New("cannot be opened")
		}
		return s, nil
	}
	r := start(t, h, Config{Sources: []func() (events.Source, error){open}})
	must(t, h.LoadDriver("vfio-pci"))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 4))
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}

func TestAuditFindsWhatNoEventReported(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver("vfio-pci"))
	config := from(sourceFunc(silentSource))
	config.NoBind, config.AuditInterval = true, 50*time.Millisecond
	r := start(t, h, config)
	r.becomes(map[string][]string{})
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 2))
	bindAll(t, h, pfA)
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
}

func TestLimitIsSpreadOverPFsWithBalanced(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	for _, pf := range []string{pfA, pfB} {
		must(t, h.SetVFs(pf, 16))
	}
	a, b := h.VFs(pfA), h.VFs(pfB)
	r := start(t, h, Config{MaxNumDevices: 6, AllocationPolicy: "balanced"})
	r.becomes(map[string][]string{"cy": slices.Concat(a[:3], b[:3])})
	available := slices.Collect(r.publisher.Tree().Resource("cy").Devices())
	got, err := r.PreferredAllocation(t.Context(), "cy", available, nil, 4)
	must(t, err)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Concat(a[:2], b[:2]), got); diff != "" {
		t.Errorf("preferred (-want +got):\n%s", diff)
	}
}

func TestWithoutPolicyThereIsNoPreference(t *testing.T) {
	p, err := New(Config{})
	must(t, err)
	devices := []*devtree.Device{{ID: pfA, Health: devtree.Healthy}}
	if got, err := p.PreferredAllocation(t.Context(), "cy", devices, devices, 1); got != nil || err != nil {
		t.Errorf("PreferredAllocation = %v, %v; want nil, nil", got, err)
	}
}

func TestLimitDoesNotWaitForAFailingBind(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 4))
	vfs := h.VFs(pfA)
	h.FailBind(vfs[0], errors.New("no"))
	r := start(t, h, Config{MaxNumDevices: 2})
	r.becomes(map[string][]string{"cy": vfs[1:3]})
}

func TestNewNamesWhatIsAllowed(t *testing.T) {
	for _, tt := range []struct {
		config Config
		want   string
	}{
		{Config{Mode: "user"}, `mode "user": must be one of dpdk, kernel`},
		{Config{DPDKDriver: "nvme"}, `DPDK driver "nvme": must be one of vfio-pci, igb_uio`},
		{Config{VFIOInterface: "x"}, `VFIO interface "x": must be one of auto, group, cdev`},
		{
			Config{KernelVFDrivers: []string{"4xxxvf", "4xxx"}},
			`kernel VF driver "4xxx": must be one of ` + strings.Join(KernelVFDrivers(), ", "),
		},
		{Config{AllocationPolicy: "fair"}, `invalid allocation policy "fair": must be balanced or packed`},
		{Config{MaxNumDevices: -1}, "device limit -1: must be 0 (no limit) or more"},
		{
			Config{HealthInterval: MinHealthInterval - 1},
			"health interval 999.999999ms: must be at least 1s, or negative (never)",
		},
	} {
		if _, err := New(tt.config); fmt.Sprint(err) != tt.want {
			t.Errorf("New: %v, want %s", err, tt.want)
		}
	}
	for _, config := range []Config{{}, {HealthInterval: MinHealthInterval}, {HealthInterval: -1}, {MaxNumDevices: 1}} {
		if _, err := New(config); err != nil {
			t.Errorf("New(%+v): %v", config, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	p, err := New(Config{})
	must(t, err)
	want := Config{
		Mode:            ModeDPDK,
		SysfsRoot:       "/sys",
		DevRoot:         "/dev",
		DPDKDriver:      "vfio-pci",
		VFIOInterface:   "auto",
		KernelVFDrivers: KernelVFDrivers(),
		HealthInterval:  5 * time.Second,
		EtcRoot:         "/etc",
		ADFCtl:          "adf_ctl",
		AuditInterval:   10 * time.Minute,
	}
	if diff := cmp.Diff(want, p.config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

// inotify reports paths without symbolic links.
func TestRootsAreResolved(t *testing.T) {
	target, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(target, link))
	p, err := New(Config{SysfsRoot: link, DevRoot: link, EtcRoot: link})
	must(t, err)
	got := []string{p.config.SysfsRoot, p.config.DevRoot, p.config.EtcRoot}
	if diff := cmp.Diff([]string{target, target, target}, got); diff != "" {
		t.Errorf("roots (-want +got):\n%s", diff)
	}
}

func TestDryRunConcernsBothModes(t *testing.T) {
	for _, tt := range []struct {
		config Config
		want   bool
	}{
		{Config{}, false},
		{Config{DryRun: true}, true},
		{Config{Mode: ModeKernel}, false},
		{Config{DryRun: true, Mode: ModeKernel}, true},
	} {
		p, err := New(tt.config)
		must(t, err)
		if got := p.writer.DryRun(); got != tt.want {
			t.Errorf("mode %q, DryRun %v: the writer's is %v, want %v", tt.config.Mode, tt.config.DryRun, got, tt.want)
		}
	}
}

func TestOnlyServedFamiliesAreListed(t *testing.T) {
	h, _ := mixedHost(t)
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 2))
	for _, pf := range []string{pfA, pfGen2} {
		for _, vf := range h.VFs(pf) {
			_ = h.Unbind(vf)
			must(t, h.Bind(vf, "vfio-pci"))
		}
	}
	r := start(t, h, Config{KernelVFDrivers: []string{"c6xxvf"}})
	r.becomes(map[string][]string{"generic": h.VFs(pfGen2)})
}

func TestVFIOInterfaceDecidesAboutTheNode(t *testing.T) {
	h := newHost(t) // without iommufd
	must(t, h.SetVFs(pfA, 1))
	bindAll(t, h, pfA)
	for name, usable := range map[string]bool{"auto": true, "group": true, "cdev": false} {
		p, err := New(Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), VFIOInterface: name})
		must(t, err)
		addresses, err := p.reader.Addresses()
		must(t, err)
		f, err := p.reader.Read(addresses[len(addresses)-1]) // the VF comes after its PF
		must(t, err)
		if !f.IsVF || (f.Node.Missing == "") != usable {
			t.Errorf("interface %s: %+v, want a VF with a usable node: %v", name, f, usable)
		}
	}
}

func TestPostAllocateOfEachMode(t *testing.T) {
	for mode, isAddress := range map[string]bool{ModeDPDK: true, ModeKernel: false} {
		p, err := New(Config{Mode: mode})
		must(t, err)
		err = p.PostAllocate(t.Context(), "x", []*devtree.Device{{ID: "SSL_dev0_0"}}, &devtree.ContainerEdits{})
		if got := strings.Contains(fmt.Sprint(err), "not a PCI address"); got != isAddress {
			t.Errorf("mode %s: %v, want an error about a PCI address: %v", mode, err, isAddress)
		}
	}
}

func TestChecksFailBeforeWatch(t *testing.T) {
	p, err := New(Config{})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, check := range map[string]func(context.Context) error{
		"CheckEventLoop":   p.CheckEventLoop,
		"CheckFirstLook":   p.CheckFirstLook,
		"CheckKernelHeard": p.CheckKernelHeard,
	} {
		if check(ctx) == nil {
			t.Errorf("%s passes", name)
		}
	}
}
