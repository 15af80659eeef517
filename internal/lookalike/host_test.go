// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	pf0 = "0000:6b:00.0"
	vf0 = "0000:6b:00.1"
	vf1 = "0000:6b:00.2"
)

// newHost returns a host with the driver vfio-pci and these PFs. It is not served.
func newHost(t *testing.T, opts []Option, pfs ...PF) *Host {
	t.Helper()
	h := newEmptyHost(t, opts...)
	must(t, h.LoadDriver("vfio-pci"))
	for _, pf := range pfs {
		must(t, h.AddPF(pf))
	}
	return h
}

// newEmptyHost returns a host without drivers. It is not served.
func newEmptyHost(t *testing.T, opts ...Option) *Host {
	t.Helper()
	dir, err := MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h, err := New(dir, opts...)
	must(t, err)
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree lists the files below a directory: "file = value", "link -> target", "fifo |". It marks a
// link whose target does not exist.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, file)
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			if _, err := os.Stat(file); err != nil {
				target += " (dangling)"
			}
			lines = append(lines, rel+" -> "+target)
		case e.Type()&fs.ModeNamedPipe != 0:
			lines = append(lines, rel+" |")
		case !e.IsDir():
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("%s = %q", rel, b))
		}
		return nil
	})
	must(t, err)
	return lines
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// linkOf returns the last component of a link's target, or "" if there is no link.
func linkOf(t *testing.T, elem ...string) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func exists(elem ...string) bool {
	_, err := os.Lstat(filepath.Join(elem...))
	return err == nil
}

func TestBoundVFInSysfs(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0, DeviceID: "4940", Services: "sym;asym", NUMANode: 1})
	must(t, h.SetVFs(pf0, 2))
	must(t, h.Bind(vf0, "vfio-pci"))

	equal(t, "directory of the VF", []string{
		`class = "0x0b4000\n"`,
		`device = "0x4941\n"`,
		`driver -> ../../../bus/pci/drivers/vfio-pci`,
		`driver_override = "(null)\n"`,
		`iommu_group -> ../../../kernel/iommu_groups/1`,
		`modalias = "pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00\n"`,
		`numa_node = "1\n"`,
		`physfn -> ../0000:6b:00.0`,
		`revision = "0x40\n"`,
		`subsystem -> ../../../bus/pci`,
		`subsystem_device = "0x0000\n"`,
		`subsystem_vendor = "0x8086\n"`,
		`uevent = "PCI_CLASS=B4000\nPCI_ID=8086:4941\nPCI_SUBSYS_ID=8086:0000\nPCI_SLOT_NAME=0000:6b:00.1\n` +
			`MODALIAS=pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00\n"`,
		`vendor = "0x8086\n"`,
		`vfio-dev/vfio0/device -> ../../../0000:6b:00.1`,
		`vfio-dev/vfio0/subsystem -> ../../../../../class/vfio-dev`,
	}, tree(t, h.sys("devices/pci0000:6b", vf0)))
	equal(t, "bus/pci", []string{
		`devices/0000:6b:00.0 -> ../../../devices/pci0000:6b/0000:6b:00.0`,
		`devices/0000:6b:00.1 -> ../../../devices/pci0000:6b/0000:6b:00.1`,
		`devices/0000:6b:00.2 -> ../../../devices/pci0000:6b/0000:6b:00.2`,
		`drivers/4xxx/0000:6b:00.0 -> ../../../../devices/pci0000:6b/0000:6b:00.0`,
		`drivers/4xxx/bind |`,
		`drivers/4xxx/module -> ../../../../module/4xxx`,
		`drivers/4xxx/unbind |`,
		`drivers/vfio-pci/0000:6b:00.1 -> ../../../../devices/pci0000:6b/0000:6b:00.1`,
		`drivers/vfio-pci/bind |`,
		`drivers/vfio-pci/module -> ../../../../module/vfio_pci`,
		`drivers/vfio-pci/unbind |`,
		`drivers_autoprobe = "1\n"`,
		`drivers_probe |`,
		`rescan = ""`,
	}, tree(t, h.sys("bus/pci")))
	equal(t, "debugfs", []string{
		`qat_4xxx_0000:6b:00.0/cnv_errors = "No engine configured for comp\n"`,
		`qat_4xxx_0000:6b:00.0/dev_cfg = "[GENERAL]\nServicesEnabled = sym;asym\n` +
			`[KERNEL]\nNumberCyInstances = 0\nNumberDcInstances = 0\n"`,
		`qat_4xxx_0000:6b:00.0/fw_counters = ` + strconv.Quote(fwCounters(make([]Engine, 8))+"\n"),
		`qat_4xxx_0000:6b:00.0/heartbeat/config = "500\n"`,
		`qat_4xxx_0000:6b:00.0/heartbeat/queries_failed = "0\n"`,
		`qat_4xxx_0000:6b:00.0/heartbeat/queries_sent = "0\n"`,
		`qat_4xxx_0000:6b:00.0/heartbeat/status = "0\n"`,
		`qat_4xxx_0000:6b:00.0/telemetry/control = "0\n"`,
		`qat_4xxx_0000:6b:00.0/telemetry/device_data = ""`,
	}, tree(t, h.sys("kernel/debug")))
	equal(t, "/dev", []string{`vfio/1 = ""`, `vfio/vfio = ""`}, tree(t, h.Dev()))
	equal(t, "devices of the group", []string{vf0 + " -> ../../../../devices/pci0000:6b/" + vf0},
		tree(t, h.sys("kernel/iommu_groups/1/devices")))
	equal(t, "sriov_numvfs", "2", read(filepath.Join(h.Path(pf0), "sriov_numvfs")))
	equal(t, "virtfn1", vf1, linkOf(t, h.Path(pf0), "virtfn1"))
	equal(t, "class/vfio/1", "1", linkOf(t, h.sys("class/vfio/1")))
}

