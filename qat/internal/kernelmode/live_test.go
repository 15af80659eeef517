// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"os"
	"path/filepath"
	"testing"

	"qatplugin/internal/lookalike"
)

// bySource runs a test with each event source alone.
func bySource(t *testing.T, test func(t *testing.T, h *testHost, o options)) {
	for name, source := range map[string]func(*testHost) options{
		"uevents": withUevents,
		"inotify": withInotify,
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t)
			test(t, h, source(h))
		})
	}
}

// A section that is not pinned spans the devices; a pinned one is on each.
func TestDevicesComeAndGo(t *testing.T) {
	bySource(t, func(t *testing.T, h *testHost, o options) {
		for _, name := range []string{"c6xx_dev0", "c6xx_dev1"} {
			h.conf(t, name, sec("SSL", 2, 1, 0), sec("SHIM", 1, 2, 1, pinned))
		}
		r := start(t, h, o)
		r.becomes(map[string][]string{})
		a := h.addPF(t, 0, addressA)
		h.up(t, a)
		one := map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy2_dc1": {"SHIM_dev0_0"}}
		r.becomes(one)

		b := h.addPF(t, 1, addressB)
		h.up(t, b)
		both := map[string][]string{
			"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"},
			"cy2_dc1": {"SHIM_dev0_0", "SHIM_dev1_0"},
		}
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

func TestConfigurationFileIsFollowed(t *testing.T) {
	h := newTestHost(t)
	h.up(t, h.addPF(t, 0, addressA))
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{})
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}})

	f, err := os.OpenFile(h.confPath("c6xx_dev0"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(sec("SHIM", 1, 1, 0))
	must(t, err)
	must(t, f.Close())
	r.becomes(map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SSL_dev0_0", "SSL_dev0_1"}})

	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0), sec("broken", 1, -1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	must(t, os.Remove(h.confPath("c6xx_dev0")))
	r.becomes(map[string][]string{"cy1_dc0": {}})
}

// A mounted ConfigMap replaces its files by renaming the link ..data. The links
// to the files themselves stay as they are.
func TestConfigMapIsFollowed(t *testing.T) {
	h := newTestHost(t)
	h.up(t, h.addPF(t, 0, addressA))
	update := func(version, text string) {
		t.Helper()
		must(t, os.Mkdir(filepath.Join(h.etc, version), 0o755))
		h.put(t, filepath.Join(h.etc, version, "c6xx_dev0.conf"), text)
		must(t, os.Symlink(version, filepath.Join(h.etc, "..data_tmp")))
		must(t, os.Rename(filepath.Join(h.etc, "..data_tmp"), filepath.Join(h.etc, "..data")))
	}
	update("..1", sec("SSL", 1, 1, 0))
	must(t, os.Symlink("..data/c6xx_dev0.conf", h.confPath("c6xx_dev0")))
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	update("..2", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}})
}

func TestUnitsAreUnhealthyWithoutControlNodes(t *testing.T) {
	h, _ := newHostWithDevice(t)
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	must(t, os.Remove(filepath.Join(h.Dev(), "usdm_drv")))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0: missing: /dev/usdm_drv"}})
	must(t, os.WriteFile(filepath.Join(h.Dev(), "usdm_drv"), nil, 0o600))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
}

func TestVFsAreListedWithAnIOMMUAndPFsWithout(t *testing.T) {
	h := makeTestHost(t, tempDir(t)) // with an IOMMU
	pf := h.addPF(t, 0, addressA)
	h.up(t, pf)
	h.up(t, h.addVFs(t, addressA, 2)...)
	for _, name := range []string{"c6xx_dev0", "c6xxvf_dev0", "c6xxvf_dev1"} {
		h.conf(t, name, sec("SSL", 1, 1, 0, pinned))
	}
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev1_0"}})
	r.expectSkipped(map[string]string{"c6xx_dev0": "it is a PF; with an IOMMU only VFs can be used"})

	must(t, os.Remove(filepath.Join(h.Sysfs(), "class/iommu/dmar0"))) // no kernel does this
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	nodes := r.tree.Load().Resource("cy1_dc0").Device("SSL_dev0_0").DeviceNodes
	if last := nodes[len(nodes)-1].HostPath; last != "/dev/"+pf.uio {
		t.Errorf("the last node of the unit is %s, want the PF's /dev/%s", last, pf.uio)
	}
}

// The driver sends an event when it creates the UIO device, and none when the
// device is up afterwards. The same is true when it stops a device.
func TestSilentLastStepOfDriverIsNotMissed(t *testing.T) {
	bySource(t, func(t *testing.T, h *testHost, o options) {
		h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
		d := h.addPF(t, 0, addressA)
		r := start(t, h, o)
		r.becomes(map[string][]string{})
		before := h.runCount(t)
		h.addUIO(t, d)
		h.awaitRuns(t, before+1)
		h.setState(t, d, "up")
		r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
		h.removeUIO(t, d)
		h.setState(t, d, "down")
		r.becomes(map[string][]string{"cy1_dc0": {}})
	})
}

func TestTreesShareWhatDidNotChange(t *testing.T) {
	h := newTestHost(t)
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0), sec("SHIM", 1, 0, 1))
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy0_dc1": {"SHIM_dev0_0"}})
	old := r.tree.Load()
	h.conf(t, "c6xx_dev0", sec("SSL", 3, 1, 0), sec("SHIM", 1, 0, 1))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1", "SSL_dev0_2"}, "cy0_dc1": {"SHIM_dev0_0"}})
	tree := r.tree.Load()
	if old.Resource("cy0_dc1") != tree.Resource("cy0_dc1") {
		t.Error("the unchanged resource is not shared")
	}
	if old.Resource("cy1_dc0").Device("SSL_dev0_0") != tree.Resource("cy1_dc0").Device("SSL_dev0_0") {
		t.Error("the unchanged unit is not shared")
	}
}

// Its sections would have to agree with those of the devices that this mode serves.
func TestDeviceOfGen4IsSkipped(t *testing.T) {
	h, _ := newHostWithDevice(t)
	h.up(t, h.list(t, gen4(t, h)))
	h.conf(t, "4xxx_dev0", sec("SSL", 2, 1, 1))
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	r.expectSkipped(map[string]string{
		"4xxx_dev0": "mode kernel does not serve devices of Gen4 and later; use mode dpdk and qatlib",
	})
}

func gen4(t *testing.T, h *testHost) *testDevice {
	t.Helper()
	must(t, h.AddPF(lookalike.PF{Address: addressB, DeviceID: "4940"}))
	return &testDevice{kind: "4xxx", address: addressB, state: "down"}
}
