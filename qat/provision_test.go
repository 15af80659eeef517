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

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A kubelet says which VFs pods hold.
type kubelet struct {
	mu    sync.Mutex // guards all following fields
	held  map[string][]string
	err   error // what holders returns; nil: what pods hold
	asked int   // calls of holders
}

// hold makes a pod hold these VFs; none: the pod ends.
func (k *kubelet) hold(pod string, vfs ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = map[string][]string{}
	}
	k.held["default/"+pod] = vfs
}

// holders is a Config.Holders.
func (k *kubelet) holders(context.Context) (map[string]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	holders := map[string]string{}
	for pod, vfs := range k.held {
		for _, vf := range vfs {
			holders[vf] = pod
		}
	}
	return holders, k.err
}

// A configMap is a directory that changes as the kubelet changes the mount of a ConfigMap: by
// exchanging the link ..data.
type configMap struct {
	t       testing.TB
	dir     string
	version int
}

// newConfigMap returns a ConfigMap with these rules in qat.yaml.
func newConfigMap(t testing.TB, rules ...string) *configMap {
	t.Helper()
	m := &configMap{t: t, dir: t.TempDir()}
	m.set(rules...)
	must(t, os.Symlink("..data/qat.yaml", filepath.Join(m.dir, "qat.yaml")))
	return m
}

// set changes the rules.
func (m *configMap) set(rules ...string) {
	m.t.Helper()
	m.version++
	data := fmt.Sprintf("..%d", m.version)
	must(m.t, os.Mkdir(filepath.Join(m.dir, data), 0o700))
	text := "rules:\n"
	for _, rule := range rules {
		text += "- " + strings.ReplaceAll(rule, "; ", "\n  ") + "\n"
	}
	must(m.t, os.WriteFile(filepath.Join(m.dir, data, "qat.yaml"), []byte(text), 0o600))
	must(m.t, os.Symlink(data, filepath.Join(m.dir, "..tmp")))
	must(m.t, os.Rename(filepath.Join(m.dir, "..tmp"), filepath.Join(m.dir, "..data")))
}

// vfsOf returns the addresses of the 16 VFs that a Gen4 PF has or will have.
func vfsOf(t testing.TB, h *lookalike.Host, pf string) []string {
	t.Helper()
	if vfs := h.VFs(pf); len(vfs) > 0 {
		return vfs
	}
	prefix := pf[:len(pf)-len("00.0")]
	var vfs []string
	for n := 1; n <= 16; n++ {
		vfs = append(vfs, fmt.Sprintf("%s%02x.%d", prefix, n/8, n%8))
	}
	return vfs
}

func TestProvisionedPFsGetVFsAndServices(t *testing.T) {
	for _, sources := range []string{"inotify", "uevents", "uevents and inotify"} {
		t.Run(sources, func(t *testing.T) {
			h := newHost(t) // with pfA for sym;asym
			must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
			must(t, h.LoadDriver("c6xxvf"))
			must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8", NUMANode: 1}))
			config := Config{}
			config.ProvisioningDir = newConfigMap(t, "services: [asym, sym]; vfs: all; autoReset: true").dir
			if sources != "inotify" { // which alone reports writes to attributes
				config.Sources = []func() (events.Source, error){newBroadcast(h).open}
			}
			if sources == "uevents and inotify" {
				config.OpenWatcher = func() (Watcher, error) { return events.NewWatcher() }
			}
			r := start(t, h, config)
			r.becomes(map[string][]string{"cy": slices.Concat(vfsOf(t, h, pfA), vfsOf(t, h, pfB))})
			for _, pf := range []string{pfA, pfB} {
				attribute(t, h, pf, "qat/auto_reset", "on")
				attribute(t, h, pf, "sriov_drivers_autoprobe", "0")
			}
			attribute(t, h, pfGen2, "sriov_numvfs", "16") // and vfio-pci refuses them
		})
	}
}

// A broadcast delivers the uevents of a look-alike host to any number of sources, as the kernel
// does to sockets.
type broadcast struct {
	mu      sync.Mutex // guards sources
	sources []*ueventSource
}