func TestUndoneOperationsLeaveNoTrace(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []Option
	}{
		{"IOMMU", nil},
		{"no IOMMU", []Option{WithoutIOMMU()}},
		{"iommufd", []Option{WithIOMMUFD()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, c.opts)
			must(t, h.LoadDriver("igb_uio"))
			must(t, h.LoadDriver("4xxx"))
			if len(c.opts) > 0 {
				must(t, os.MkdirAll(h.dev("vfio/devices"), 0o755))
			}
			before := tree(t, h.Dir())
			for range 2 {
				must(t, h.AddPF(PF{Address: pf0, Services: "dc"}))
				must(t, h.SetVFs(pf0, 4))
				must(t, h.Bind(vf0, "vfio-pci"))
				must(t, h.Bind(vf1, "igb_uio"))
				must(t, h.Bind("0000:6b:00.3", "vfio-pci"))
				must(t, h.Unbind("0000:6b:00.3"))
				must(t, h.RemoveVF("0000:6b:00.4"))
				must(t, h.AddVF(VF{Address: "0000:6b:00.4", PF: pf0}))
				must(t, h.RemovePF(pf0))
			}
			equal(t, "the host", before, tree(t, h.Dir()))
		})
	}
}

func TestAddressesAndPathsOfVFs(t *testing.T) {
	for _, c := range []struct {
		name string
		pf   PF
		vf   int
		path string // of the VF
		id   string
	}{
		{"Gen4: after the PF", PF{Address: "0000:6b:00.0"}, 8, "pci0000:6b/0000:6b:01.1", "0x4941"},
		{"402xx", PF{Address: "0000:e8:00.0", DeviceID: "4944"}, 0, "pci0000:e8/0000:e8:00.1", "0x4945"},
		{"Gen2: device 1", PF{Address: "0000:3b:00.0", DeviceID: "37c8"}, 15, "pci0000:3b/0000:3b:02.7", "0x37c9"},
		{
			"behind a bridge", PF{Address: "0000:3b:00.0", DeviceID: "37c8", Bridge: true}, 0,
			"pci0000:3a/0000:3a:00.0/0000:3b:01.0", "0x37c9",
		},
		{"another domain", PF{Address: "10001:6b:00.0"}, 0, "pci10001:6b/10001:6b:00.1", "0x4941"},
		{"next bus", PF{Address: "0000:6b:00.0", TotalVFs: 300}, 299, "pci0000:6b/0000:6c:05.4", "0x4941"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, nil, c.pf)
			must(t, h.SetVFs(c.pf.Address, c.vf+1))
			address := h.VFs(c.pf.Address)[c.vf]
			dir, err := filepath.EvalSymlinks(h.Path(address))
			must(t, err)
			equal(t, "directory", h.sys("devices", c.path), dir)
			equal(t, "device", c.id, read(filepath.Join(dir, "device")))
			equal(t, "physfn", c.pf.Address, linkOf(t, dir, "physfn"))
		})
	}
}

