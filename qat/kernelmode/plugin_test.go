package kernelmode

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat"
)

// deadline is far beyond what anything here takes; it only keeps a broken test from hanging.
const deadline = 20 * time.Second

const addressA, addressB = "0000:3b:00.0", "0000:d8:00.0"

// running is a Plugin that watches a host.
type running struct {
	t         testing.TB
	plugin    *Plugin
	publisher devtree.Publisher
	changed   chan struct{} // a Tree was published
	published atomic.Int32
	stop      func()
}

// start runs a Plugin until the test ends. Without sources it hears the host by inotify alone.
func start(t testing.TB, cfg Config) *running {
	t.Helper()
	if cfg.Sources == nil && cfg.OpenWatcher == nil {
		cfg.OpenWatcher = func() (qat.Watcher, error) { return events.NewWatcher() }
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
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, ended); err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// becomes waits until the lists are these.
func (r *running) becomes(want map[string][]string) {
	r.t.Helper()
	for timeout := time.After(deadline); ; {
		got := lists(r.publisher.Tree())
		if cmp.Equal(want, got) && r.published.Load() > 0 {
			return
		}
		select {
		case <-r.changed:
		case <-timeout:
			r.t.Fatalf("after %v the lists are (-want +got):\n%s\nleft out: %v", deadline, cmp.Diff(want, got), r.plugin.LeftOut())
		}
	}
}

// lists is a Tree as resource → IDs, an unhealthy one with its reason.
func lists(tree *devtree.Tree) map[string][]string {
	m := map[string][]string{}
	for r := range tree.Resources() {
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

// heardBy are the two ways in which the devices of a host are heard: both must do alone.
func heardBy(t *testing.T, test func(t *testing.T, h *testHost, cfg Config)) {
	t.Run("by uevents", func(t *testing.T) {
		h := newTestHost(t, lookalike.WithoutIOMMU())
		cfg := h.config()
		cfg.Sources = []func() (events.Source, error){func() (events.Source, error) { return &h.queue, nil }}
		test(t, h, cfg)
	})
	t.Run("by inotify", func(t *testing.T) {
		h := newTestHost(t, lookalike.WithoutIOMMU())
		test(t, h, h.config())
	})
}

// A section that is not pinned spans the devices; a pinned one is on each.
func TestDevicesComeAndGo(t *testing.T) {
	heardBy(t, func(t *testing.T, h *testHost, cfg Config) {
		for _, name := range []string{"c6xx_dev0", "c6xx_dev1"} {
			h.conf(t, name, sec("SSL", 2, 1, 0), sec("SHIM", 1, 2, 1, pinned))
		}
		r := start(t, cfg)
		r.becomes(map[string][]string{})
		a := h.addPF(t, 0, addressA)
		h.up(t, a)
		one := map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy2_dc1": {"SHIM_dev0_0"}}
		r.becomes(one)

		b := h.addPF(t, 1, addressB)
		h.up(t, b)
		both := map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy2_dc1": {"SHIM_dev0_0", "SHIM_dev1_0"}}
		r.becomes(both)

		h.down(t, b)
		r.becomes(one)
		h.up(t, b)
		r.becomes(both)
		h.remove(t, b)
		r.becomes(one)
		h.down(t, a)
		r.becomes(map[string][]string{"cy1_dc0": {}, "cy2_dc1": {}})
	})
}

func TestAConfigurationFileIsFollowed(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	r := start(t, h.config())
	r.becomes(map[string][]string{})
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}})

	f, err := os.OpenFile(filepath.Join(h.etc, "c6xx_dev0.conf"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(sec("SHIM", 1, 1, 0))
	must(t, err)
	must(t, f.Close())
	r.becomes(map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SSL_dev0_0", "SSL_dev0_1"}})

	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0), sec("broken", 1, -1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	must(t, os.Remove(filepath.Join(h.etc, "c6xx_dev0.conf")))
	r.becomes(map[string][]string{"cy1_dc0": {}})
}

// A ConfigMap that is mounted exchanges its files by renaming the link ..data, and their own links stay as they are.
func TestAConfigMapIsFollowed(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	publish := func(version, text string) {
		t.Helper()
		must(t, os.Mkdir(filepath.Join(h.etc, version), 0o755))
		h.put(t, filepath.Join(h.etc, version, "c6xx_dev0.conf"), text)
		must(t, os.Symlink(version, filepath.Join(h.etc, "..data_tmp")))
		must(t, os.Rename(filepath.Join(h.etc, "..data_tmp"), filepath.Join(h.etc, "..data")))
	}
	publish("..1", sec("SSL", 1, 1, 0))
	must(t, os.Symlink("..data/c6xx_dev0.conf", filepath.Join(h.etc, "c6xx_dev0.conf")))
	r := start(t, h.config())
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	publish("..2", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}})
}

func TestUnitsAreUnhealthyWithoutTheStacksNodes(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	r := start(t, h.config())
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	must(t, os.Remove(filepath.Join(h.Dev(), "usdm_drv")))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0: missing: /dev/usdm_drv"}})
	must(t, os.WriteFile(filepath.Join(h.Dev(), "usdm_drv"), nil, 0o600))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
}

func TestUnderAnIOMMUVFsAreServedAndWithoutOnePFs(t *testing.T) {
	h := newTestHost(t) // with an IOMMU
	pf := h.addPF(t, 0, addressA)
	h.up(t, pf)
	h.up(t, h.addVFs(t, addressA, 2)...)
	for _, name := range []string{"c6xx_dev0", "c6xxvf_dev0", "c6xxvf_dev1"} {
		h.conf(t, name, sec("SSL", 1, 1, 0, pinned))
	}
	r := start(t, h.config())
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev1_0"}})
	want := []Omission{{Subject: "c6xx_dev0", Reason: "under an IOMMU only VFs can be used, and it is a PF"}}
	if diff := cmp.Diff(want, r.plugin.LeftOut()); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	must(t, os.Remove(filepath.Join(h.Sysfs(), "class/iommu/dmar0"))) // no kernel does this; it shows the other rule
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	if nodes := r.publisher.Tree().Resource("cy1_dc0").Device("SSL_dev0_0").DeviceNodes; nodes[len(nodes)-1].HostPath != "/dev/"+pf.uio {
		t.Errorf("the unit has the nodes %v, want the PF's %s among them", nodes, pf.uio)
	}
}

// The driver says that it makes a UIO device, and then tells nobody that the device is up; and the same when it stops.
func TestTheLastStepOfAStartIsNotMissed(t *testing.T) {
	heardBy(t, func(t *testing.T, h *testHost, cfg Config) {
		h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
		d := h.addPF(t, 0, addressA)
		r := start(t, cfg)
		r.becomes(map[string][]string{})
		before := h.runs(t)
		h.addUIO(t, d)
		h.awaitRuns(t, before+1)
		h.setState(t, d, "up")
		r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
		h.removeUIO(t, d)
		h.setState(t, d, "down")
		r.becomes(map[string][]string{"cy1_dc0": {}})
	})
}

// awaitRuns waits until the stand-in has run so often.
func (h *testHost) awaitRuns(t testing.TB, n int) {
	t.Helper()
	w, err := events.NewWatcher()
	must(t, err)
	defer w.Close()
	must(t, w.Watch(h.bin))
	written := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx, sinkFunc(func(*events.Event) {
			select {
			case written <- struct{}{}:
			default:
			}
		}))
	}()
	defer func() { cancel(); <-ended }()
	for h.runs(t) < n {
		receive(t, written)
	}
}