func newBroadcast(h *lookalike.Host) *broadcast {
	b := &broadcast{}
	h.Uevents(func(message []byte) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, s := range b.sources {
			s.send(message)
		}
	})
	return b
}

func (b *broadcast) open() (events.Source, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &ueventSource{wake: make(chan struct{}, 1)}
	b.sources = append(b.sources, s)
	return s, nil
}

// read returns the value of an attribute of a PF.
func read(h *lookalike.Host, pf, name string) string {
	text, _ := os.ReadFile(filepath.Join(h.Path(pf), name))
	return strings.TrimSpace(string(text))
}

// attribute waits until an attribute of a PF has a value.
func attribute(t testing.TB, h *lookalike.Host, pf, name, want string) {
	t.Helper()
	for deadline := time.Now().Add(timeout); read(h, pf, name) != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v %s of %s is %q, want %q", timeout, name, pf, read(h, pf, name), want)
		}
	}
}

func TestPFsThatComeLaterAreProvisioned(t *testing.T) {
	h := newHost(t)
	r := start(t, h, Config{ProvisioningDir: newConfigMap(t, "vfs: all").dir})
	a, b := vfsOf(t, h, pfA), vfsOf(t, h, pfB)
	r.becomes(map[string][]string{"cy": a})
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	r.becomes(map[string][]string{"cy": a, "dc": b})
	must(t, h.RemovePF(pfB))
	r.becomes(map[string][]string{"cy": a, "dc": {}})
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	r.becomes(map[string][]string{"cy": a, "dc": b})
	must(t, h.SetState(pfA, "down")) // as a reset does: the VFs are gone, and the PF is not up
	r.becomes(map[string][]string{"cy": a, "dc": b})
	attribute(t, h, pfA, "qat/state", "up")
}

// withReason returns IDs as lists shows unhealthy devices.
func withReason(ids []string, reason string) []string {
	var list []string
	for _, id := range ids {
		list = append(list, id+": "+reason)
	}
	return list
}

func TestChangeOfServicesWaitsForPodsThatHoldVFs(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	k := &kubelet{}
	rules := newConfigMap(t, "vfs: all")
	r := start(t, h, Config{ProvisioningDir: rules.dir, Holders: k.holders})
	a, b := vfsOf(t, h, pfA), vfsOf(t, h, pfB)
	r.becomes(map[string][]string{"cy": slices.Concat(a, b)})

	k.hold("web", a[3], a[5])
	rules.set("services: [dc]; vfs: all")
	const reason = "its PF waits for reconfiguration: "
	waiting := fmt.Sprintf("%spod default/web holds %s, pod default/web holds %s", reason, a[3], a[5])
	r.becomes(map[string][]string{"cy": withReason(a, waiting), "dc": b}) // the other PF goes at once
	edits := &devtree.ContainerEdits{}
	device := r.publisher.Tree().Resource("cy").Device(a[0])
	err := r.PostAllocate(t.Context(), "cy", []*devtree.Device{device}, edits)
	if err == nil || !strings.Contains(err.Error(), "waits for reconfiguration") {
		t.Errorf("PostAllocate of a VF whose PF waits: %v", err)
	}
	k.hold("web", a[5])
	r.becomes(map[string][]string{"cy": withReason(a, reason+"pod default/web holds "+a[5]), "dc": b})
	attribute(t, h, pfA, "qat/cfg_services", "sym;asym")
	k.hold("web")
	r.becomes(map[string][]string{"cy": {}, "dc": slices.Concat(a, b)})
}

func TestChangeThatIsTakenBackOffersTheVFsAgain(t *testing.T) {
	h := newHost(t)
	k := &kubelet{}
	rules := newConfigMap(t, "vfs: all")
	r := start(t, h, Config{ProvisioningDir: rules.dir, Holders: k.holders})
	a := vfsOf(t, h, pfA)
	r.becomes(map[string][]string{"cy": a})
	k.hold("web", a[0])
	rules.set("services: [dc]; vfs: all")
	r.becomes(map[string][]string{
		"cy": withReason(a, "its PF waits for reconfiguration: pod default/web holds "+a[0]),
	})
	rules.set("services: [sym, asym]; vfs: all")
	r.becomes(map[string][]string{"cy": a})
}