func TestErrors(t *testing.T) {
	odd := errors.New("odd hardware")
	const guestVF = "0000:00:05.0"
	for _, c := range []struct {
		name string
		do   func(h *Host) error
		want error
		text string
	}{
		{
			"too many VFs",
			func(h *Host) error { return h.SetVFs(pf0, 17) },
			syscall.ERANGE, "set VFs of 0000:6b:00.0: 17 of 16 VFs",
		},
		{
			"from 2 VFs to 3",
			func(h *Host) error { return errors.Join(h.SetVFs(pf0, 2), h.SetVFs(pf0, 3)) },
			syscall.EBUSY, "there are 2 VFs; write 0 first",
		},
		{
			"VFs of a PF without driver",
			func(h *Host) error { return errors.Join(h.Unbind(pf0), h.SetVFs(pf0, 3)) },
			syscall.ENOENT, "no driver",
		},
		{
			"unknown function",
			func(h *Host) error { return h.Bind(vf0, "vfio-pci") },
			syscall.ENODEV, "bind 0000:6b:00.1",
		},
		{
			"driver not loaded",
			func(h *Host) error { return h.Bind(pf0, "igb_uio") },
			syscall.ENODEV, "igb_uio is not loaded",
		},
		{
			"second driver",
			func(h *Host) error { return h.Bind(pf0, "vfio-pci") },
			syscall.EBUSY, "bound to 4xxx already",
		},
		{
			"services while up",
			func(h *Host) error { return h.SetService(pf0, "dc") },
			syscall.EINVAL, "the PF is up",
		},
		{
			"unknown service",
			func(h *Host) error { return errors.Join(h.SetState(pf0, "down"), h.SetService(pf0, "tea")) },
			syscall.EINVAL, `services "tea"`,
		},
		{
			"unknown state",
			func(h *Host) error { return h.SetState(pf0, "sideways") },
			syscall.EINVAL, "set state",
		},
		{
			"same PF twice",
			func(h *Host) error { return h.AddPF(PF{Address: pf0}) },
			syscall.EEXIST, "add PF 0000:6b:00.0",
		},
		{
			"same VF twice, with its driver loaded",
			func(h *Host) error {
				vf := VF{Address: guestVF}
				return errors.Join(h.LoadDriver("4xxxvf"), h.AddVF(vf), h.AddVF(vf))
			},
			syscall.EEXIST, "add VF 0000:00:05.0",
		},
		{
			"FailBind",
			func(h *Host) error {
				h.FailBind(vf0, odd)
				return errors.Join(h.SetVFs(pf0, 1), h.Bind(vf0, "vfio-pci"))
			},
			odd, "to vfio-pci: odd hardware",
		},
		{
			"C62x VF without disable_denylist",
			func(h *Host) error {
				return errors.Join(h.AddVF(VF{Address: guestVF, DeviceID: "37c9"}), h.Bind(guestVF, "vfio-pci"))
			},
			syscall.EINVAL, "denylist",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, nil, PF{Address: pf0, Services: "sym;asym"})
			err := c.do(h)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
			for _, d := range h.devices {
				inDriver := h.sys("bus/pci/drivers/vfio-pci", d.address)
				if d.driver == "" && (exists(h.Path(d.address), "driver") || exists(inDriver)) {
					t.Errorf("%s has a link to a driver, and no driver", d.address)
				}
			}
		})
	}
}

