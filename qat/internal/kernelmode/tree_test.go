// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
)

func TestTreeFollowsFromTheHost(t *testing.T) {
	ssl, shim := sec("SSL", 1, 1, 0), sec("SHIM", 1, 1, 0)
	sslPinned := sec("SSL", 1, 1, 0, pinned)
	// files returns a change that writes the devices' configuration files.
	files := func(first, second string) func(*testing.T, *testHost, *testDevice) {
		return func(t *testing.T, h *testHost, _ *testDevice) {
			h.conf(t, "c6xx_dev0", first)
			h.conf(t, "c6xx_dev1", second)
		}
	}
	// with returns files with the same section, and one more change.
	with := func(change func(*testing.T, *testHost, *testDevice)) func(*testing.T, *testHost, *testDevice) {
		return func(t *testing.T, h *testHost, a *testDevice) {
			files(ssl, ssl)(t, h, a)
			change(t, h, a)
		}
	}
	const missingIn = "LimitDevAccess is 1, so it must be in every device's file; it is missing in "
	onlyShim := map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}}
	onlySecond := map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}
	for name, test := range map[string]struct {
		// change changes a host with two PFs that are up. a is the first.
		change  func(t *testing.T, h *testHost, a *testDevice)
		want    map[string][]string
		skipped skips // without the directory of the files
	}{
		"a section that is not pinned has its processes once": {
			change: files(sec("SSL", 3, 1, 2), sec("SSL", 3, 1, 2)),
			want:   map[string][]string{"cy1_dc2": {"SSL_dev0_0", "SSL_dev0_1", "SSL_dev0_2"}},
		},
		"a pinned section has its processes on each device, as many as each file says": {
			change: files(sec("SSL", 2, 1, 0, pinned), sslPinned),
			want:   map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1", "SSL_dev1_0"}},
		},
		"a pinned section is missing in the last file": {
			change:  files(sslPinned+shim, shim),
			want:    onlyShim,
			skipped: skips{"[SSL]": missingIn + "c6xx_dev1.conf"},
		},
		"a pinned section is missing in the first file": {
			change:  files(shim, sslPinned),
			want:    onlyShim,
			skipped: skips{"[SSL]": missingIn + "c6xx_dev0.conf"},
		},
		"a section that is not pinned may be in one file only": {
			change: files(shim, ssl),
			want:   map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SSL_dev1_0"}},
		},
		"files differ in LimitDevAccess": {
			change:  files(sslPinned+shim, ssl+shim),
			want:    onlyShim,
			skipped: skips{"[SSL]": "LimitDevAccess is 1 in c6xx_dev0.conf and 0 in c6xx_dev1.conf"},
		},
		"files differ in LimitDevAccess, the first has none": {
			change:  files(ssl+shim, sslPinned+shim),
			want:    onlyShim,
			skipped: skips{"[SSL]": "LimitDevAccess is 0 in c6xx_dev0.conf and 1 in c6xx_dev1.conf"},
		},
		"files differ in the processes of a section that is not pinned": {
			change:  files(ssl+shim, sec("SSL", 2, 1, 0)+shim),
			want:    onlyShim,
			skipped: skips{"[SSL]": "NumProcesses is 1 in c6xx_dev0.conf and 2 in c6xx_dev1.conf"},
		},
		"files differ in crypto instances": {
			change:  files(sslPinned, sec("SSL", 1, 2, 0, pinned)),
			skipped: skips{"[SSL]": "NumberCyInstances is 1 in c6xx_dev0.conf and 2 in c6xx_dev1.conf"},
		},
		"files differ in compression instances": {
			change:  files(ssl, sec("SSL", 1, 1, 1)),
			skipped: skips{"[SSL]": "NumberDcInstances is 0 in c6xx_dev0.conf and 1 in c6xx_dev1.conf"},
		},
		"a section is invalid in one file": {
			change: files(ssl+shim, "\n[SSL]\nNumProcesses = x\n"+shim),
			want:   onlyShim,
			skipped: skips{
				"[SSL]": `in c6xx_dev1.conf, NumProcesses: invalid value "x": must be a number from 0 to 4096`,
			},
		},
		"a section occurs twice in one file": {
			change:  files(ssl+ssl+shim, ssl+shim),
			want:    onlyShim,
			skipped: skips{"[SSL]": "in c6xx_dev0.conf, the section occurs more than once"},
		},
		"two sections with the same instances are one resource": {
			change: files(ssl+sec("SHIM", 1, 1, 0, pinned), ssl+sec("SHIM", 1, 1, 0, pinned)),
			want:   map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SHIM_dev1_0", "SSL_dev0_0"}},
		},
		"a section without processes": {change: files(sec("SSL", 0, 1, 0), sec("SSL", 0, 1, 0))},
		"a broken file affects its device only": {
			change: func(t *testing.T, h *testHost, _ *testDevice) {
				h.put(t, h.confPath("c6xx_dev0"), "[SSL")
				h.conf(t, "c6xx_dev1", sslPinned)
			},
			want:    onlySecond,
			skipped: skips{"c6xx_dev0": `parse "c6xx_dev0.conf": line 1: unclosed section: [SSL`},
		},
		"a missing file affects its device only": {
			change:  func(t *testing.T, h *testHost, _ *testDevice) { h.conf(t, "c6xx_dev1", sslPinned) },
			want:    onlySecond,
			skipped: skips{"c6xx_dev0": "open c6xx_dev0.conf: no such file or directory"},
		},
		"the file of a device that is down does not count": {
			change: func(t *testing.T, h *testHost, a *testDevice) {
				h.down(t, a)
				files(sec("SSL", 9, 9, 9), sslPinned)(t, h, a)
			},
			want:    onlySecond,
			skipped: skips{"c6xx_dev0": `adf_ctl reports the state "down"`},
		},
		"a device that its driver is not bound to": {
			change:  with(func(t *testing.T, h *testHost, a *testDevice) { must(t, h.Unbind(a.address)) }),
			want:    onlySecond,
			skipped: skips{"c6xx_dev0": "driver c6xx is not bound to 0000:3b:00.0"},
		},
		"a device without a UIO device": {
			change:  with(func(t *testing.T, h *testHost, a *testDevice) { h.removeUIO(t, a) }),
			want:    onlySecond,
			skipped: skips{"c6xx_dev0": "driver c6xx created no UIO device for 0000:3b:00.0"},
		},
		"a device without the node of its UIO device": {
			change: with(func(t *testing.T, h *testHost, a *testDevice) {
				must(t, os.Remove(filepath.Join(h.Dev(), a.uio)))
			}),
			want:    onlySecond,
			skipped: skips{"c6xx_dev0": "its node /dev/UIO is missing"},
		},
		"devices of two types with one number": {
			change: func(t *testing.T, h *testHost, a *testDevice) {
				must(t, h.AddPF(lookalike.PF{Address: "0000:5e:00.0", DeviceID: "0435"}))
				h.up(t, h.list(t, &testDevice{kind: "dh895xcc", number: 0, address: "0000:5e:00.0"}))
				files(sslPinned, sslPinned)(t, h, a)
				h.conf(t, "dh895xcc_dev0", sslPinned)
			},
			want: map[string][]string{"cy1_dc0": {"SSL_c6xx_dev0_0", "SSL_dev1_0", "SSL_dh895xcc_dev0_0"}},
		},
		"control nodes are missing": {
			change: with(func(t *testing.T, h *testHost, _ *testDevice) {
				must(t, os.Remove(filepath.Join(h.Dev(), "usdm_drv")))
				must(t, os.Remove(filepath.Join(h.Dev(), "qat_adf_ctl")))
			}),
			want:    map[string][]string{"cy1_dc0": {"SSL_dev0_0: missing: /dev/qat_adf_ctl, /dev/usdm_drv"}},
			skipped: skips{"/dev/usdm_drv": "the node is missing", "/dev/qat_adf_ctl": "the node is missing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t)
			a, b := h.addPF(t, 0, addressA), h.addPF(t, 1, addressB)
			h.up(t, a, b)
			uio := a.uio
			test.change(t, h, a)
			tree, skipped := h.fresh(t)
			if diff := cmp.Diff(test.want, units(tree), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("units (-want +got):\n%s", diff)
			}
			for name, reason := range skipped {
				skipped[name] = strings.NewReplacer(h.etc+"/", "", uio, "UIO").Replace(reason)
			}
			if diff := cmp.Diff(test.skipped, skipped, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
		})
	}
}