// VFs that may be held are not removed. Pods can get them until the kubelet answers.
func TestVFsCountAsHeldWhileTheKubeletCannotBeAsked(t *testing.T) {
	h := newHost(t)
	k := &kubelet{}
	k.fail(errors.New("not now"))
	rules := newConfigMap(t, "vfs: all")
	log := captureLog(t)
	r := start(t, h, Config{ProvisioningDir: rules.dir, Holders: k.holders})
	a := vfsOf(t, h, pfA)
	r.becomes(map[string][]string{"cy": a})
	rules.set("services: [dc]; vfs: all")
	const reason = `"Not provisioned" reason="its VFs count as held by pods: not now" devices=["` + pfA + `"]`
	for deadline := time.Now().Add(timeout); !strings.Contains(log(), reason); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("log:\n%s\nwant %s", log(), reason)
		}
	}
	r.becomes(map[string][]string{"cy": a})
	attribute(t, h, pfA, "qat/cfg_services", "sym;asym")
	k.fail(nil)
	r.becomes(map[string][]string{"cy": {}, "dc": a})
}

func TestForceDoesNotAsk(t *testing.T) {
	h := newHost(t)
	rules := newConfigMap(t, "vfs: all")
	r := start(t, h, Config{ProvisioningDir: rules.dir, ProvisioningForce: true})
	a := vfsOf(t, h, pfA)
	r.becomes(map[string][]string{"cy": a})
	rules.set("services: [dc]; vfs: all")
	r.becomes(map[string][]string{"cy": {}, "dc": a})
}

func TestWrongConfigurationKeepsTheLastGoodOne(t *testing.T) {
	h := newHost(t)
	rules := newConfigMap(t, "services: [sym, asym]; vfs: all")
	r := start(t, h, Config{ProvisioningDir: rules.dir})
	a, b := vfsOf(t, h, pfA), vfsOf(t, h, pfB)
	r.becomes(map[string][]string{"cy": a})
	rules.set("services: [tea]; vfs: all")
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	r.becomes(map[string][]string{"cy": slices.Concat(a, b)})
}

func TestWrongConfigurationAtTheStartChangesNothing(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 4))
	rules := newConfigMap(t, "services: [tea]")
	r := start(t, h, Config{ProvisioningDir: rules.dir})
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	if writes := writesToPFs(h); len(writes) > 0 {
		t.Errorf("writes to PFs: %v", writes)
	}
}

func TestVFsThatAreLeftToTheirKernelDriver(t *testing.T) {
	h := newHost(t)
	must(t, h.LoadDriver("4xxxvf"))
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	k := &kubelet{}
	kernel := fmt.Sprintf("match: {pfs: [%q]}; vfs: all; driver: kernel", pfB)
	rules := newConfigMap(t, kernel, "vfs: all")
	r := start(t, h, Config{ProvisioningDir: rules.dir, Holders: k.holders})
	a, b := vfsOf(t, h, pfA), vfsOf(t, h, pfB)
	r.becomes(map[string][]string{"cy": a})
	r.bound("4xxxvf", b)

	rules.set("vfs: all") // the plugin takes them from their kernel driver
	r.becomes(map[string][]string{"cy": slices.Concat(a, b)})
	rules.set(kernel, "vfs: all") // and must give them back
	r.becomes(map[string][]string{"cy": a})
	r.bound("4xxxvf", b)
}

// writesToPFs returns what programs have written to attributes of PFs.
func writesToPFs(h *lookalike.Host) map[string]int {
	writes := h.Writes()
	for _, name := range []string{"drivers_probe", "bind", "unbind"} { // of VFs
		delete(writes, name)
	}
	return writes
}

