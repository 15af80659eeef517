package kernelmode

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
)

// freshTree is the Tree that follows from the host alone, and what is left out of it.
func (h *testHost) freshTree(t failing) (*devtree.Tree, []Omission) {
	t.Helper()
	instances, left := parseStatus([]byte(h.statusText()))
	s, err := (&host{sysfs: h.Sysfs(), dev: h.Dev(), etc: h.etc, watch: func(string, uint64) {}}).look(instances)
	check(t, err)
	tree, more := place(&devtree.Tree{}, s)
	return tree, slices.Concat(left, more)
}

func TestWhatIsServed(t *testing.T) {
	ssl := func(more ...string) string { return sec("SSL", 1, 1, 0, more...) }
	tests := map[string]struct {
		// do gets a host with two PFs that are up, without an IOMMU.
		do   func(t *testing.T, h *testHost, a, b *testDevice)
		want map[string][]string
		left map[string]string // subject → reason; what stands in the host's directory is not told
	}{
		"a section that is not pinned has its processes once": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SSL", 3, 1, 2))
				h.conf(t, "c6xx_dev1", sec("SSL", 3, 1, 2))
			},
			map[string][]string{"cy1_dc2": {"SSL_dev0_0", "SSL_dev0_1", "SSL_dev0_2"}}, nil,
		},
		"a pinned section has its processes on each device, as many as each file says": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0, pinned))
				h.conf(t, "c6xx_dev1", sec("SSL", 1, 1, 0, pinned))
			},
			map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1", "SSL_dev1_0"}}, nil,
		},
		"a pinned section is missing in a file": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", ssl(pinned), sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", sec("SHIM", 1, 1, 0))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}},
			map[string]string{"[SSL]": "with LimitDevAccess=1 it must be in every device's file, and is not in c6xx_dev1.conf"},
		},
		"a pinned section is missing in the first file": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", ssl(pinned))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}},
			map[string]string{"[SSL]": "with LimitDevAccess=1 it must be in every device's file, and is not in c6xx_dev0.conf"},
		},
		"a section that is not pinned may be in one file only": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", ssl())
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SSL_dev1_0"}}, nil,
		},
		"pinned in one file, not pinned in the other": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", ssl(pinned), sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", ssl(), sec("SHIM", 1, 1, 0))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}}, map[string]string{"[SSL]": "LimitDevAccess is 1 in c6xx_dev0.conf and 0 in c6xx_dev1.conf"},
		},
		"not pinned, and files differ in the number of processes": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0), sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", sec("SSL", 2, 1, 0), sec("SHIM", 1, 1, 0))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}}, map[string]string{"[SSL]": "NumProcesses is 1 in c6xx_dev0.conf and 2 in c6xx_dev1.conf"},
		},
		"files differ in crypto instances": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0, pinned))
				h.conf(t, "c6xx_dev1", sec("SSL", 1, 2, 0, pinned))
			},
			map[string][]string{}, map[string]string{"[SSL]": "NumberCyInstances is 1 in c6xx_dev0.conf and 2 in c6xx_dev1.conf"},
		},
		"files differ in compression instances": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
				h.conf(t, "c6xx_dev1", sec("SSL", 1, 1, 1))
			},
			map[string][]string{}, map[string]string{"[SSL]": "NumberDcInstances is 0 in c6xx_dev0.conf and 1 in c6xx_dev1.conf"},
		},
		"a section is broken in one file": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", ssl(), sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", "\n[SSL]\nNumProcesses = x\n", sec("SHIM", 1, 1, 0))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}}, map[string]string{"[SSL]": `in c6xx_dev1.conf, NumProcesses is "x": allowed is a number of 0 to 4096`},
		},
		"two sections that give the same make one resource": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", ssl(), sec("SHIM", 1, 1, 0, pinned))
				h.conf(t, "c6xx_dev1", ssl(), sec("SHIM", 1, 1, 0, pinned))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0", "SHIM_dev1_0", "SSL_dev0_0"}}, nil,
		},
		"two sections of one name in a file": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", ssl(), ssl(), sec("SHIM", 1, 1, 0))
				h.conf(t, "c6xx_dev1", ssl(), sec("SHIM", 1, 1, 0))
			},
			map[string][]string{"cy1_dc0": {"SHIM_dev0_0"}}, map[string]string{"[SSL]": "in c6xx_dev0.conf, the section is there more than once"},
		},
		"a broken file leaves out its device only": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.put(t, filepath.Join(h.etc, "c6xx_dev0.conf"), "[SSL")
				h.conf(t, "c6xx_dev1", ssl(pinned))
			},
			map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}, map[string]string{"c6xx_dev0": `parse "c6xx_dev0.conf": unclosed section: [SSL`},
		},
		"a missing file leaves out its device only": {
			func(t *testing.T, h *testHost, _, _ *testDevice) { h.conf(t, "c6xx_dev1", ssl(pinned)) },
			map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}, map[string]string{"c6xx_dev0": "open c6xx_dev0.conf: no such file or directory"},
		},
		"a device that is down takes no part": {
			func(t *testing.T, h *testHost, a, _ *testDevice) {
				h.down(t, a)
				h.conf(t, "c6xx_dev0", sec("SSL", 9, 9, 9))
				h.conf(t, "c6xx_dev1", ssl(pinned))
			},
			map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}, map[string]string{"c6xx_dev0": "adf_ctl says that its state is down"},
		},
		"a device whose driver does not hold it": {
			func(t *testing.T, h *testHost, a, _ *testDevice) {
				check(t, h.Unbind(a.address))
				h.conf(t, "c6xx_dev0", ssl())
				h.conf(t, "c6xx_dev1", ssl())
			},
			map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}, map[string]string{"c6xx_dev0": "driver c6xx does not hold 0000:3b:00.0"},
		},
		"a device without a UIO device": {
			func(t *testing.T, h *testHost, a, _ *testDevice) {
				h.removeUIO(t, a)
				h.conf(t, "c6xx_dev0", ssl())
				h.conf(t, "c6xx_dev1", ssl())
			},
			map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}, map[string]string{"c6xx_dev0": "driver c6xx made no UIO device for 0000:3b:00.0"},
		},
		"a device without its node": {
			func(t *testing.T, h *testHost, a, _ *testDevice) {
				check(t, os.Remove(filepath.Join(h.Dev(), a.uio)))
				h.conf(t, "c6xx_dev0", ssl())
				h.conf(t, "c6xx_dev1", ssl())
			},
			map[string][]string{"cy1_dc0": {"SSL_dev1_0"}}, map[string]string{"c6xx_dev0": "its node /dev/uio0 is missing"},
		},
		"devices of two types may have one number": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				check(t, h.AddPF(lookalike.PF{Address: "0000:5e:00.0", DeviceID: "0435"}))
				h.up(t, h.device(t, &testDevice{kind: "dh895xcc", number: 0, address: "0000:5e:00.0"}))
				for _, name := range []string{"c6xx_dev0", "c6xx_dev1", "dh895xcc_dev0"} {
					h.conf(t, name, ssl(pinned))
				}
			},
			map[string][]string{"cy1_dc0": {"SSL_c6xx_dev0_0", "SSL_dev1_0", "SSL_dh895xcc_dev0_0"}}, nil,
		},
		"a section for no process": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", sec("SSL", 0, 1, 0))
				h.conf(t, "c6xx_dev1", sec("SSL", 0, 1, 0))
			},
			map[string][]string{}, nil,
		},
		"the stack's own nodes are missing": {
			func(t *testing.T, h *testHost, _, _ *testDevice) {
				h.conf(t, "c6xx_dev0", ssl())
				h.conf(t, "c6xx_dev1", ssl())
				check(t, os.Remove(filepath.Join(h.Dev(), "usdm_drv")))
				check(t, os.Remove(filepath.Join(h.Dev(), "qat_adf_ctl")))
			},
			map[string][]string{"cy1_dc0": {"SSL_dev0_0: missing: /dev/qat_adf_ctl, /dev/usdm_drv"}},
			map[string]string{"/dev/usdm_drv": "the node is missing", "/dev/qat_adf_ctl": "the node is missing"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t, lookalike.WithoutIOMMU())
			a, b := h.addPF(t, 0, addressA), h.addPF(t, 1, addressB)
			h.up(t, a, b)
			test.do(t, h, a, b)
			tree, left := h.freshTree(t)
			if diff := cmp.Diff(test.want, lists(tree)); diff != "" {
				t.Errorf("lists (-want +got):\n%s", diff)
			}
			got := map[string]string{}
			for _, o := range left {
				got[o.Subject] = h.withoutDir(o.Reason)
			}
			if want := maps.Clone(test.left); !maps.Equal(want, got) {
				t.Errorf("left out (-want +got):\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// Each unit gets every device's nodes, is near to its section's devices, and is told its section.
func TestAUnit(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	a, b := h.addPF(t, 0, addressA), h.addPF(t, 1, addressB)
	h.up(t, a, b)
	check(t, os.MkdirAll(filepath.Join(h.Path(a.address), "uio", "uio10"), 0o755))
	check(t, os.WriteFile(filepath.Join(h.Dev(), "uio10"), nil, 0o600))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0), sec("DC", 1, 0, 1))
	h.conf(t, "c6xx_dev1", sec("SSL", 1, 1, 0))
	tree, _ := h.freshTree(t)
	node := func(name string) devtree.DeviceNode {
		return devtree.DeviceNode{HostPath: "/dev/" + name, ContainerPath: "/dev/" + name, Permissions: "rw"}
	}
	unit := func(id, section string, nodes ...int) *devtree.Device {
		return &devtree.Device{ID: id, Health: devtree.Healthy, NUMANodes: nodes, ContainerEdits: devtree.ContainerEdits{
			DeviceNodes: []devtree.DeviceNode{node("qat_adf_ctl"), node("qat_dev_processes"), node("usdm_drv"), node("uio0"), node("uio10"), node("uio1")},
			Env:         map[string]string{"QAT_SECTION_NAME": section},
		}}
	}
	if diff := cmp.Diff(unit("SSL_dev0_0", "SSL", 0, 1), tree.Resource("cy1_dc0").Device("SSL_dev0_0")); diff != "" {
		t.Errorf("a unit of both devices (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(unit("DC_dev0_0", "DC", 0), tree.Resource("cy0_dc1").Device("DC_dev0_0")); diff != "" {
		t.Errorf("a unit of one device (-want +got):\n%s", diff)
	}
}