// A unit gets the nodes of all devices, the NUMA nodes of its section's devices
// and the name of its section.
func TestUnit(t *testing.T) {
	h := newTestHost(t)
	a, b := h.addPF(t, 0, addressA), h.addPF(t, 1, addressB)
	h.up(t, a, b)
	must(t, os.MkdirAll(filepath.Join(h.Path(a.address), "uio", "uio100"), 0o755))
	must(t, os.WriteFile(filepath.Join(h.Dev(), "uio100"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(h.Path(a.address), "uio", "power"), 0o755)) // not a UIO device
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0), sec("DC", 1, 0, 1))
	h.conf(t, "c6xx_dev1", sec("SSL", 1, 1, 0))
	tree, _ := h.fresh(t)
	var nodes []devtree.DeviceNode
	for _, name := range []string{"qat_adf_ctl", "qat_dev_processes", "usdm_drv", a.uio, "uio100", b.uio} {
		path := "/dev/" + name
		nodes = append(nodes, devtree.DeviceNode{HostPath: path, ContainerPath: path, Permissions: "rw"})
	}
	unit := func(id, section string, numa ...int) *devtree.Device {
		return &devtree.Device{
			ID:        id,
			Health:    devtree.Healthy,
			NUMANodes: numa,
			ContainerEdits: devtree.ContainerEdits{
				DeviceNodes: nodes,
				Env:         map[string]string{"QAT_SECTION_NAME": section},
			},
		}
	}
	if diff := cmp.Diff(unit("SSL_dev0_0", "SSL", 0, 1), tree.Resource("cy1_dc0").Device("SSL_dev0_0")); diff != "" {
		t.Errorf("a unit of both devices (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(unit("DC_dev0_0", "DC", 0), tree.Resource("cy0_dc1").Device("DC_dev0_0")); diff != "" {
		t.Errorf("a unit of one device (-want +got):\n%s", diff)
	}
}