type sinkFunc func(*events.Event)

func (f sinkFunc) Event(e *events.Event) { f(e) }
func (f sinkFunc) Resync(string)         {}

func TestPostAllocateNumbersTheUnitsOfEachContainer(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	d := h.addPF(t, 0, addressA)
	h.up(t, d)
	h.conf(t, "c6xx_dev0", sec("SSL", 3, 1, 0), sec("SHIM", 1, 1, 0))
	r := start(t, h.config())
	r.becomes(map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SSL_dev0_0", "SSL_dev0_1", "SSL_dev0_2"}})
	resource := r.publisher.Tree().Resource("cy1_dc0")
	for _, tt := range []struct {
		name  string
		units []string
		want  map[string]string
	}{
		{"one", []string{"SSL_dev0_2"}, map[string]string{"QAT_SECTION_NAME": "SSL", "QAT_SECTION_NAME_cy1_dc0_0": "SSL"}},
		{"several", []string{"SHIM_dev0_0", "SSL_dev0_2", "SSL_dev0_0"}, map[string]string{
			"QAT_SECTION_NAME": "SHIM", "QAT_SECTION_NAME_cy1_dc0_0": "SHIM", "QAT_SECTION_NAME_cy1_dc0_1": "SSL", "QAT_SECTION_NAME_cy1_dc0_2": "SSL",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edits := &devtree.ContainerEdits{}
			var devices []*devtree.Device
			for _, id := range tt.units {
				devices = append(devices, resource.Device(id))
				edits.Merge(&resource.Device(id).ContainerEdits)
			}
			must(t, r.plugin.PostAllocate(t.Context(), "cy1_dc0", devices, edits))
			if diff := cmp.Diff(tt.want, edits.Env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
			var nodes []string
			for _, n := range edits.DeviceNodes {
				nodes = append(nodes, n.HostPath)
			}
			if diff := cmp.Diff([]string{"/dev/qat_adf_ctl", "/dev/qat_dev_processes", "/dev/usdm_drv", "/dev/" + d.uio}, nodes); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
		})
	}
	unit := resource.Device("SSL_dev0_0")
	must(t, os.Remove(filepath.Join(h.Dev(), d.uio)))
	err := r.plugin.PostAllocate(t.Context(), "cy1_dc0", []*devtree.Device{unit}, &devtree.ContainerEdits{})
	if err == nil || !strings.Contains(err.Error(), "/dev/"+d.uio) || !strings.Contains(err.Error(), unit.ID) {
		t.Errorf("without the node the error is %v, want one that names it and the unit", err)
	}
	if err := r.plugin.PostAllocate(t.Context(), "cy1_dc0", []*devtree.Device{{ID: "x"}}, &devtree.ContainerEdits{}); err == nil {
		t.Error("a unit without a section was allocated")
	}
}

func TestWhatDidNotChangeIsShared(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0), sec("SHIM", 1, 0, 1))
	r := start(t, h.config())
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy0_dc1": {"SHIM_dev0_0"}})
	old := r.publisher.Tree()
	h.conf(t, "c6xx_dev0", sec("SSL", 3, 1, 0), sec("SHIM", 1, 0, 1))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1", "SSL_dev0_2"}, "cy0_dc1": {"SHIM_dev0_0"}})
	tree := r.publisher.Tree()
	if old.Resource("cy0_dc1") != tree.Resource("cy0_dc1") {
		t.Error("the resource that did not change is another one")
	}
	if a, b := old.Resource("cy1_dc0").Device("SSL_dev0_0"), tree.Resource("cy1_dc0").Device("SSL_dev0_0"); a != b {
		t.Error("the unit that did not change is another one")
	}
}

func TestNewSaysWhatIsAllowed(t *testing.T) {
	_, err := New(Config{ADFCtlTimeout: -time.Second})
	if err == nil || !strings.Contains(err.Error(), "-1s") || !strings.Contains(err.Error(), "more than 0") {
		t.Errorf("error %v, want one that names the value and what is allowed", err)
	}
	p, err := New(Config{})
	must(t, err)
	want := Config{SysfsRoot: "/sys", DevRoot: "/dev", EtcRoot: "/etc", ADFCtl: "adf_ctl", ADFCtlTimeout: 10 * time.Second, AuditInterval: 10 * time.Minute}
	if diff := cmp.Diff(want, p.cfg); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}