func TestDisableDenylist(t *testing.T) {
	h := newEmptyHost(t)
	must(t, h.LoadDriver("vfio-pci", "disable_denylist=1"))
	must(t, h.AddVF(VF{Address: "0000:00:05.0", DeviceID: "37c9"}))
	must(t, h.Bind("0000:00:05.0", "vfio-pci"))
}

func TestFailBind(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	h.FailBind(vf0, syscall.EIO)
	if err := h.Bind(vf0, "vfio-pci"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v, want EIO", err)
	}
	h.FailBind(vf0, nil)
	must(t, h.Bind(vf0, "vfio-pci"))
	equal(t, "driver", "vfio-pci", linkOf(t, h.Path(vf0), "driver"))
}

func TestDeviceNodes(t *testing.T) {
	const container = `vfio/vfio = ""`
	for _, c := range []struct {
		name, driver string
		opts         []Option
		want         []string // below /dev
	}{
		{"vfio-pci", "vfio-pci", nil, []string{`vfio/0 = ""`, container}},
		{"qat_vfio_pci", "qat_vfio_pci", nil, []string{`vfio/0 = ""`, container}},
		{
			"vfio-pci with iommufd", "vfio-pci", []Option{WithIOMMUFD()},
			[]string{`vfio/0 = ""`, `vfio/devices/vfio0 = ""`, container},
		},
		{
			"vfio-pci without IOMMU", "vfio-pci", []Option{WithoutIOMMU()},
			[]string{`vfio/noiommu-0 = ""`, container},
		},
		{"igb_uio", "igb_uio", nil, []string{`uio0 = ""`, container}},
		{"kernel driver", "4xxxvf", nil, []string{container}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, c.opts)
			must(t, h.AddVF(VF{Address: vf0}))
			must(t, h.LoadDriver(c.driver))
			must(t, h.Bind(vf0, c.driver))
			equal(t, "/dev", c.want, tree(t, h.Dev()))
			must(t, h.UnloadDriver(c.driver))
			equal(t, "/dev after unloading", []string{container}, tree(t, h.Dev()))
			if exists(h.Path(vf0), "driver") || exists(h.sys("bus/pci/drivers", c.driver)) {
				t.Error("a link to the driver or its directory still exists")
			}
		})
	}
}

// The node of an IOMMU group exists while a function of the group is bound to a VFIO driver.
func TestSharedIOMMUGroup(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.LoadDriver("vfio-pci"))
	must(t, h.SetVFs(pf0, 2))
	a, b := h.VFs(pf0)[0], h.VFs(pf0)[1]
	must(t, h.ShareGroup(b, a))
	group := func(address string) string {
		target, err := os.Readlink(filepath.Join(h.Path(address), "iommu_group"))
		must(t, err)
		return filepath.Base(target)
	}
	if group(a) != group(b) {
		t.Fatalf("groups %s and %s, want the same", group(a), group(b))
	}
	node := filepath.Join(h.Dev(), "vfio", group(a))
	for i, step := range []struct {
		do   func() error
		want bool
	}{
		{func() error { return h.Bind(a, "vfio-pci") }, true},
		{func() error { return h.Bind(b, "vfio-pci") }, true},
		{func() error { return h.Unbind(a) }, true},
		{func() error { return h.RemoveVF(b) }, false},
		{func() error { return h.Bind(a, "vfio-pci") }, true},
		{func() error { return h.RemoveVF(a) }, false},
	} {
		must(t, step.do())
		if _, err := os.Stat(node); (err == nil) != step.want {
			t.Errorf("step %d: the node exists: %v, want %v", i, err == nil, step.want)
		}
	}
	if _, err := os.Stat(filepath.Join(h.Sysfs(), "kernel/iommu_groups", filepath.Base(node))); err == nil {
		t.Errorf("the group is left behind")
	}
}