// bound waits until exactly these VFs are bound to a driver.
func (r *running) bound(driver string, want []string) {
	r.t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		got := r.host.Bound(driver)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("after %v %v are bound to %s, want %v; to vfio-pci: %v", timeout, got, driver, want,
				r.host.Bound("vfio-pci"))
		}
	}
}

// The plugin does not bind the VFs of these families, so their kernel driver gets them.
func TestAutoprobeOfFamiliesThatAreNotServedStays(t *testing.T) {
	h := newHost(t)
	must(t, h.LoadDriver("c6xxvf"))
	must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8"}))
	config := Config{ProvisioningDir: newConfigMap(t, "vfs: all").dir, KernelVFDrivers: []string{"4xxxvf"}}
	r := start(t, h, config)
	r.becomes(map[string][]string{"cy": vfsOf(t, h, pfA)})
	attribute(t, h, pfA, "sriov_drivers_autoprobe", "0")
	attribute(t, h, pfGen2, "sriov_numvfs", "16")
	r.bound("c6xxvf", h.VFs(pfGen2))
	attribute(t, h, pfGen2, "sriov_drivers_autoprobe", "1")
}

func TestWithoutBindingAutoprobeStays(t *testing.T) {
	h := newHost(t)
	start(t, h, Config{ProvisioningDir: newConfigMap(t, "vfs: all").dir, NoBind: true})
	attribute(t, h, pfA, "sriov_numvfs", "16")
	attribute(t, h, pfA, "sriov_drivers_autoprobe", "1")
}

// runUntil runs a Plugin on the host until its lists are these.
func runUntil(t *testing.T, h *lookalike.Host, config Config, want map[string][]string) {
	t.Helper()
	t.Run("run", func(t *testing.T) { start(t, h, config).becomes(want) })
}

func TestRestartsOnAProvisionedHostWriteNothing(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "18ee"}))
	config := Config{ProvisioningDir: newConfigMap(t,
		fmt.Sprintf("match: {pfs: [%q]}; services: [asym, sym]; vfs: all; autoReset: true; pmIdle: false", pfA),
		"vfs: all").dir}
	b := vfsOf(t, h, pfB)
	runUntil(t, h, config, map[string][]string{
		"cy":      vfsOf(t, h, pfA),
		"dc":      b,
		"generic": vfsOfGen2,
	})
	before := h.Writes()
	for range 100 {
		runUntil(t, h, config, map[string][]string{"cy": vfsOf(t, h, pfA), "dc": b, "generic": vfsOfGen2})
	}
	// The host counts writes in their order, so it has counted all before this one.
	must(t, os.WriteFile(filepath.Join(h.Path(pfA), "qat/auto_reset"), []byte("off"), 0o600))
	attribute(t, h, pfA, "qat/auto_reset", "off")
	var after map[string]int
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if after = h.Writes(); after["auto_reset"] > before["auto_reset"] {
			break
		}
	}
	after["auto_reset"] = before["auto_reset"]
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("writes before and after 100 restarts (-before +after):\n%s", diff)
	}
}

// vfsOfGen2 are the VFs of pfGen2.
var vfsOfGen2 = []string{
	"0000:3d:01.0", "0000:3d:01.1", "0000:3d:01.2", "0000:3d:01.3", "0000:3d:01.4", "0000:3d:01.5",
	"0000:3d:01.6", "0000:3d:01.7", "0000:3d:02.0", "0000:3d:02.1", "0000:3d:02.2", "0000:3d:02.3",
	"0000:3d:02.4", "0000:3d:02.5", "0000:3d:02.6", "0000:3d:02.7",
}

func TestDryRunProvisionsNothing(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 4))
	bindAll(t, h, pfA)
	rules := newConfigMap(t, "services: [dc]; vfs: all")
	r := start(t, h, Config{ProvisioningDir: rules.dir, DryRun: true})
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	must(t, h.SetVFs(pfB, 1))
	bindAll(t, h, pfB)
	r.becomes(map[string][]string{"cy": slices.Concat(h.VFs(pfA), h.VFs(pfB))})
	if writes := h.Writes(); len(writes) > 0 {
		t.Errorf("writes: %v", writes)
	}
}