// testSnapshot is a host without an IOMMU and with two devices that are up.
func testSnapshot(sections ...section) *snapshot {
	return &snapshot{devices: []*device{
		{entry: entry{Type: "c6xx", Number: 0, State: "up"}, UIO: []string{"uio0"}, Config: config{sections: sections}},
		{entry: entry{Type: "c6xx", Number: 1, State: "up"}, UIO: []string{"uio1"}, Config: config{sections: sections}},
	}}
}

func TestUnitNamesNoNodeTwice(t *testing.T) {
	s := testSnapshot(section{Name: "SSL", Processes: 1, Cy: 1}) // both devices are at NUMA node 0
	s.devices[1].UIO = s.devices[0].UIO
	tree, _ := buildTree(&devtree.Tree{}, s)
	unit := tree.Resource("cy1_dc0").Device("SSL_dev0_0")
	if diff := cmp.Diff([]int{0}, unit.NUMANodes); diff != "" {
		t.Errorf("NUMA nodes (-want +got):\n%s", diff)
	}
	if want := len(controlNodes) + 1; len(unit.DeviceNodes) != want {
		t.Errorf("device nodes %v, want %d", unit.DeviceNodes, want)
	}
}

// Types and section names may have underscores, so that two sections can lead to the same ID.
func TestSectionWhoseUnitsExistAlreadyIsSkipped(t *testing.T) {
	s := testSnapshot()
	s.devices[0].Type, s.devices[0].Config.sections = "a", []section{{Name: "X_b", Processes: 1, Cy: 1}}
	s.devices[1].Type, s.devices[1].Config.sections = "b_a", []section{{Name: "X", Processes: 2, Cy: 1}}
	s.devices[1].Number = 0
	tree, skipped := buildTree(&devtree.Tree{}, s)
	if diff := cmp.Diff(map[string][]string{"cy1_dc0": {"X_b_a_dev0_0"}}, units(tree)); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
	want := skips{"[X]": "its unit X_b_a_dev0_0 has the same name as one of another section"}
	if diff := cmp.Diff(want, skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
}

func TestUnitsOfTwoResourcesMayHaveTheSameName(t *testing.T) {
	s := testSnapshot()
	s.devices[0].Type, s.devices[0].Config.sections = "a", []section{{Name: "X_b", Processes: 1, Cy: 1}}
	s.devices[1].Type, s.devices[1].Config.sections = "b_a", []section{{Name: "X", Processes: 1, Dc: 1}}
	s.devices[1].Number = 0
	tree, skipped := buildTree(&devtree.Tree{}, s)
	want := map[string][]string{"cy1_dc0": {"X_b_a_dev0_0"}, "cy0_dc1": {"X_b_a_dev0_0"}}
	if diff := cmp.Diff(want, units(tree)); diff != "" || len(skipped) > 0 {
		t.Errorf("skipped %q, units (-want +got):\n%s", skipped, diff)
	}
}

func TestUnitThatATreeRefusesIsSkipped(t *testing.T) {
	s := testSnapshot(section{Name: "\xff", Processes: 1, Cy: 1}, section{Name: "SSL", Processes: 1, Cy: 1})
	tree, skipped := buildTree(&devtree.Tree{}, s)
	if diff := cmp.Diff(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}}, units(tree)); diff != "" {
		t.Errorf("units (-want +got):\n%s", diff)
	}
	if len(skipped) != 1 || !strings.Contains(skipped["unit \xff_dev0_0"], "UTF-8") {
		t.Errorf("skipped %q, want the unit that is not UTF-8", skipped)
	}
}

func TestInconsistency(t *testing.T) {
	for name, test := range map[string]struct {
		change func(s *snapshot)
		want   string
	}{
		"none": {func(*snapshot) {}, ""},
		"a device that is up has no UIO device": {
			func(s *snapshot) { s.devices[1].UIO = nil },
			"c6xx_dev1 is up and has no UIO device",
		},
		"a device that is down has one": {
			func(s *snapshot) { s.devices[1].State = "down" },
			"c6xx_dev1 is down and has uio1",
		},
		"a device that is down has none": {
			func(s *snapshot) { s.devices[1].State, s.devices[1].UIO = "down", nil },
			"",
		},
		"a driver is bound to an unlisted PF": {
			func(s *snapshot) { s.unlisted = []unlisted{{Driver: "c6xx"}} },
			"adf_ctl does not list 0000:00:00.0, which is bound to driver c6xx",
		},
		"a driver is bound to an unlisted VF, which could not be used": {
			func(s *snapshot) { s.unlisted = []unlisted{{Driver: "c6xxvf"}} },
			"",
		},
		"PFs do not matter with an IOMMU": {
			func(s *snapshot) { s.iommu, s.devices[1].UIO = true, nil },
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testSnapshot()
			test.change(s)
			if got := s.inconsistency(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