func TestNoIOMMUGroupExistsWhileBound(t *testing.T) {
	h := newHost(t, []Option{WithoutIOMMU()}, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	if exists(h.Path(vf0), "iommu_group") || exists(h.sys("class/iommu/dmar0")) {
		t.Error("a host without IOMMU has an IOMMU or a group")
	}
	must(t, h.Bind(vf0, "vfio-pci"))
	equal(t, "name of the group", "vfio-noiommu", read(filepath.Join(h.Path(vf0), "iommu_group/name")))
	must(t, h.Unbind(vf0))
	if exists(h.Path(vf0), "iommu_group") {
		t.Error("the group still exists after unbinding")
	}
}

func TestNewVFsAreBoundToTheirKernelDriver(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0, TotalVFs: 1})
	must(t, h.LoadDriver("4xxxvf"))
	must(t, h.SetVFs(pf0, 1))
	equal(t, "driver", "4xxxvf", linkOf(t, h.Path(vf0), "driver"))
	must(t, h.SetVFs(pf0, 0))
	must(t, h.SetAttr(pf0, "sriov_drivers_autoprobe", "0"))
	must(t, h.SetVFs(pf0, 1))
	equal(t, "driver with sriov_drivers_autoprobe 0", "", linkOf(t, h.Path(vf0), "driver"))
}

func TestStateDownRemovesVFsAndHeartbeat(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0, Services: "sym;asym"})
	must(t, h.SetVFs(pf0, 16))
	must(t, h.SetState(pf0, "down"))
	equal(t, "VFs", 0, len(h.VFs(pf0)))
	equal(t, "state", "down", read(filepath.Join(h.Path(pf0), "qat/state")))
	equal(t, "sriov_numvfs", "0", read(filepath.Join(h.Path(pf0), "sriov_numvfs")))
	heartbeat := h.sys("kernel/debug/qat_4xxx_"+pf0, "heartbeat")
	if exists(heartbeat) {
		t.Error("heartbeat/ exists while the PF is down")
	}
	must(t, h.SetService(pf0, "dc"))
	equal(t, "services", "dc", read(filepath.Join(h.Path(pf0), "qat/cfg_services")))
	must(t, h.SetState(pf0, "up"))
	equal(t, "heartbeat", "0", read(filepath.Join(heartbeat, "status")))
	must(t, h.SetHeartbeat(pf0, "-1"))
	equal(t, "heartbeat", "-1", read(filepath.Join(heartbeat, "status")))
}

func TestHoldDelaysRemovalAfterVFIODev(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	must(t, h.Bind(vf0, "vfio-pci"))
	release := h.Hold(vf0)
	gone := make(chan struct{})
	h.Uevents(func(m []byte) {
		if strings.HasPrefix(string(m), "remove@/devices/pci0000:6b/0000:6b:00.1/vfio-dev/vfio0\x00") {
			close(gone)
		}
	})
	done := make(chan error, 1)
	go func() { done <- h.SetVFs(pf0, 0) }()
	wait(t, gone, "uevent of vfio-dev")
	equal(t, "node while held", true, exists(h.dev("vfio/1")))
	release()
	release() // has no effect
	must(t, wait(t, done, "removal"))
	equal(t, "node after release", false, exists(h.dev("vfio/1")))
}

func wait[V any](t *testing.T, c <-chan V, what string) V {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s within 10 s", what)
		panic("unreachable")
	}
}
